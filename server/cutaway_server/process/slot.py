"""The place of one version of a model, and how it stands there."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from cutaway_server.models.model import Model
from cutaway_server.models.repository.folders import Folder
from cutaway_server.models.repository.manifest import Serving
from cutaway_server.rpc.served import Listed, Served, State


@dataclass(eq=False)
class InMemory:
    """What answers for a model now, and how many calls use it."""

    served: Served
    changed: threading.Condition
    users: int = 0

    def use(self) -> Self:
        """One more uses it."""
        with self.changed:
            self.users += 1
        return self

    def give_back(self) -> None:
        """One that used it does so no longer."""
        with self.changed:
            self.users -= 1
            if not self.users:
                self.changed.notify_all()


@dataclass(eq=False)
class Slot:
    """A place for one version of a model.

    Attributes:
        load: makes the model that belongs there, and says how it is to be served.
        try_now: where it waits for its turn to be tried: has that done, and has it loaded then, for a call that asks for it.
        bytes: that the weights of what `load` makes take.
        folder: that was last brought there, in vain or not; None for a model that was handed in.
        passed: the folder that last passed its trial.
        current: what answers for it now; None where it is not in memory.
        waiting: calls that wait until it is in memory.
        no_room: whether it could not be loaded because others that are in use fill the memory budget.
        last_used: when a call last asked for it, on the monotonic clock.
    """

    name: str
    version: str
    load: Callable[[], tuple[Model, Serving]]
    try_now: Callable[[], object] | None = None
    bytes: int = 0
    folder: Folder | None = None
    passed: Folder | None = None
    state: State = State.LOADING
    reason: str = ""
    current: InMemory | None = None
    waiting: int = 0
    no_room: bool = False
    last_used: float = field(default_factory=time.monotonic)

    def listed(self) -> Listed:
        """As a list shows it."""
        return Listed(self.name, self.version, self.state, self.reason, self.current.served if self.current else None)
