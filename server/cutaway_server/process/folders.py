"""Keeps what a server serves in step with its folders of models."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.model import Model, NotServable
from cutaway_server.models.repository.folders import Fingerprint, Folder, ModelFolder, scan
from cutaway_server.models.repository.load import Hardware, Permissions, load, manifest_of
from cutaway_server.models.repository.manifest import Serving
from cutaway_server.models.threads import give_way, use_cpu_threads
from cutaway_server.prediction.engines.choosing import only_eager, why_only_eager
from cutaway_server.prediction.engines.opening import is_whole
from cutaway_server.process.host import Host, Slot
from cutaway_server.process.trial import Trial
from cutaway_server.rpc.served import Listed, State

log = structlog.get_logger()


class ModelFolders:
    """Loads what lies in folders into a host, and follows what changes there.

    Args:
        lazy: whether models are loaded when they are first asked for.
        load_seconds: that one model may take to load and run when it is tried.
        lane_threads: CPU threads with which the layers are timed.
        engine: that runs Predict where a model does not say.
        cache: folder of what engines run.
    """

    def __init__(
        self,
        host: Host,
        roots: Sequence[Path],
        *,
        permissions: Permissions,
        hardware: Hardware,
        lazy: bool,
        load_seconds: float,
        lane_threads: int,
        engine: str,
        cache: Path,
    ) -> None:
        self._host = host
        self._roots = roots
        self._permissions = permissions
        self._hardware = hardware
        self._lazy = lazy
        self._engine = engine
        self._cache = cache
        self._passed: set[tuple[Path, Fingerprint]] = set()
        self._engines: dict[tuple[Path, Fingerprint], EngineChoice] = {}
        self._known_broken: set[tuple[str, str, str]] = set()
        self._trial = Trial(permissions, load_seconds)
        # A thread of its own, which gives way to calls; threads that it would start for them would inherit that.
        self._loading = ThreadPoolExecutor(1, "load", initializer=partial(_gently, lane_threads))

    def sync(self, *, retry: bool) -> "Future[None]":
        """Has the host look at the folders and do what follows from them.

        Args:
            retry: whether what failed is tried again though nothing changed.
        """
        return self._host.submit(partial(self._sync, retry))

    def close(self) -> None:
        """Ends a trial that runs. No other begins."""
        self._trial.end()
        self._loading.shutdown(cancel_futures=True)

    def _sync(self, retry: bool) -> None:
        try:
            models, broken = scan(self._roots)
        except OSError as error:
            log.error("the folders of models cannot be read; what serves goes on", reason=str(error))
            return
        wanted = {key for model in models for key in self._sync_model(model, retry)}
        self._trial.end()
        self._tell_of(broken)
        defaults = {model.name: str(model.wanted.default) for model in models if model.wanted.default}
        self._host.tell(
            [Listed(_clean(folder.name), _clean(folder.version), State.FAILED, folder.problem) for folder in broken], defaults
        )
        for slot in self._host.slots():
            if (slot.name, slot.version) not in wanted:
                self._host.remove(slot)

    def _sync_model(self, model: ModelFolder, retry: bool) -> set[tuple[str, str]]:
        """The versions that are to stay: from the highest down until as many as are wanted can be served."""
        slots = {(slot.name, slot.version): slot for slot in self._host.slots()}
        stay: set[tuple[str, str]] = set()
        good = 0
        for folder in model.candidates():
            if good == model.count:
                break
            key = (folder.name, folder.version)
            slot = slots.get(key)
            if slot is None or slot.fingerprint != folder.fingerprint or (retry and slot.reason and slot.state is not State.PARKED):
                good += self._bring(slot or self._new(folder), folder)
            else:
                good += slot.state is not State.FAILED
            stay.add(key)
        return stay

    def _new(self, folder: Folder) -> Slot:
        return Slot(folder.name, folder.version, partial(self._load, folder))

    def _bring(self, slot: Slot, folder: Folder) -> bool:
        """Whether what the folder holds can be served, as far as is known."""
        slot.load = partial(self._load, folder)
        slot.bytes, slot.fingerprint = (slot.bytes if slot.current else folder.bytes), folder.fingerprint
        try:
            lazy = manifest_of(folder.path).serving.lazy
        except (NotServable, OSError) as error:
            log.error("the model was not loaded", model=slot.name, version=slot.version, reason=str(error))
            self._host.fail(slot, str(error))
            return False
        if (self._lazy if lazy is None else lazy) and not slot.current:
            self._host.park(slot, "it is loaded when it is first asked for")
            return True
        return self._host.load(slot)

    def _load(self, folder: Folder) -> tuple[Model, Serving]:
        tried = (folder.path, folder.fingerprint)
        if tried not in self._passed:
            self._trial.check(folder)
            self._passed.add(tried)
        serving = manifest_of(folder.path).serving
        given = self._loading.submit(load, folder.path, folder.name, folder.version, self._permissions, self._hardware)
        model = given.result()
        return replace(model, engine=self._choose_engine(model, folder, serving)), serving

    def _choose_engine(self, model: Model, folder: Folder, serving: Serving) -> EngineChoice:
        """The engine that the trial found, when it was first asked: unless its file is gone since."""
        wanted, threads = serving.engine or self._engine, serving.threads or self._hardware.threads
        if why := why_only_eager(model.device, model.autocast):
            return only_eager(model.engine, wanted, why)
        if wanted in ("eager", model.engine.name):
            return model.engine
        tried = (folder.path, folder.fingerprint)
        choice = self._engines.get(tried)
        if choice is None or not is_whole(choice):
            choice = self._engines[tried] = self._try_engines(model, folder, wanted, threads)
        return choice

    def _try_engines(self, model: Model, folder: Folder, wanted: str, threads: int) -> EngineChoice:
        try:
            return self._trial.choose_engine(folder, wanted, threads, self._cache)
        except NotServable as error:
            if wanted != "auto":
                raise
            return only_eager(model.engine, wanted, str(error))

    def _tell_of(self, broken: list[Folder]) -> None:
        """Once each, not at every look."""
        found = {(folder.name, folder.version, folder.problem) for folder in broken}
        for name, version, problem in sorted(found - self._known_broken):
            log.error("the folder is no model", model=name, version=version, reason=problem)
        self._known_broken = found


def _gently(threads: int) -> None:
    give_way()
    use_cpu_threads(threads)


def _clean(name: str) -> str:
    """A name that any client can show."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:100].encode("utf-8", "replace").decode())
