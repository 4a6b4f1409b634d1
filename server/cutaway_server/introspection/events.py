"""What an introspection hands to its sender, in the order in which it happens."""

from dataclasses import dataclass

import torch

from cutaway_server.errors import Refusal
from cutaway_server.introspection.plan import CaptureKind, Plan, PlannedCam
from cutaway_server.models.preprocessing import Placement
from cutaway_server.models.scores import ScoredClass


@dataclass(frozen=True)
class CaptureSubject:
    """Marks an item as a capture: of which layer, what, and where in a nested value."""

    layer: str
    kind: CaptureKind
    path: str = ""
    batch_first: bool = True


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
    """What an item is. Unit of total_bytes: bytes."""

    subject: CaptureSubject | ScoresSubject | CamSubject
    dtype: torch.dtype
    shape: tuple[int, ...]
    total_bytes: int


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
    data: bytes


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
    """What the captures of one layer cost. Unit: seconds since the forward pass began, seconds, bytes."""

    layer: str
    completed_after: float
    capture: float
    bytes: int


@dataclass(frozen=True)
class Finished:
    """Last. Stages in seconds, in the order in which they ran."""

    stages: dict[str, float]
    layers: list[LayerCost]
    bytes_sent: int
    last_layer: str


Event = Started | Piece | Predicted | Failed | Finished

PIECE_BYTES = 1 << 20  # measured: larger ones stream no faster, and any client's default limit of 4 MiB takes them
