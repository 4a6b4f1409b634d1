"""What an introspection tells, event by event, and the answer to Predict, which is one of them."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import grpc

from cutaway._errors import NotInAnswer
from cutaway._models import Provenance
from cutaway._tensors import Array


class PlannedCapture(NamedTuple):
    """A tensor that will come, as it was known beforehand."""

    layer: str
    kind: str
    """One of "output", "input", "gradient"."""
    path: str
    dtype: str | None
    """None where it is not known."""
    shape: tuple[int, ...] | None
    """For this batch; None where it is not known."""
    bytes: int
    """On the wire; 0 where it is not known."""
    full_bytes: int
    """Of the whole tensor, before any reduction; 0 where it is not known."""
    capture: int
    """As that of Activation."""


class Estimate(NamedTuple):
    """What a call will take, as far as it is known before anything runs."""

    forward_passes: int
    """Runs of the network, the last of which may end early."""
    backward_passes: int
    """Runs of the chain rule back from a score."""
    stops_after: str
    """The layer after which the forward pass ends; empty where it runs to its end."""
    compute: float
    """Seconds of computing on a free lane: an order of magnitude."""


class PlannedCam(NamedTuple):
    """A class activation map that will come."""

    cam: int
    """Index into the cams of the call."""
    method: str
    layer: str


@dataclass(frozen=True)
class Started:
    """First: what the call was resolved to, before anything runs."""

    model: str
    version: str
    provenance: Provenance
    batch: int
    """Number of samples."""
    captures: tuple[PlannedCapture, ...]
    cams: tuple[PlannedCam, ...]
    total_bytes: int
    """Sum over captures, where known."""
    request_id: str
    """Names the call in the server's logs."""
    estimate: Estimate


@dataclass(frozen=True, eq=False)
class Activation:
    """One tensor taken at a layer."""

    layer: str
    kind: str
    """One of "output", "input", "gradient"."""
    path: str
    """Where it stood in a nested value; "" for a value that is itself a tensor."""
    batch_first: bool
    """Whether the first axis is the batch."""
    array: Array
    """In the layer's own shape and dtype, as far as no reduction changed them; bfloat16 as float32."""
    capture: int
    """Index into the captures of the call: those of layers first, then inputs, then gradients."""
    channels: Array | None = None
    """Which channels (axis 1) these are: (k,), or (N, k) where each sample has its own; None for all."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Numbers about one tensor taken at a layer: one of each for a sample, or one where its first axis is not the batch.

    All but `non_finite` speak of the finite elements, and are NaN (0 for the norm and the histogram) where there are none.
    """

    layer: str
    kind: str
    """One of "output", "input", "gradient"."""
    path: str
    """As that of Activation."""
    batch_first: bool
    capture: int
    """As that of Activation."""
    minimum: Array
    maximum: Array
    mean: Array
    std: Array
    """Standard deviation of the population."""
    zeros: Array
    """Fraction that is 0, from 0 to 1."""
    l2: Array
    """Euclidean norm."""
    non_finite: Array
    """How many elements are NaN or infinite."""
    histogram: Array
    """int64 (N, bins): counts in equal bins between minimum and maximum, as numpy.histogram puts them; (N, 0) if not asked for."""


class ScoredClass(NamedTuple):
    """One class and what the model says of it."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody misses on one class
    label: str
    """Empty where the model has no labels."""
    score: float
    probability: float
    """From 0 to 1."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network predicts for a batch."""

    model: str
    version: str
    scores: Array
    """What the network put out, the batch first; (N, classes) for a classifier."""
    scores_kind: str
    """One of "logits", "log_probabilities", "probabilities", "sigmoid"."""
    top: tuple[tuple[ScoredClass, ...], ...]
    """For each sample its best classes, best first; empty where top_k was 0."""

    @property
    def logits(self) -> Array:
        """The scores of a model whose scores are logits.

        Raises:
            NotInAnswer: they are something else.
        """
        if self.scores_kind != "logits":
            raise NotInAnswer(f"the scores of {self.model!r} are {self.scores_kind}, not logits: take .scores")
        return self.scores


class Affine(NamedTuple):
    """From map coordinates to those of the photograph as sent; their origin is the outer corner of the top left.

    x_photograph = scale_x * x_map + offset_x, y_photograph = scale_y * y_map + offset_y, in cells and pixels.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


@dataclass(frozen=True, eq=False)
class CamMap:
    """A class activation map for each sample."""

    cam: int
    """Index into the cams of the call."""
    method: str
    layer: str
    classes: tuple[int, ...]
    """The class that each sample's map speaks of."""
    relu: bool
    """Whether negative values became 0."""
    score: str
    """Which score the map explains: "model" or "probability"."""
    placement: tuple[Affine, ...]
    """Where each sample's map lies on its photograph; empty where the input was a tensor."""
    map: Array
    """float32 (N, h, w) at the layer's resolution: raw values, not normalised, not upsampled."""


@dataclass(frozen=True)
class Progress:
    """How far a long computation is."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Failure:
    """One item that will not come; the others do."""

    layer: str | None
    """The layer of a capture; None for a CAM."""
    kind: str | None
    """One of "output", "input", "gradient"; None for a CAM."""
    path: str
    cam: int | None
    """Index into the cams of the call; None for a capture."""
    code: grpc.StatusCode
    message: str
    """The server's reason, in one sentence."""


class LayerTiming(NamedTuple):
    """What the captures of one layer cost."""

    layer: str
    completed_after: float | None
    """Seconds from the start of the forward pass to the end of the layer, waits included; None for gradients alone."""
    capture: float
    """Seconds that copying its tensors took."""
    bytes: int
    """Sent."""
    reduce: float
    """Seconds that reducing them took."""
    encode: float
    """Seconds that putting them into messages took."""


@dataclass(frozen=True)
class Timings:
    """Where the time of an introspection went."""

    stages: dict[str, float]
    """Seconds of each stage, in the order in which they ran: "wait", "register", "forward", "blocked", "capture" …"""
    layers: tuple[LayerTiming, ...]
    """In order of execution."""


@dataclass(frozen=True)
class Finished:
    """Last: the stream is complete."""

    timings: Timings
    bytes_sent: int
    last_layer: str
    """The last layer that ran, among those that the call followed."""


Event: TypeAlias = Started | Activation | Statistics | Prediction | CamMap | Progress | Failure | Finished
