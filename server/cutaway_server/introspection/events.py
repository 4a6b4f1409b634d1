"""What an introspection hands to its sender, in the order in which it happens."""

from dataclasses import dataclass
from typing import Self

import torch

from cutaway_server.errors import Refusal
from cutaway_server.introspection.plan import CaptureKind, Plan, PlannedCam, PlannedCapture
from cutaway_server.introspection.reduce import Affine8, Shrink
from cutaway_server.models.preprocessing import Placement
from cutaway_server.models.scores import ScoredClass


@dataclass(frozen=True)
class CaptureSubject:
    """Marks an item as a capture: of which layer, what, where in a nested value, and how it was shrunk.

    Attributes:
        index: as PlannedCapture.index.
        kept: channels, the same for all samples or a list for each; None where none were left out.
    """

    index: int
    layer: str
    kind: CaptureKind
    path: str = ""
    batch_first: bool = False
    shrink: Shrink | None = None
    kept: list[int] | list[list[int]] | None = None

    @classmethod
    def of(cls, planned: PlannedCapture, path: str = "") -> Self:
        """The tensor at this path of a planned capture."""
        return cls(planned.index, planned.layer.name, planned.kind, path, planned.is_batch_first(path))


@dataclass(frozen=True)
class ScoresSubject:
    """Marks an item as the scores of the prediction."""


@dataclass(frozen=True)
class CamSubject:
    """Marks an item as a map: of which classes, one a sample, and where it lies on the photographs, if there are any."""

    cam: PlannedCam
    classes: tuple[int, ...]
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class Header:
    """What an item is. The dtype is that of the elements meant; with affine8 each travels as one byte."""

    subject: CaptureSubject | ScoresSubject | CamSubject
    dtype: torch.dtype
    shape: tuple[int, ...]
    total_bytes: int
    affine8: Affine8 | None = None


@dataclass(frozen=True)
class Started:
    """First."""

    plan: Plan


@dataclass(frozen=True)
class Piece:
    """At most 1 MiB of an item; its header stands on the first piece alone."""

    item: int
    header: Header | None
    offset: int
    data: memoryview


@dataclass(frozen=True)
class Predicted:
    """The scores follow as the item of this number."""

    scores_item: int
    top: list[list[ScoredClass]]


@dataclass(frozen=True)
class Failed:
    """One item, a capture or the CAM of this index, will not come."""

    subject: CaptureSubject | int
    why: Refusal


@dataclass(frozen=True)
class LayerCost:
    """What the captures of one layer cost, in seconds and bytes sent. `completed_after` counts from the forward pass's begin."""

    layer: str
    completed_after: float | None
    capture: float = 0.0
    reduce: float = 0.0
    bytes: int = 0


@dataclass(frozen=True)
class Finished:
    """Last. Stages in seconds, in the order in which they ran."""

    stages: dict[str, float]
    layers: list[LayerCost]
    bytes_sent: int
    last_layer: str


NOTHING_RAN = Finished({}, [], 0, "")

Event = Started | Piece | Predicted | Failed | Finished

PIECE_BYTES = 1 << 20  # measured: larger ones stream no faster, and any client's default limit of 4 MiB takes them
