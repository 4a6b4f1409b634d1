"""What the calls need of the models: which there are, how they stand, and what answers for each."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from cutaway_server.errors import BadInput
from cutaway_server.introspection.lanes import Lanes
from cutaway_server.models.model import Model
from cutaway_server.prediction.batcher import Batcher


class State(Enum):
    """How a model stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    PARKED = "parked"


@dataclass(frozen=True)
class Served:
    """A model that is ready, and what answers for it.

    Attributes:
        lanes: None where it cannot be introspected.
    """

    model: Model
    batcher: Batcher
    lanes: Lanes | None

    def close(self) -> None:
        """Ends its threads; what waits is refused, what runs in a lane is stopped."""
        self.batcher.close()
        if self.lanes:
            self.lanes.close()


@dataclass(frozen=True)
class Listed:
    """A model as a list shows it.

    Attributes:
        reason: why its state is what it is.
        served: None where it is not in memory.
    """

    name: str
    version: str
    state: State
    reason: str = ""
    served: Served | None = None


class Held(Protocol):
    """A model in use."""

    served: Served

    def use(self) -> Self:
        """It is used once more, until it is given back once more. From any thread."""

    def give_back(self) -> None:
        """It is used once less. From any thread."""


class Models(Protocol):
    """The models of a server, by name and version."""

    def all(self) -> list[Listed]:
        """All of them."""

    def find(self, name: str, version: str) -> Listed:
        """One of them; the default version for an empty one.

        Raises:
            UnknownModel: names what there is.
        """

    def knows(self, name: str) -> bool:
        """Whether there is a model of this name."""

    def take(self, name: str, version: str) -> "Held | None":
        """What answers for one of them, if it is in memory; it stays until it is given back. Never waits.

        Raises:
            UnknownModel, NotReady, ShuttingDown.
        """

    def use(self, name: str, version: str, deadline: float) -> AbstractContextManager[Served]:
        """One of them, for as long as a call lasts. Waits for one that is loading, and has a parked one loaded.

        Args:
            deadline: on the monotonic clock, in seconds.
        Raises:
            UnknownModel, NotReady, NoRoom, Busy, DeadlinePassed, ShuttingDown.
        """

    def unload(self, name: str, deadline: float) -> None:
        """Parks all versions of a model: out of memory until one is asked for.

        Args:
            deadline: on the monotonic clock, in seconds.
        Raises:
            UnknownModel, DeadlinePassed.
        """


def check_named(models: Models, name: str, field: str) -> str:
    """The name of a model that a request gives in a field.

    Raises:
        BadInput: it is empty; says which there are.
    """
    if not name:
        raise BadInput(field, "an empty name", f"one of {', '.join(sorted({one.name for one in models.all()}))}")
    return name
