"""The life of a server: put together, started, drained, ended."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from prometheus_client import start_http_server

from cutaway_server.introspection.lanes import Lanes
from cutaway_server.metrics import Metrics
from cutaway_server.models.model import Model
from cutaway_server.models.repository import Repository
from cutaway_server.prediction.batcher import Batcher
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.process.settings import Settings, split_address
from cutaway_server.rpc.calls import Calls
from cutaway_server.rpc.inference import InferenceService
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.server import AddressInUse, RpcServer, call_threads
from cutaway_server.rpc.stall_watch import StallWatch

_MIB = 1 << 20


class Server:
    """A server of some models. A context manager: it serves inside the block and drains at its end.

    Attributes:
        address: of gRPC, HOST:PORT with the port that was taken.
        metrics_address: of the Prometheus metrics, likewise.
    """

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        self._models = models
        self._settings = settings
        self._ending = ExitStack()
        self.address = self.metrics_address = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._ending.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.close()

    def _start(self) -> None:
        """Everything that starts registers its end; the ends run in reverse."""
        settings, metrics = self._settings, Metrics()
        repository = Repository(self._models)
        batchers = {(model.name, model.version): self._batcher(model, metrics) for model in repository}
        lanes = {(m.name, m.version): self._open_lanes(m, metrics) for m in repository if not m.not_introspectable}
        limits = _limits(settings, len(lanes) * settings.lanes)
        metrics.gauge_at_scrape(
            "cutaway_live_hooks",
            "Hooks on mirrors beyond their baseline, counted in the hook dicts at the time of the scrape: 0 when idle.",
            lambda: _live_hooks(lanes),
        )
        watch = StallWatch(settings.stall_timeout)
        self._ending.callback(watch.close)
        # Each model's running and waiting calls hold a thread each; the others are for calls that are refused.
        threads = max(1, len(lanes)) * (settings.lanes + settings.max_waiting_introspections) + 16
        pool = call_threads(threads, "introspect")
        self._ending.callback(pool.shutdown)
        service = InferenceService(
            repository,
            batchers=batchers,
            lanes=lanes,
            lanes_per_model=settings.lanes,
            limits=limits,
            calls=Calls(metrics, repository, call_seconds=settings.call_timeout, log_success=settings.log_requests),
            watch=watch,
            introspect_pool=pool,
            metrics=metrics,
        )
        rpc = RpcServer(
            service,
            settings.listen,
            limits=limits,
            waiting_predictions=settings.max_waiting * len(batchers),
            with_reflection=settings.reflection,
        )
        self.metrics_address = self._serve_metrics(metrics)
        rpc.start()
        self._ending.callback(rpc.drain, settings.drain)
        rpc.ready()
        self.address = rpc.address

    def _batcher(self, model: Model, metrics: Metrics) -> Batcher:
        settings = self._settings
        batcher = Batcher(
            model.name,
            Eager(model.network),
            threads=settings.threads,
            max_batch=settings.max_batch,
            max_waiting=settings.max_waiting,
            metrics=metrics,
        )
        self._ending.callback(batcher.close)
        return batcher

    def _open_lanes(self, model: Model, metrics: Metrics) -> Lanes:
        settings = self._settings
        lanes = Lanes(
            model,
            count=settings.lanes,
            threads=settings.lane_threads,
            batch=settings.lane_batch,
            max_waiting=settings.max_waiting_introspections,
            metrics=metrics,
        )
        self._ending.callback(lanes.close)
        return lanes

    def _serve_metrics(self, metrics: Metrics) -> str:
        host, port = split_address(self._settings.metrics)
        try:
            server, thread = start_http_server(port, host, metrics.registry)
        except OSError as error:
            raise AddressInUse(f"cannot serve metrics on {self._settings.metrics}: {error.strerror}") from error
        self._ending.callback(thread.join)
        self._ending.callback(server.server_close)
        self._ending.callback(server.shutdown)
        return f"{self._settings.metrics.rpartition(':')[0]}:{server.server_port}"


def _limits(settings: Settings, lanes: int) -> Limits:
    """What one call may ask for; `lanes` share the buffer of the whole server."""
    share = settings.max_buffer_mib * _MIB // max(1, lanes)
    return Limits(
        message_bytes=settings.max_message_mib * _MIB,
        pixels=settings.max_pixels,
        input_bytes=settings.max_input_mib * _MIB,
        call_seconds=settings.call_timeout,
        stall_seconds=settings.stall_timeout,
        passes=settings.max_passes,
        buffer_bytes=min(settings.stream_buffer_mib * _MIB, share),
    )


def _live_hooks(lanes: dict[tuple[str, str], Lanes]) -> Iterator[tuple[str, float]]:
    for (name, _), opened in lanes.items():
        yield name, opened.live_hooks()
