"""Every refusal as a type with its fields. This room imports nothing and knows no gRPC: `rpc.errors` gives each its code.

    Refusal
    ├── UnknownModel            ├── BadInput              ├── DeadlinePassed
    ├── UnknownLayer            ├── InputTooLarge         ├── ReaderStalled
    ├── NothingMatches          ├── Busy                  ├── Cancelled
    ├── NotHookable             ├── NotIntrospectable     ├── ShuttingDown
    ├── NotReducible            ├── CamNotPossible        ├── NetworkFailed
    ├── NotReady                ├── OutOfMemory           ├── NothingToReload
    ├── NoRoom                  ├── AnswerTooLarge        └── ServerFailed

Messages are for the caller: what was wrong, which limit, what would work. They hold no path, no traceback, no internal name.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class Refusal(Exception):
    """What the server does not do, and why. `str()` is the sentence for the caller."""

    def __str__(self) -> str:
        return "refused"


@dataclass(eq=False)
class UnknownModel(Refusal):
    """No model, or no version of it, has this name."""

    model: str
    version: str
    known: Sequence[str]

    def __str__(self) -> str:
        asked = f"model {self.model!r}" + (f" version {self.version!r}" if self.version else "")
        return f"there is no {asked}; there is: {', '.join(self.known) or 'none'}"


@dataclass(eq=False)
class NotReady(Refusal):
    """A model that is there but could not be loaded."""

    model: str
    version: str
    reason: str

    def __str__(self) -> str:
        which = f"model {self.model!r}" + (f" version {self.version}" if self.version else "")
        return f"{which} could not be loaded: {self.reason}"


@dataclass(eq=False)
class NoRoom(Refusal):
    """A model that is not in memory, where others that are in use fill the memory."""

    model: str
    limit: int
    retry_after_s: float

    def __str__(self) -> str:
        budget = f"{self.limit / (1 << 20):,.1f} MiB"
        return f"model {self.model!r} is not in memory, and the models in use fill the budget of {budget}; try again later"


@dataclass(eq=False)
class NothingToReload(Refusal):
    """A server that was given no folders of models."""

    def __str__(self) -> str:
        return "the server has no folders of models to look at; start it with --models DIR"


@dataclass(eq=False)
class UnknownLayer(Refusal):
    """A layer name that the layer table lacks."""

    field: str
    layer: str
    close_matches: Sequence[str]

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(map(repr, self.close_matches))}?" if self.close_matches else ""
        return f"{self.field}: there is no layer {self.layer!r}{hint}"


@dataclass(eq=False)
class NothingMatches(Refusal):
    """A glob that matches no leaf and no operation."""

    field: str
    glob: str
    close_matches: Sequence[str]

    def __str__(self) -> str:
        hint = f"; layers are named like {', '.join(map(repr, self.close_matches))}" if self.close_matches else ""
        return f"{self.field}: the glob {self.glob!r} matches no layer{hint}"


@dataclass(eq=False)
class NotHookable(Refusal):
    """A layer that is there but of which no such capture can be had."""

    field: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: layer {self.layer!r} cannot be captured: {self.reason}"


@dataclass(eq=False)
class NotReducible(Refusal):
    """A capture that the reduction asked for is nothing for."""

    field: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: layer {self.layer!r} cannot be reduced so: {self.reason}"


@dataclass(eq=False)
class BadInput(Refusal):
    """A field of the request that is not as it must be."""

    field: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"{self.field}: got {self.got}; expected {self.expected}"


@dataclass(eq=False)
class InputTooLarge(Refusal):
    """A request that asks for more of something than one call may have."""

    field: str
    what: str
    asked: int
    limit: int

    def __str__(self) -> str:
        return f"{self.field}: {self.asked:,} {self.what} asked for; the limit for one call is {self.limit:,}"


@dataclass(eq=False)
class AnswerTooLarge(Refusal):
    """An answer that does not fit into one message."""

    asked: int
    limit: int
    instead: str

    def __str__(self) -> str:
        return f"the answer takes {self.asked:,} bytes; the limit for one message is {self.limit:,}; {self.instead}"


@dataclass(eq=False)
class Busy(Refusal):
    """As many calls wait as may wait."""

    what: str
    limit: int
    retry_after_s: float

    def __str__(self) -> str:
        return f"{self.limit} {self.what} wait already, which is the limit; try again in {self.retry_after_s:g} s"


@dataclass(eq=False)
class NotIntrospectable(Refusal):
    """A model whose inside cannot be shown truthfully."""

    model: str
    reason: str

    def __str__(self) -> str:
        return f"model {self.model!r} cannot be introspected: {self.reason}; Predict works"


@dataclass(eq=False)
class CamNotPossible(Refusal):
    """A class activation map that the method cannot make of this model and layer."""

    field: str
    method: str
    missing: str
    instead: str

    def __str__(self) -> str:
        return f"{self.field}: {self.method} is not possible: {self.missing}; {self.instead}"


@dataclass(eq=False)
class DeadlinePassed(Refusal):
    """The time that the call had is over."""

    where: str

    def __str__(self) -> str:
        return f"the deadline passed {self.where}"


@dataclass(eq=False)
class ReaderStalled(Refusal):
    """The client stopped reading its stream."""

    limit_s: float

    def __str__(self) -> str:
        return f"the stream was not read for {self.limit_s:g} s, which is the limit; the call was ended"


@dataclass(eq=False)
class Cancelled(Refusal):
    """The client, or the shutdown, ended the call."""

    def __str__(self) -> str:
        return "the call was cancelled"


@dataclass(eq=False)
class ShuttingDown(Refusal):
    """The server takes no more calls."""

    def __str__(self) -> str:
        return "the server, or this version of the model, is shutting down; try again, or another server"


@dataclass(eq=False)
class NetworkFailed(Refusal):
    """The network's own forward pass raised."""

    model: str

    def __str__(self) -> str:
        return f"model {self.model!r} failed on this input; the server's log has the cause under this call's request id"


@dataclass(eq=False)
class OutOfMemory(Refusal):
    """A device's memory did not suffice for the call."""

    model: str
    device: str

    def __str__(self) -> str:
        return f"the memory of {self.device} did not suffice for this call of {self.model!r}; send fewer samples, or smaller ones"


@dataclass(eq=False)
class ServerFailed(Refusal):
    """An error of the server's own."""

    request_id: str

    def __str__(self) -> str:
        return f"the server failed; its log has the cause under request id {self.request_id}"
