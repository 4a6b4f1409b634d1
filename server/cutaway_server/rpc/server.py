"""The gRPC server: our services, health and reflection on one port."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cutaway_server.models.threads import use_cpu_threads
from cutaway_server.rpc.admin import ADMIN_SERVICE, AdminService
from cutaway_server.rpc.calls import Calls
from cutaway_server.rpc.engine_method import EngineMethod, ordinary_handler
from cutaway_server.rpc.fast_path import FastPath
from cutaway_server.rpc.inference import SERVICE, InferenceService
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.service import OPEN_INFERENCE, OpenInferenceService
from cutaway_server.rpc.served import Models

_END_SECONDS = 5  # that cancelled calls have to end
_MANAGEMENT_THREADS = 16  # for ListModels, GetModel, health and reflection beside predictions that wait
_RECEIVED = 512  # calls on the serving thread before what came runs, at least
_PENDING = 10_000  # calls that gRPC may hold before we have seen them


def call_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Threads that decode and encode. PyTorch takes no further threads for that."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=use_cpu_threads, initargs=(1,))


class AddressInUse(OSError):
    """The address to listen on cannot be had."""


class RpcServer:
    """Serves on one address. NOT_SERVING until `ready`.

    Args:
        admin: None where it is off.
        address: HOST:PORT; port 0 takes a free one.
        waiting: how many unary calls may wait at the same time for a prediction or an introspection: each holds a thread.
    Raises:
        AddressInUse: another process listens there, or the host is not this machine's.
    """

    def __init__(
        self,
        service: InferenceService,
        open_inference: OpenInferenceService,
        admin: AdminService | None,
        address: str,
        *,
        limits: Limits,
        waiting: int,
        with_reflection: bool,
    ) -> None:
        self._pool = call_threads(waiting + _MANAGEMENT_THREADS, "call")
        self._server = grpc.server(
            self._pool,
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", limits.message_bytes),
                # Else gRPC cancels some of more than 1,000 that come together; we tell them what the matter is.
                ("grpc.server.max_pending_requests", _PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _PENDING),
                ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a silent half of the calls
            ],
        )
        self._open_inference = open_inference
        self._server.add_generic_rpc_handlers((service.handler(), open_inference.handler(), *((admin.handler(),) if admin else ())))
        self._health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            own = (SERVICE, OPEN_INFERENCE, *((ADMIN_SERVICE,) if admin else ()))
            names = (*own, health.SERVICE_NAME, reflection.SERVICE_NAME)
            pools: Any = _Pools(Default(), messages.DESCRIPTOR.pool)
            reflection.enable_server_reflection(names, self._server, pool=pools)
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        host = address.rpartition(":")[0]
        try:
            self.address = f"{host}:{self._server.add_insecure_port(address)}"
        except RuntimeError as error:
            raise AddressInUse(f"cannot listen on {address}: it is taken, or not an address of this machine") from error

    def answer(self, methods: Sequence[EngineMethod], models: Models, calls: Calls, *, fast_path: bool, max_waiting: int) -> None:
        """Serves methods that one run of an engine answers, too. Before it starts.

        Args:
            fast_path: whether they are answered on the serving thread.
            max_waiting: predictions of one model that may wait.
        """
        if fast_path:
            FastPath(methods, models, calls, self._pool, max(_RECEIVED, 2 * max_waiting)).attach(self._server)
        else:
            self._server.add_generic_rpc_handlers((_Handlers({one.path: ordinary_handler(one, models, calls) for one in methods}),))

    def start(self) -> None:
        """Takes calls from now on; health says NOT_SERVING."""
        self._server.start()

    def ready(self, ready: bool) -> None:
        """Health says SERVING from now on, or NOT_SERVING."""
        status = health_pb2.HealthCheckResponse
        self._open_inference.is_ready = ready
        self._set_health(status.SERVING if ready else status.NOT_SERVING)

    def drain(self, seconds: float) -> None:
        """Health goes NOT_SERVING, new calls are refused, running ones finish within so many seconds or are cancelled."""
        self._health.enter_graceful_shutdown()
        self._open_inference.is_ready = False
        self._open_inference.close()
        stopped = self._server.stop(seconds)
        self._health.end_watches()
        ended = stopped.wait(seconds + _END_SECONDS)
        self._pool.shutdown(wait=ended)

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for name in ("", SERVICE, OPEN_INFERENCE):
            self._health.set(name, status)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Methods by their paths."""

    def __init__(self, by_path: "dict[str, grpc.RpcMethodHandler[bytes, bytes]]") -> None:
        self._by_path = by_path

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """What handles a call; None where that is for others to say."""
        return self._by_path.get(details.method)


class _Health(health.HealthServicer):
    """Health whose watches can be ended: one that stays open would make every drain take all of its time."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=True)
        self._watches: set[Callable[[object], None]] = set()

    def Watch(self, request: Any, context: Any, send_response_callback: Callable[[object], None] | None = None) -> Any:  # noqa: N802
        """As its parent's."""
        assert send_response_callback is not None  # grpc.server gives it to a handler that does not block
        self._watches.add(send_response_callback)
        context.add_callback(lambda: self._watches.discard(send_response_callback))
        return super().Watch(request, context, send_response_callback)

    def end_watches(self) -> None:
        """Ends each with OK, after what it was told last."""
        for send in list(self._watches):
            send(None)


class _Pools:
    """Descriptor pools as one, for reflection: a name is looked up in each until it is found."""

    def __init__(self, *pools: DescriptorPool) -> None:
        self._pools = pools

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def look_up(*arguments: Any) -> Any:
            for pool in self._pools[:-1]:
                with suppress(KeyError):
                    return getattr(pool, method)(*arguments)
            return getattr(self._pools[-1], method)(*arguments)

        return look_up
