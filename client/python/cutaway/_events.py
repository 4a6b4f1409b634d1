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
    """Runs of the network for each sample: the one that all share, which may end early, and those of the CAMs."""
    backward_passes: int
    """Runs of the chain rule back from a score, for each sample."""
    stops_after: str
    """The layer after which the forward pass ends; empty where it runs to its end."""
    compute: float
    """Seconds of computing on a free lane: an order of magnitude."""


class PlannedCam(NamedTuple):
    """A class activation map that will come."""

    cam: int
    """Index into the cams of the call."""
    method: str
    layers: tuple[str, ...]
    """The target layers; empty for a method that explains at the input."""
    rank: int
    """Of a top k: which of the best classes, 0 the best."""
    forward_passes: int
    """Runs of the network for each sample beyond the one that all share."""
    backward_passes: int
    """Runs of the chain rule for each sample beyond those that maps of the same score share."""
    shape: tuple[int, ...]
    """Of the raw map."""
    faithfulness_forward_passes: int
    """Runs of the network for each sample that measuring its faithfulness takes."""
    faithfulness_backward_passes: int
    """Runs of the chain rule for each sample that it takes."""


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
    """Maps in the order of the request; of a top k one for each rank."""
    total_bytes: int
    """Sum over captures, where known."""
    request_id: str
    """Names the call in the server's logs."""
    estimate: Estimate
    seed: int | None
    """In force; None where chance plays no part."""


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
    engine: str
    """What made it: "eager" is PyTorch, as always for an introspection; "onnxruntime" and others may answer `predict`."""
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


class Note(NamedTuple):
    """Why a sample's map says nothing: it is 0 everywhere, or holds numbers that are not finite."""

    sample: int
    reason: str
    """One of "dead_layer", "saturated", "gradient_vanished", "nothing_positive", "cancelled", "not_finite"."""
    message: str
    """The same as a sentence."""


class Scaling(NamedTuple):
    """How a map's numbers and size were changed."""

    normalisation: str
    """One of "none", "min-max", "max": as asked for in `Cam`."""
    upsampling: str
    """One of "none", "bilinear", "nearest"."""


@dataclass(frozen=True, eq=False)
class CamMap:
    """A class activation map for each sample, and the settings that made it."""

    cam: int
    """Index into the cams of the call."""
    rank: int
    """Of a top k: which of the best classes, 0 the best."""
    method: str
    layers: tuple[str, ...]
    """The target layers; empty for a method that explains at the input."""
    classes: tuple[int, ...]
    """The class that each sample's map speaks of."""
    against: tuple[int, ...]
    """The class that each sample's map speaks against; empty where it is no contrast."""
    relu: bool
    """Whether negative values became 0."""
    score: str
    """Which score the map explains: "model" or "probability"."""
    channels: str
    """How the channels' parts became the map: "sum", "principal" or "largest"; "each" where they are kept apart."""
    augment: bool
    """Whether it is the mean over six variants of the input."""
    steps: int
    """Of a path, or noisy inputs; 0 for methods without."""
    window: tuple[int, ...]
    """Edges of an occlusion's window in pixels; empty for other methods."""
    stride: tuple[int, ...]
    """By how many pixels it moved."""
    fusion: str | None
    """How the maps of several layers became one: "mean", "max" or "product"; None for one layer."""
    form: str
    """ "raw": neither normalised nor enlarged; or "scaled", as asked for."""
    scaling: Scaling | None
    """Of a scaled map: how."""
    placement: tuple[Affine, ...]
    """Where each sample's raw map lies on its photograph; empty where there is none, or no map (N, h, w)."""
    notes: tuple[Note, ...]
    """Samples whose raw map says nothing, and why."""
    map: Array
    """float32 (N, …): after the batch the one to three axes of the layer's space; (N, C, …) where channels are kept apart."""

    @property
    def layer(self) -> str:
        """The target layer, or several joined by " + "; empty for a method that explains at the input."""
        return " + ".join(self.layers)


@dataclass(frozen=True)
class CamPicture:
    """A picture of one sample's map, drawn on the server."""

    cam: int
    """As that of CamMap."""
    rank: int
    """As that of CamMap."""
    kind: str
    """ "heat-map": the map by itself; "overlay": on the picture as it was sent."""
    sample: int
    png: bytes
    """A PNG file."""


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of whether a map can be believed, float64 (N,) each. All speak of the probability of the class."""

    deletion: Array
    """Area under it while pixels are taken away, the map's largest first: 0 to 1, small is good."""
    insertion: Array
    """Area under it while pixels come back into a blurred picture, the map's largest first: 0 to 1, large is good."""
    average_drop: Array
    """Share of it that is lost where the map masks the input: 0 to 1, small is good."""
    increase: Array
    """1 where it is higher there, else 0."""
    road: Array
    """What the most important pixels cost it more than the least important ones: -0.5 to 0.5, large is good."""
    sensitivity: Array
    """Largest relative change of the map under tiny changes of the input: small is good; NaN for a map of zeros."""
    complexity: Array
    """Entropy of the map in nats: small is easy to read; NaN for a map of zeros."""


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Whether a map can be believed: measures of it, and of a random map that it should beat."""

    cam: int
    """As that of CamMap."""
    rank: int
    """As that of CamMap."""
    map: Measures
    random: Measures
    steps: int
    """Points of the curves of deletion and insertion after their first."""


@dataclass(frozen=True)
class Progress:
    """How far a long computation is."""

    what: str
    done: int
    """Runs of the network on one sample."""
    total: int
    """For all samples."""


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
    rank: int
    """As that of CamMap; 0 for a capture."""
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


class CamTiming(NamedTuple):
    """What one map cost beyond what it shared with others."""

    cam: int
    """As that of CamMap."""
    rank: int
    """As that of CamMap."""
    map: float
    """Seconds that making it took."""
    faithfulness: float
    """Seconds that measuring it took."""
    pictures: float
    """Seconds that drawing it took."""


@dataclass(frozen=True)
class Timings:
    """Where the time of an introspection went."""

    stages: dict[str, float]
    """Seconds of each stage, in the order in which they ran: "wait", "register", "forward", "blocked", "capture" …"""
    layers: tuple[LayerTiming, ...]
    """In order of execution."""
    cams: tuple[CamTiming, ...]
    """In the order in which the maps came."""


@dataclass(frozen=True)
class Finished:
    """Last: the stream is complete."""

    timings: Timings
    bytes_sent: int
    last_layer: str
    """The last layer that ran, among those that the call followed."""


Event: TypeAlias = (
    Started | Activation | Statistics | Prediction | CamMap | CamPicture | Faithfulness | Progress | Failure | Finished
)
