"""Keeps what a server serves in step with its folders of models."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

import structlog

from cutaway_server.errors import ShuttingDown
from cutaway_server.models.device import pick_device
from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.model import Model, NotServable, printable
from cutaway_server.models.repository.folders import Folder, ModelFolder, problem_of, scan
from cutaway_server.models.repository.load import Hardware, Permissions, load, manifest_of
from cutaway_server.models.repository.manifest import Manifest, Serving
from cutaway_server.models.threads import give_way, use_cpu_threads
from cutaway_server.prediction.engines.choosing import choose_recorded, only_eager, why_only_eager
from cutaway_server.prediction.engines.cuda_graphs import CudaGraphs
from cutaway_server.prediction.engines.opening import is_whole
from cutaway_server.process.host import Host
from cutaway_server.process.slot import Slot
from cutaway_server.process.trial import Trial
from cutaway_server.process.worker import Worker
from cutaway_server.rpc.served import Listed, State

log = structlog.get_logger()


class ModelFolders:
    """Loads what lies in folders into a host, and follows what changes there.

    A thread of its own looks at them and tries what is new; what hangs there holds up nothing but the look. What a call asks for
    before its turn has come is tried by a second thread.

    Args:
        able: told each time that a model may have become able to answer.
        lazy: whether models are loaded when they are first asked for.
        load_seconds: that one model may take to load and run when it is tried, and to be loaded after that.
        lane_threads: CPU threads with which the layers are timed.
        engine: that runs Predict where a model does not say.
        cache: folder of what engines run.
        trial: the process for the first trials, where it was started already.
    """

    def __init__(
        self,
        host: Host,
        roots: Sequence[Path],
        *,
        able: Callable[[], object],
        permissions: Permissions,
        hardware: Hardware,
        lazy: bool,
        load_seconds: float,
        lane_threads: int,
        engine: str,
        cache: Path,
        trial: "Popen[bytes] | None" = None,
    ) -> None:
        self._host = host
        self._roots = roots
        self._able = able
        self._permissions = permissions
        self._hardware = hardware
        self._lazy = lazy
        self._load_seconds = load_seconds
        self._lane_threads = lane_threads
        self._engine = engine
        self._cache = cache
        self._known_broken: set[tuple[str, str, str]] = set()
        self._looker, self._trial = Worker("look"), Trial(permissions, load_seconds, trial)
        self._asked, self._asked_trial = Worker("asked"), Trial(permissions, load_seconds)
        self._closed: Future[None] = Future()
        self._looks: dict[bool, Future[None]] = {}
        self._asking = threading.Lock()

    def sync(self, *, retry: bool) -> "Future[None]":
        """Has the folders looked at, and what follows from them done. Whoever asks before it begins gets the same look.

        Args:
            retry: whether what failed is tried again though nothing changed.
        """
        with self._asking:
            if retry not in self._looks:
                self._looks[retry] = self._looker.submit(partial(self._sync, retry))
            return self._looks[retry]

    def close(self) -> None:
        """Gives up what is tried or loaded now. Nothing else begins."""
        self._closed.set_result(None)
        for worker, trial in ((self._looker, self._trial), (self._asked, self._asked_trial)):
            worker.stop()
            trial.close()

    # On the thread that looks

    def _sync(self, retry: bool) -> None:
        with self._asking:
            self._looks.pop(retry, None)
        try:
            try:
                found = scan(self._roots)
            except OSError as error:
                log.error("the folders of models cannot be read; what serves goes on", reason=str(error))
            else:
                self._follow(*found, retry)
        except ShuttingDown:
            raise
        except Exception as error:
            self._give_up(error)
            raise
        finally:
            self._trial.end()

    def _give_up(self, error: Exception) -> None:
        """What the look did not get through says why, and is tried again by the next one."""
        for slot in self._host.slots():
            if slot.try_now or not slot.folder:
                slot.folder = None
                self._on_host(partial(self._host.fail, slot, error))

    def _follow(self, models: list[ModelFolder], broken: list[Folder], retry: bool) -> None:
        self._expect(models)
        wanted = {key for model in models for key in self._sync_model(model, retry)}
        self._tell_of(broken)
        listed = [
            Listed(printable(folder.name[:100]), printable(folder.version[:100]), State.FAILED, folder.problem) for folder in broken
        ]
        defaults = {model.name: str(model.wanted.default) for model in models if model.wanted.default}
        self._on_host(partial(self._host.tell, listed, defaults))
        wanted |= self._unreadable(models, broken)
        for slot in self._host.slots():
            if (slot.name, slot.version) not in wanted:
                self._on_host(partial(self._host.remove, slot))

    def _on_host(self, task: Callable[[], object]) -> None:
        self._host.submit(task).result()

    def _expect(self, models: list[ModelFolder]) -> None:
        """Calls for a model that is new wait for it, though not until its turn has come."""
        known = {slot.name for slot in self._host.slots()}
        for model in models:
            if model.name not in known:
                for folder in model.candidates()[: model.count]:
                    slot = self._new(folder)
                    slot.folder = folder
                    self._host.expect(slot, partial(self._asked.submit, partial(self._bring_asked, slot, folder)))

    def _unreadable(self, models: list[ModelFolder], broken: list[Folder]) -> set[tuple[str, str]]:
        """What goes on serving though its folder, which is still there, is none for a model now."""
        read = {model.name for model in models}
        there = {(folder.name, folder.version) for folder in broken if os.path.lexists(folder.path)}
        return {
            (slot.name, slot.version)
            for slot in self._host.slots()
            if (slot.name, slot.version) in there or ((slot.name, "") in there and slot.name not in read)
        }

    def _sync_model(self, model: ModelFolder, retry: bool) -> set[tuple[str, str]]:
        """The versions that are to stay: from the highest down until as many as are wanted can be served, and the default one."""
        slots = {(slot.name, slot.version): slot for slot in self._host.slots()}
        stay: set[tuple[str, str]] = set()
        good = 0
        for folder in model.candidates():
            if good == model.count and folder.version != str(model.wanted.default):
                continue
            key = (folder.name, folder.version)
            slot = slots.get(key) or self._new(folder)
            if slot.folder != folder or slot.try_now or (retry and slot.reason and slot.state is not State.PARKED):
                self._bring(slot, folder)
            good += slot.state is not State.FAILED and good < model.count
            stay.add(key)
        return stay

    def _new(self, folder: Folder) -> Slot:
        return Slot(folder.name, folder.version, partial(self._load, folder, ""))

    def _bring(self, slot: Slot, folder: Folder) -> None:
        """Has what the folder holds tried, and then loaded, or kept until a call asks for it."""
        self._host.expect(slot)
        slot.folder = None  # until it is through
        if serving := self._passes(slot, folder, self._trial):
            lazy = self._lazy if serving.lazy is None else serving.lazy
            if lazy and not any(other.current for other in self._host.slots() if other.name == slot.name):
                self._on_host(partial(self._host.park, slot, "it is loaded when it is first asked for"))
            else:
                self._on_host(partial(self._host.load, slot))
        slot.folder = None if slot.current and slot.no_room else folder  # what lacks memory is brought again at the next look
        self._able()

    # On both threads that try

    def _passes(self, slot: Slot, folder: Folder, trial: Trial) -> Serving | None:
        """How what a folder holds is to be served; None where it cannot, for which the place says why."""
        try:
            manifest = manifest_of(folder.path)
            if slot.passed != folder:
                slot.bytes = trial.check(folder)
                slot.load = partial(self._load, folder, self._find_engine(folder, manifest, trial))
                slot.passed = folder
            self._host.check_budget(slot.bytes)
        except ShuttingDown:
            raise
        except Exception as error:
            why = error if isinstance(error, NotServable) else NotServable(problem_of(error))
            self._on_host(partial(self._host.fail, slot, why))
            return None
        return manifest.serving

    def _find_engine(self, folder: Folder, manifest: Manifest, trial: Trial) -> EngineChoice | str:
        """The engine that the trial finds for what just passed there, or why it finds none.

        Raises:
            NotServable: the engine that is wanted by name cannot run it.
        """
        serving = manifest.serving
        wanted, threads = serving.engine or self._engine, serving.threads or self._hardware.threads
        device = pick_device("cpu" if manifest.network.onnx else serving.device or self._hardware.device)
        if wanted in ("eager", CudaGraphs.name) or device.type != "cpu" or serving.autocast:
            return ""
        try:
            return trial.choose_engine(folder, wanted, threads, self._cache)
        except NotServable as error:
            if wanted != "auto":
                raise
            return str(error)

    # On the thread for calls

    def _bring_asked(self, slot: Slot, folder: Folder) -> None:
        """What a call asked for before its turn came. Where it fails another version may take its place."""
        try:
            if self._passes(slot, folder, self._asked_trial):
                self._on_host(partial(self._host.load_asked, slot))
            else:
                self.sync(retry=False)
        finally:
            self._asked_trial.end()
        self._able()

    # On the host's

    def _load(self, folder: Folder, found: EngineChoice | str) -> tuple[Model, Serving]:
        try:
            serving = manifest_of(folder.path).serving
            model = self._in_time(partial(load, folder.path, folder.name, folder.version, self._permissions, self._hardware))
            return replace(model, engine=self._choose_engine(model, serving, found)), serving
        except Exception:
            self.sync(retry=False)  # another version may take its place
            raise

    def _choose_engine(self, model: Model, serving: Serving, found: EngineChoice | str) -> EngineChoice:
        """The engine that the trial found, unless its file is gone since."""
        wanted = serving.engine or self._engine
        if wanted == CudaGraphs.name:
            return choose_recorded(model)
        if why := why_only_eager(model.device, model.autocast):
            return only_eager(model.engine, wanted, why)
        if wanted in ("eager", model.engine.name):
            return model.engine
        if isinstance(found, str):
            return only_eager(model.engine, wanted, found)
        return found if is_whole(found) else only_eager(model.engine, wanted, "the file that was made for it is gone since")

    def _in_time(self, work: Callable[[], Model]) -> Model:
        """What the work gives, in a thread of its own that gives way to calls. One that takes too long is left behind."""
        done: Future[Model] = Future()

        def run() -> None:
            give_way()
            use_cpu_threads(self._lane_threads)
            try:
                done.set_result(work())
            except BaseException as error:  # SystemExit, too: a model's own doing
                done.set_exception(
                    error if isinstance(error, Exception) else NotServable(f"loading it raises {type(error).__name__}")
                )

        threading.Thread(target=run, name="load", daemon=True).start()
        either: list[Future[Any]] = [done, self._closed]
        wait(either, self._load_seconds, FIRST_COMPLETED)
        if done.done():
            return done.result()
        if self._closed.done():
            raise ShuttingDown
        raise NotServable(
            f"it passed its trial, but the server could not load it within {self._load_seconds:g} s, which is the limit "
            "(--load-timeout); a thread of it is left behind"
        )

    def _tell_of(self, broken: list[Folder]) -> None:
        """Once each, not at every look."""
        found = {(folder.name, folder.version, folder.problem) for folder in broken}
        for name, version, problem in sorted(found - self._known_broken):
            log.error("the folder is no model", model=name, version=version, reason=problem)
        self._known_broken = found
