"""Keeps what a server serves in step with its folders of models."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from cutaway_server.errors import ShuttingDown
from cutaway_server.models.model import Model, NotServable, printable
from cutaway_server.models.repository.folders import Folder, ModelFolder, problem_of, scan
from cutaway_server.models.repository.load import Hardware, Permissions, load, manifest_of
from cutaway_server.models.repository.manifest import Serving
from cutaway_server.models.threads import give_way, use_cpu_threads
from cutaway_server.process.host import Host, Slot
from cutaway_server.process.trial import Trial
from cutaway_server.rpc.served import Listed, State

log = structlog.get_logger()


class ModelFolders:
    """Loads what lies in folders into a host, and follows what changes there.

    Args:
        lazy: whether models are loaded when they are first asked for.
        load_seconds: that one model may take to load and run when it is tried, and to be loaded after that.
        lane_threads: CPU threads with which the layers are timed.
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
    ) -> None:
        self._host = host
        self._roots = roots
        self._permissions = permissions
        self._hardware = hardware
        self._lazy = lazy
        self._load_seconds = load_seconds
        self._lane_threads = lane_threads
        self._passed: set[Folder] = set()
        self._known_broken: set[tuple[str, str, str]] = set()
        self._trial = Trial(permissions, load_seconds)
        self._looking = False
        self._closed: Future[None] = Future()
        self._asked: dict[bool, Future[None]] = {}
        self._asking = threading.Lock()

    def sync(self, *, retry: bool) -> "Future[None]":
        """Has the host look at the folders and do what follows from them. Whoever asks before it begins gets the same look.

        Args:
            retry: whether what failed is tried again though nothing changed.
        """
        with self._asking:
            if retry not in self._asked:
                self._asked[retry] = self._host.submit(partial(self._sync, retry))
            return self._asked[retry]

    def close(self) -> None:
        """Gives up what is tried or loaded now. Nothing else begins."""
        self._closed.set_result(None)
        self._trial.close()

    def _sync(self, retry: bool) -> None:
        with self._asking:
            self._asked.pop(retry, None)
        try:
            models, broken = scan(self._roots)
        except OSError as error:
            log.error("the folders of models cannot be read; what serves goes on", reason=str(error))
            return
        self._looking = True
        try:
            self._expect(models)
            wanted = {key for model in models for key in self._sync_model(model, retry)}
        finally:
            self._looking = False
            self._trial.end()
        self._tell_of(broken)
        defaults = {model.name: str(model.wanted.default) for model in models if model.wanted.default}
        self._host.tell(
            [
                Listed(printable(folder.name[:100]), printable(folder.version[:100]), State.FAILED, folder.problem)
                for folder in broken
            ],
            defaults,
        )
        wanted |= self._unreadable(models, broken)
        for slot in self._host.slots():
            if (slot.name, slot.version) not in wanted:
                self._host.remove(slot)

    def _expect(self, models: list[ModelFolder]) -> None:
        """Calls for a model that is new wait until its turn has come."""
        known = {slot.name for slot in self._host.slots()}
        for model in models:
            if model.name not in known:
                for folder in model.candidates()[: model.count]:
                    self._host.expect(self._new(folder))

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
            if slot.folder != folder or (retry and slot.reason and slot.state is not State.PARKED):
                able = self._bring(slot, folder)
            else:
                able = slot.state is not State.FAILED
            good += able and good < model.count
            stay.add(key)
        return stay

    def _new(self, folder: Folder) -> Slot:
        return Slot(folder.name, folder.version, partial(self._load, folder))

    def _bring(self, slot: Slot, folder: Folder) -> bool:
        """Whether what the folder holds can be served, as far as is known."""
        slot.load = partial(self._load, folder)
        slot.bytes, slot.folder = (slot.bytes if slot.current else folder.bytes), folder
        try:
            lazy = manifest_of(folder.path).serving.lazy
        except Exception as error:  # whatever it is, the other models are looked at
            log.error("the model was not loaded", model=slot.name, version=slot.version, reason=problem_of(error))
            self._host.fail(slot, problem_of(error))
            return False
        in_memory = any(other.current for other in self._host.slots() if other.name == slot.name)
        if (self._lazy if lazy is None else lazy) and not in_memory:
            self._host.park(slot, "it is loaded when it is first asked for")
            return True
        return self._host.load(slot)

    def _load(self, folder: Folder) -> tuple[Model, Serving]:
        try:
            if folder not in self._passed:
                self._trial.check(folder)
                self._passed.add(folder)
            serving = manifest_of(folder.path).serving
            return self._in_time(
                partial(load, folder.path, folder.name, folder.version, self._permissions, self._hardware)
            ), serving
        except NotServable:
            if not self._looking:  # a call asked for it: another version may take its place
                self.sync(retry=False)
            raise
        finally:
            if not self._looking:
                self._trial.end()

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
