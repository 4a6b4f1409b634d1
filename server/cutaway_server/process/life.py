"""The life of a server: put together, started, drained, ended."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import start_http_server

from cutaway_server.errors import DeadlinePassed, NetworkFailed, OutOfMemory
from cutaway_server.introspection.lanes import Lanes
from cutaway_server.metrics import Metrics
from cutaway_server.models.arrays import to_array
from cutaway_server.models.model import Model, NotServable
from cutaway_server.models.repository.load import Hardware, Permissions
from cutaway_server.models.repository.manifest import Serving
from cutaway_server.prediction.batch_size import best_batch
from cutaway_server.prediction.batcher import AwaitedPrediction, Batcher
from cutaway_server.prediction.engines.choosing import choose_in_process
from cutaway_server.prediction.engines.opening import open_engine
from cutaway_server.process.folders import ModelFolders
from cutaway_server.process.gauges import gauge_models
from cutaway_server.process.host import Host
from cutaway_server.process.settings import Settings, split_address
from cutaway_server.rpc import serving_thread
from cutaway_server.rpc.admin import AdminService
from cutaway_server.rpc.calls import Calls
from cutaway_server.rpc.inference import InferenceService
from cutaway_server.rpc.introspections import Introspections
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference.infer import Inferences
from cutaway_server.rpc.open_inference.model_infer import ModelInfer
from cutaway_server.rpc.open_inference.service import OpenInferenceService
from cutaway_server.rpc.open_inference.streams import MAX_STREAMS
from cutaway_server.rpc.predict import Predict
from cutaway_server.rpc.served import Listed, Served, State
from cutaway_server.rpc.server import AddressInUse, RpcServer, call_threads
from cutaway_server.rpc.stall_watch import StallWatch

log = structlog.get_logger()
_MIB = 1 << 20
_EXPECTED_MODELS = 4  # that threads are reckoned for where the number of models may change


class Server:
    """A server of some models. A context manager: it serves inside the block and drains at its end.

    Args:
        models: handed in; more come from the folders that the settings name.
        trial: the process that tries what lies in folders, where it was started already.
    Attributes:
        address: of gRPC, HOST:PORT with the port that was taken.
        metrics_address: of the Prometheus metrics, likewise.
    """

    def __init__(self, models: Sequence[Model], settings: Settings, trial: "Popen[bytes] | None" = None) -> None:
        self._models = models
        self._trial = trial
        self._settings = settings
        self._ending = ExitStack()
        self._folders: ModelFolders | None = None
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

    def all(self) -> list[Listed]:
        """The models as they stand."""
        return self._host.all()

    def reload(self) -> "Future[None]":
        """Looks at the folders of models again, and tries again what failed. Done when the future is; at once without folders."""
        if self._folders is None:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        return self._told(self._folders.sync(retry=True))

    def _start(self) -> None:
        """Everything that starts registers its end; the ends run in reverse."""
        settings, metrics = self._settings, Metrics()
        self._metrics = metrics
        self._host = host = Host(
            self._open,
            metrics,
            budget_bytes=settings.model_memory_mib * _MIB,
            drain_seconds=settings.drain,
            max_waiting=settings.max_waiting,
        )
        self._ending.callback(host.close)
        for model in self._models:
            host.adopt(choose_in_process(model, settings.engine, settings.threads))
        gauge_models(metrics, host)
        limits = _limits(settings)
        watch = StallWatch(settings.stall_timeout)
        self._ending.callback(watch.close)
        expected = max(len(self._models), _EXPECTED_MODELS if settings.models else 1)
        # Each model's running and waiting calls hold a thread each; the others are for calls that are refused.
        pool = call_threads(expected * (settings.lanes + settings.max_waiting_introspections) + 16, "introspect")
        self._ending.callback(pool.shutdown)
        calls = Calls(metrics, host, call_seconds=settings.call_timeout, log_success=settings.log_requests)
        introspections = Introspections(host, limits=limits, watch=watch, metrics=metrics)
        service = InferenceService(
            host, limits=limits, calls=calls, introspections=introspections, introspect_pool=pool, metrics=metrics
        )
        streams = call_threads(MAX_STREAMS + 16, "stream")
        self._ending.callback(streams.shutdown)
        inferences = Inferences(host, limits=limits, calls=calls, introspections=introspections, watch=watch)
        open_inference = OpenInferenceService(
            host,
            inferences=inferences,
            limits=limits,
            calls=calls,
            metrics=metrics,
            stream_pool=streams,
            reload=self._reload_all if settings.admin else None,
        )
        self._rpc = rpc = RpcServer(
            service,
            open_inference,
            AdminService(host, calls, self._reload_all) if settings.admin else None,
            settings.listen,
            limits=limits,
            waiting=expected * (settings.max_waiting + settings.lanes + settings.max_waiting_introspections),
            with_reflection=settings.reflection,
        )
        methods = [Predict(limits), ModelInfer(limits, inferences)]
        rpc.answer(methods, host, calls, fast_path=self._fast_path(), max_waiting=settings.max_waiting)
        self.metrics_address = self._serve_metrics(metrics)
        rpc.start()
        self._ending.callback(rpc.drain, settings.drain)
        self.address = rpc.address
        if settings.models:
            self._open_folders()
        else:
            rpc.ready(True)

    def _fast_path(self) -> bool:
        """Whether it is wanted, and works with this grpcio."""
        problem = serving_thread.check() if self._settings.fast_path == "auto" else "off"
        if problem not in ("", "off"):
            log.warning(
                "Predict is answered by ordinary handlers: this grpcio does not let us answer on its serving thread", reason=problem
            )
        self._metrics.fast_path.set(not problem)
        return not problem

    def _open_folders(self) -> None:
        settings = self._settings
        self._folders = folders = ModelFolders(
            self._host,
            settings.models,
            able=self._able,
            permissions=Permissions(settings.allow_code, settings.allow_factory),
            hardware=Hardware(settings.device, settings.threads),
            lazy=settings.lazy,
            load_seconds=settings.load_timeout,
            lane_threads=settings.lane_threads,
            engine=settings.engine,
            cache=self._engine_cache(),
            trial=self._trial,
        )
        if settings.poll:
            stopped = threading.Event()
            poller = threading.Thread(target=self._poll, args=(stopped,), name="poll", daemon=True)
            poller.start()
            self._ending.callback(poller.join)
            self._ending.callback(stopped.set)
        self._ending.callback(folders.close)
        self._ending.callback(self._host.stop)

    def _engine_cache(self) -> Path:
        """The folder that is set, or one that is gone when the server ends."""
        return Path(self._settings.engine_cache or self._ending.enter_context(TemporaryDirectory(prefix="cutaway-engines-")))

    def _poll(self, stopped: threading.Event) -> None:
        assert self._folders is not None
        synced: Future[None] | None = None
        while not stopped.wait(self._settings.poll):
            if synced is None or synced.done():
                synced = self._told(self._folders.sync(retry=False))

    def _able(self) -> None:
        """Health follows: a server is ready as soon as it can answer for one model."""
        if any(one.state in (State.READY, State.PARKED) for one in self.all()):
            self._rpc.ready(True)

    def _told(self, synced: "Future[None]") -> "Future[None]":
        """A server that can answer for none is not ready any more. What loads now, a call asked for."""
        synced.add_done_callback(lambda _: self._rpc.ready(any(one.state is not State.FAILED for one in self.all())))
        return synced

    def _reload_all(self, seconds: float) -> bool:
        """For the admin: whether there are folders. Waits until all is done."""
        if self._folders is None:
            return False
        self.reload().result(seconds)
        return True

    def _open(self, model: Model, serving: Serving) -> Served:
        """What answers for a model, warm."""
        own = self._settings.model_copy(update=serving.model_dump(exclude_none=True, exclude={"device", "autocast", "lazy"}))
        _tell_of_engine(model)
        batcher = Batcher(
            model.name,
            open_engine(model),
            device=model.device,
            threads=own.threads,
            max_batch=own.max_batch,
            max_waiting=own.max_waiting,
            delay=own.batch_delay / 1000,
            alike=not any(spec.least for spec in model.inputs),
            metrics=self._metrics,
        )
        lanes = None
        try:
            if not model.not_introspectable:
                lanes = Lanes(
                    model,
                    count=own.lanes,
                    threads=own.lane_threads,
                    batch=own.lane_batch,
                    max_waiting=own.max_waiting_introspections,
                    metrics=self._metrics,
                )
            self._warm_up(model, batcher, own.max_batch)
        except BaseException:
            Served(model, batcher, lanes).close()
            raise
        return Served(model, batcher, lanes)

    def _warm_up(self, model: Model, batcher: Batcher, most: int) -> None:
        """Predictions on the thread that will make them, so that the first caller does not wait for its threads to start.

        Raises:
            NotServable: they fail, or take too long.
        """

        def run(samples: int) -> float:
            probe = tuple(to_array(argument.cpu()) for argument in model.probe(samples))
            warm = AwaitedPrediction(probe, time.monotonic() + self._settings.load_timeout, "warm-up")
            batcher.submit(warm)
            warm.result()
            return time.monotonic() - warm.arrived

        try:
            run(2)
            batcher.settle(*best_batch(run, most))
        except DeadlinePassed as error:
            limit = f"{self._settings.load_timeout:g} s, which is the limit (--load-timeout)"
            raise NotServable(f"it passed its trial, but did not answer its first prediction within {limit}") from error
        except (NetworkFailed, OutOfMemory) as error:
            raise NotServable(f"its first prediction fails: {error}") from error

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


def _tell_of_engine(model: Model) -> None:
    """Why a model runs eager although another engine was looked for."""
    engine, about = model.engine, {"model": model.name, "version": model.version}
    if engine.rejected and not engine.file:
        log.warning(f"Predict runs {engine.name}", reasons=dict(engine.rejected), **about)


def _limits(settings: Settings) -> Limits:
    """What one call may ask for."""
    return Limits(
        message_bytes=settings.max_message_mib * _MIB,
        pixels=settings.max_pixels,
        input_bytes=settings.max_input_mib * _MIB,
        call_seconds=settings.call_timeout,
        stall_seconds=settings.stall_timeout,
        passes=settings.max_passes,
        buffer_bytes=settings.stream_buffer_mib * _MIB,
        all_buffers_bytes=settings.max_buffer_mib * _MIB,
    )
