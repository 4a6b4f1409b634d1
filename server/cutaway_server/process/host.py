"""The models of a server: in what state each is, who uses it, and the thread that loads and unloads them."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import structlog

from cutaway_server.errors import Busy, DeadlinePassed, NoRoom, NotReady, ShuttingDown, UnknownModel
from cutaway_server.metrics import Metrics
from cutaway_server.models.model import Model, NotServable, readable
from cutaway_server.models.repository.manifest import Serving
from cutaway_server.process.memory_budget import BudgetInUse, MemoryBudget
from cutaway_server.process.slot import InMemory, Slot
from cutaway_server.process.tuning import hand_back_freed_blocks
from cutaway_server.process.worker import Worker
from cutaway_server.rpc.served import Listed, Served, State

log = structlog.get_logger()
T = TypeVar("T")
_HOPE = {
    State.READY: 2,
    State.PARKED: 2,
    State.LOADING: 1,
    State.FAILED: 0,
}  # of an answer; of two alike the higher version gives it


class Host:
    """Holds the models. Calls use them from any thread; a thread of its own does what it is told, one thing after the other.

    Args:
        open_model: makes what answers for a model, warm.
        budget_bytes: that the weights of all models in memory may take together; 0 for no limit.
        drain_seconds: that calls have to finish with a model before it is closed.
        max_waiting: calls that may wait until a model is in memory: each holds a thread.
    """

    def __init__(
        self,
        open_model: Callable[[Model, Serving], Served],
        metrics: Metrics,
        *,
        budget_bytes: int,
        drain_seconds: float,
        max_waiting: int,
    ) -> None:
        self._open_model = open_model
        self._metrics = metrics
        self._budget = MemoryBudget(budget_bytes)
        self._drain = drain_seconds
        self._max_waiting = max_waiting
        self._slots: dict[tuple[str, str], Slot] = {}
        self._defaults: dict[str, str] = {}
        self._broken: list[Listed] = []
        self._answering: dict[tuple[str, str], Slot] = {}  # what calls found, by what they asked for, until something changes
        self._changed = threading.Condition()
        self._stopped = False
        self._worker = Worker("models")

    # For calls: `rpc.served.Models`

    def all(self) -> list[Listed]:
        """All models: by name, versions from the lowest up."""
        with self._changed:
            listed = [slot.listed() for slot in self._slots.values()] + self._broken
        return sorted(listed, key=lambda one: (one.name, len(one.version), one.version))

    def find(self, name: str, version: str) -> Listed:
        """One of them; the default version for an empty one.

        Raises:
            UnknownModel: names what there is.
        """
        with self._changed:
            slot = self._slot(name, version)
            return slot.listed() if isinstance(slot, Slot) else slot

    @contextmanager
    def use(self, name: str, version: str, deadline: float) -> Iterator[Served]:
        """One of them, for as long as the block lasts. Waits for one that is loading, and has a parked one loaded.

        Raises:
            UnknownModel, NotReady, NoRoom, Busy, DeadlinePassed, ShuttingDown.
        """
        held = self._hold(name, version, deadline)
        try:
            yield held.served
        finally:
            held.give_back()

    def take(self, name: str, version: str) -> InMemory | None:
        """What answers for one of them, if it is in memory; it stays until it is given back. Never waits.

        Raises:
            UnknownModel, NotReady, ShuttingDown.
        """
        with self._changed:
            slot = self._answering.get((name, version))
            if slot is None:
                slot = self._ready_slot(name, version)
                if slot.current:
                    self._answering[name, version] = slot
            return self._take(slot)

    def knows(self, name: str) -> bool:
        """Whether there is a model of this name."""
        with self._changed:
            return any(slot.name == name for slot in self._slots.values()) or any(one.name == name for one in self._broken)

    def unload(self, name: str, deadline: float) -> None:
        """Parks all versions of a model, each once the calls that use it are done, or have had their time to drain.

        Raises:
            UnknownModel, DeadlinePassed.
        """
        self.find(name, "")
        try:
            self.submit(lambda: self._unload(name)).result(max(0.0, deadline - time.monotonic()))
        except NotInTime as error:
            raise DeadlinePassed("while the model was unloaded, which goes on") from error

    def _hold(self, name: str, version: str, deadline: float) -> InMemory:
        waited = False
        with self._changed:
            while True:
                slot = self._ready_slot(name, version)
                if held := self._take(slot):
                    return held
                if self._stopped:
                    raise ShuttingDown
                if waited and slot.no_room:
                    raise NoRoom(slot.name, self._budget.limit, retry_after_s=1.0)
                if slot.state is State.PARKED or slot.try_now:
                    self._ask_for(slot)
                self._wait_for(slot, deadline)
                waited = True

    def _ask_for(self, slot: Slot) -> None:
        """Has it loaded, and tried before that where it was not yet."""
        slot.state, slot.reason, slot.no_room = State.LOADING, "", False
        try_now, slot.try_now = slot.try_now, None
        if try_now:
            try_now()
        else:
            self.submit(partial(self.load_asked, slot))

    def _wait_for(self, slot: Slot, deadline: float) -> None:
        """Until something changed."""
        if slot.last_used >= deadline:
            raise DeadlinePassed("while the model was loaded")
        if slot.waiting >= self._max_waiting:
            raise Busy("calls for a model that is being loaded", self._max_waiting, retry_after_s=1.0)
        slot.waiting += 1
        try:
            self._changed.wait(deadline - slot.last_used)
        finally:
            slot.waiting -= 1

    def _ready_slot(self, name: str, version: str) -> Slot:
        slot = self._slot(name, version)
        if not isinstance(slot, Slot) or slot.state is State.FAILED:
            raise NotReady(slot.name, slot.version, slot.reason)
        return slot

    def _take(self, slot: Slot) -> InMemory | None:
        slot.last_used = time.monotonic()
        if slot.current:
            slot.current.users += 1
        return slot.current

    def _slot(self, name: str, version: str) -> Slot | Listed:
        slots = [slot for slot in self._slots.values() if slot.name == name]
        broken = [one for one in self._broken if one.name == name]
        if not slots and not broken:
            raise UnknownModel(name[:100], "", sorted({slot.name for slot in self._slots.values()}))
        version = version or self._defaults.get(name, "")
        if version or not slots:
            places: list[Slot | Listed] = [*slots, *broken]
            for one in places:
                if one.version == version or not slots:
                    return one
            there = sorted((len(slot.version), slot.version) for slot in slots)
            raise UnknownModel(name, version[:100], [f"{name} version {one}" for _, one in there])
        return max(slots, key=lambda slot: (_HOPE[slot.state], len(slot.version), slot.version))

    # For whoever runs the server, from any thread

    def served(self) -> list[Served]:
        """What answers now."""
        with self._changed:
            return [slot.current.served for slot in self._slots.values() if slot.current]

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Has a task done by the host's own thread, on which the methods below may be called."""
        return self._worker.submit(task)

    def check_budget(self, needed: int) -> None:
        """Raises NotServable for a model whose weights take more bytes than all may."""
        self._budget.check(needed)

    def adopt(self, model: Model) -> None:
        """Serves a model that was made already, for as long as the host lives."""
        slot = Slot(model.name, model.version, lambda: (model, Serving()))
        self._put(slot, InMemory(self._open_model(model, Serving()), self._changed))
        hand_back_freed_blocks()

    def stop(self) -> None:
        """Loads nothing more. What is in memory serves on; calls that wait for the rest are refused."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._worker.stop()

    def close(self) -> None:
        """Ends the thread, unless what it does takes longer than calls have, and all models."""
        self.stop()
        self._worker.join(self._drain)
        for served in self.served():
            served.close()

    # For tasks, on the host's own thread

    def slots(self) -> list[Slot]:
        """All places."""
        return list(self._slots.values())

    def expect(self, slot: Slot, try_now: Callable[[], object] | None = None) -> None:
        """Makes a place known for what is tried or loaded now, or at its turn: calls wait for that where nothing answers yet.

        Args:
            try_now: where it has to wait for its turn, has it tried and loaded at once. Must not block.
        """
        with self._changed:
            self._slots.setdefault((slot.name, slot.version), slot)
            slot.try_now = try_now
            if not slot.current:
                slot.state, slot.reason = State.LOADING, ""
            self._tell_all()

    def load(self, slot: Slot) -> None:
        """Loads what belongs in a place. What was there serves until that is ready, and goes on where it fails.

        Raises:
            ShuttingDown.
        """
        try:
            self._load(slot)
        finally:
            hand_back_freed_blocks()

    def _load(self, slot: Slot) -> None:
        began = time.monotonic()
        self.expect(slot)
        slot.no_room = False
        try:
            self._make_room(slot)
            model, serving = slot.load()
            hand_back_freed_blocks()  # the warm-up takes its own
            loaded = InMemory(self._open_model(model, serving), self._changed)
        except BudgetInUse as error:
            self._wait_for_room(slot, str(error))
            return
        except ShuttingDown:
            raise
        except Exception as error:
            self.fail(slot, error)
            return
        old = self._put(slot, loaded)
        seconds = time.monotonic() - began
        self._metrics.load_seconds.labels(slot.name).observe(seconds)
        log.info(
            "the model is ready",
            model=slot.name,
            version=slot.version,
            seconds=round(seconds, 3),
            weights_digest=model.weights_digest,
            file_digest=model.file_digest,
            device=str(model.device),
        )
        self._retire(old)

    def load_asked(self, slot: Slot) -> None:
        """As `load`, for a call that asked, unless the folder is gone meanwhile, or another call had it loaded."""
        if self._slots.get((slot.name, slot.version)) is slot and not slot.current:
            self.load(slot)

    def fail(self, slot: Slot, error: Exception) -> None:
        """What belongs in a place cannot be loaded. Callers read why where it is NotServable; else the log has the cause."""
        ours = not isinstance(error, NotServable)
        reason = "the server failed at it; its log has the cause" if ours else readable(str(error))
        log.error(
            "the model was not loaded",
            model=slot.name,
            version=slot.version,
            reason=reason,
            cause=_cause(error),
            exc_info=error if ours else None,
        )
        with self._changed:
            self._slots.setdefault((slot.name, slot.version), slot)
            slot.try_now = None
            slot.state = State.READY if slot.current else State.FAILED
            slot.reason = _serves_on(reason) if slot.current else reason
            self._tell_all()

    def park(self, slot: Slot, reason: str) -> None:
        """Keeps a place empty until a call asks for it."""
        with self._changed:
            self._slots.setdefault((slot.name, slot.version), slot)
            self._park(slot, reason)

    def remove(self, slot: Slot) -> None:
        """Unloads a model for good, once the calls that use it are done."""
        with self._changed:
            self._slots.pop((slot.name, slot.version), None)
            current, slot.current = slot.current, None
            self._tell_all()
        if current:
            self._retire(current)
            del current  # all that it held is free now
            hand_back_freed_blocks()
            log.info("the model was unloaded", model=slot.name, version=slot.version)

    def tell(self, broken: list[Listed], defaults: dict[str, str]) -> None:
        """What else a list shows: folders that can be no model. And the default versions that operators chose."""
        with self._changed:
            self._broken, self._defaults = broken, defaults
            self._tell_all()

    # Within

    def _tell_all(self) -> None:
        """Something changed, whoever holds the lock."""
        self._answering.clear()
        self._changed.notify_all()

    def _unload(self, name: str) -> None:
        for slot in self.slots():
            if slot.name != name or not slot.current:
                continue
            with self._changed:
                current, slot.current = slot.current, None
                self._park(slot, "it was unloaded; it is loaded when it is asked for")
            log.info("the model was parked", model=slot.name, version=slot.version)
            self._retire(current)
            del current
            hand_back_freed_blocks()

    def _put(self, slot: Slot, loaded: InMemory) -> InMemory | None:
        """What was there before."""
        with self._changed:
            self._slots[slot.name, slot.version] = slot
            old, slot.current = slot.current, loaded
            slot.state, slot.reason = State.READY, ""
            self._tell_all()
            return old

    def _park(self, slot: Slot, reason: str, *, no_room: bool = False) -> None:
        with self._changed:
            slot.state, slot.reason, slot.no_room = State.PARKED, reason, no_room
            slot.try_now = None
            self._tell_all()

    def _wait_for_room(self, slot: Slot, reason: str) -> None:
        with self._changed:
            if slot.current:
                slot.reason, slot.no_room = _serves_on(reason), True
            else:
                self._park(slot, reason, no_room=True)

    def _retire(self, old: InMemory | None) -> None:
        if old is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: not old.users, self._drain)
        old.served.close()

    def _make_room(self, slot: Slot) -> None:
        """Parks models that nobody uses, the one that was asked for longest ago first, until this one fits.

        Raises:
            BudgetInUse: it does not now.
            ShuttingDown.
        """
        while not self._budget.fits(slot.bytes, self._others(slot)):
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._budget.first_to_go(self._others(slot)), self._drain)
                idle = self._budget.first_to_go(self._others(slot))
                if self._stopped:
                    raise ShuttingDown
                if not idle:
                    raise BudgetInUse("it waits for memory: the models that fill the budget are in use")
                current, idle.current = idle.current, None
                self._park(idle, "others were asked for since and the memory budget is full; it is loaded when it is asked for")
            log.info("the model was parked", model=idle.name, version=idle.version)
            self._retire(current)

    def _others(self, slot: Slot) -> list[Slot]:
        return [other for other in self._slots.values() if other is not slot]


def _serves_on(reason: str) -> str:
    return f"what its folder holds now could not be loaded, and what was there before serves on: {reason}"


def _cause(error: BaseException) -> str | None:
    return f"{type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else None
