"""What an introspection hands to its sender, in the order in which it happens."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

import torch

from cutaway_server.errors import Refusal
from cutaway_server.introspection.faithfulness import Measures
from cutaway_server.introspection.nothing import Note
from cutaway_server.introspection.plan import CaptureKind, Plan, PlannedCapture
from cutaway_server.introspection.plan_cams import PlannedCam
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


class CamForm(Enum):
    """Which form of a map an item is."""

    RAW = "raw"
    SCALED = "scaled"
    HEAT_MAP = "heat map"
    OVERLAY = "overlay"


@dataclass(frozen=True)
class CamSubject:
    """Marks an item as a map, or as one sample's picture of it.

    Attributes:
        classes, against: one a sample; `against` is empty for a score that nothing is taken off.
        placements: where the raw map lies on the photographs, if there are any.
        sample: of a picture.
        notes: on the raw map alone.
    """

    cam: PlannedCam
    classes: tuple[int, ...]
    against: tuple[int, ...]
    placements: tuple[Placement, ...]
    notes: tuple[Note, ...]
    form: CamForm = CamForm.RAW
    sample: int = 0

    def as_form(self, form: CamForm, sample: int = 0) -> Self:
        """Another form of the same map."""
        return replace(self, form=form, sample=sample, notes=())


@dataclass(frozen=True)
class Header:
    """What an item is. The dtype is that of the elements meant; with affine8 each travels as one byte. A file has none."""

    subject: CaptureSubject | ScoresSubject | CamSubject
    dtype: torch.dtype | None
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
    """One item will not come."""

    subject: CaptureSubject | PlannedCam
    why: Refusal


@dataclass(frozen=True)
class Progress:
    """How many runs of the network on one sample are done, of how many."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Judged:
    """Measures of a map, and of the random one that it should beat."""

    cam: PlannedCam
    measures: Measures
    random: Measures


@dataclass(frozen=True)
class CamCost:
    """What a map cost beyond what it shared, in seconds: "cam", "faithfulness", "pictures"."""

    cam: int
    rank: int
    seconds: dict[str, float]


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
    cams: list[CamCost]
    bytes_sent: int
    last_layer: str


NOTHING_RAN = Finished({}, [], [], 0, "")

Event = Started | Piece | Predicted | Progress | Judged | Failed | Finished

PIECE_BYTES = 1 << 20  # measured: larger ones stream no faster, and any client's default limit of 4 MiB takes them
