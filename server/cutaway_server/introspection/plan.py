"""Plans an introspection: resolves names, checks that each map can be, and says what will come. Nothing runs here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from cutaway_server.errors import BadInput, InputTooLarge, NotHookable, NotReducible
from cutaway_server.introspection.cam.method import Needs
from cutaway_server.introspection.plan_cams import CamRequest, PlannedCam, check_target, plan_cams
from cutaway_server.introspection.reduce import CannotReduce, Form, Reduction, TopChannels
from cutaway_server.introspection.target import Target
from cutaway_server.models.layer_table import Layer, LayerTensor
from cutaway_server.models.model import Model
from cutaway_server.models.preprocessing import Placement
from cutaway_server.models.tensor_bytes import SENDABLE

MAX_CAPTURES = 4096
MAX_KEPT_CHANNELS = 65_536  # their indices travel in a message's header
WHOLE = Reduction()
_LONG_OPERATIONS = 0.2  # share of a forward pass that may run between two modules without a look at cancels and deadlines


class CaptureKind(Enum):
    """What is taken at a layer."""

    OUTPUT = "output"
    INPUT = "input"
    GRADIENT = "gradient"


@dataclass(frozen=True)
class CaptureRequest:
    """What to take at the layers that a name or glob means. `index` is its place in the request, `field` its name there."""

    index: int
    field: str
    layer: str
    kind: CaptureKind
    target: Target
    reduction: Reduction = WHOLE


@dataclass(frozen=True)
class Expected:
    """One tensor that a capture will bring, as the probe run saw it.

    Attributes:
        dtype, shape, bytes: on the wire; shape None and bytes 0 where they are not known beforehand.
        full_bytes: of the layer's own tensor.
    """

    path: str
    dtype: torch.dtype
    shape: tuple[int, ...] | None
    bytes: int = 0
    full_bytes: int = 0


@dataclass(frozen=True)
class PlannedCapture:
    """One kind of capture at one layer. `index` is the place in the request of the first that asked for it."""

    index: int
    layer: Layer
    kind: CaptureKind
    target: Target
    reduction: Reduction
    expected: tuple[Expected, ...]

    def is_batch_first(self, path: str) -> bool:
        """Whether the first axis of the tensor at this path is the batch, as far as is known."""
        return any(tensor.batch_first for tensor in _tensors(self.layer, self.kind) if tensor.path == path)


@dataclass(frozen=True)
class Plan:
    """What one call does.

    Attributes:
        batch: number of samples.
        captures: in order of execution of their layers.
        cams: in order of the request.
        top_k: how many classes to name; None where no prediction is asked for.
        placements: where each sample lies on its photograph; empty for tensors.
        seed: of all that is drawn.
    """

    model: Model
    batch: int
    captures: tuple[PlannedCapture, ...]
    cams: tuple[PlannedCam, ...]
    top_k: int | None
    placements: tuple[Placement, ...] = ()
    seed: int = 0

    @property
    def chance(self) -> bool:
        """Whether random numbers are drawn."""
        return any(cam.chance for cam in self.cams)

    @property
    def total_bytes(self) -> int:
        """Of all captures, on the wire."""
        return sum(tensor.bytes for capture in self.captures for tensor in capture.expected)

    @property
    def may_stop_early(self) -> bool:
        """Whether nothing is needed of what comes after the last captured layer."""
        return self.top_k is None and not self.cams and all(c.kind is not CaptureKind.GRADIENT for c in self.captures)

    @property
    def names_operations(self) -> bool:
        """Whether a functional operation is among the layers wanted."""
        layers = [capture.layer for capture in self.captures] + [layer for cam in self.cams for layer in cam.layers]
        return any(layer.site is not None and layer.site.op for layer in layers)

    @property
    def follows_operations(self) -> bool:
        """Whether functional operations are followed: where they are wanted, and where they are long enough to be stopped at."""
        return self.names_operations or self.model.layers.operations_share > _LONG_OPERATIONS

    @property
    def follows_begins(self) -> bool:
        """Whether it matters when layers begin."""
        return any(capture.kind is CaptureKind.INPUT for capture in self.captures)

    @property
    def stops_after(self) -> Layer | None:
        """The layer after which the forward pass ends; None where it runs to its end."""
        return max((capture.layer for capture in self.captures), key=lambda layer: layer.index) if self.may_stop_early else None

    @property
    def gradient_layers(self) -> list[Layer]:
        """The layers that gradients are taken of."""
        captured = [capture.layer for capture in self.captures if capture.kind is CaptureKind.GRADIENT]
        return captured + [layer for cam in self._differentiating for layer in cam.layers]

    @property
    def differentiates_input(self) -> bool:
        """Whether the gradient with respect to the network's input is taken."""
        return any(not cam.layers for cam in self._differentiating)

    @property
    def forward_passes(self) -> int:
        """Runs of the network for each sample."""
        return 1 + sum(cam.passes.forward for cam in self.cams)

    @property
    def backward_passes(self) -> int:
        """Runs of the chain rule for each sample: one for each score, and those of maps that take more."""
        return len(self._shared_targets) + sum(cam.passes.backward for cam in self.cams)

    @property
    def compute_seconds(self) -> float:
        """An estimate: what the layers took at loading, in proportion to the batch; twice that for a backward pass."""
        layers, stop, held = self.model.layers, self.stops_after, self.gradient_layers
        first = layers.share(upto=stop) if stop else 1.0
        before = 0.0 if self.differentiates_input or not held else layers.share(upto=min(held, key=lambda layer: layer.index))
        shared = first + 2 * len(self._shared_targets) * (1.0 - before)
        more = sum(cam.passes.forward + 2 * cam.passes.backward for cam in self.cams)
        return self.batch * self.model.forward_seconds * (shared + more)

    @property
    def _differentiating(self) -> list[PlannedCam]:
        """The maps that take a gradient of the pass that all share."""
        return [cam for cam in self.cams if cam.method.needs in (Needs.GRADIENT, Needs.CURVATURE)]

    @property
    def _shared_targets(self) -> set[Target]:
        """The scores that gradients of that pass are taken of: one backward pass each."""
        captured = {capture.target for capture in self.captures if capture.kind is CaptureKind.GRADIENT}
        return captured | {cam.target for cam in self._differentiating}


def make_plan(
    model: Model,
    *,
    batch: int,
    captures: Sequence[CaptureRequest],
    cams: Sequence[CamRequest],
    top_k: int | None,
    placements: tuple[Placement, ...] = (),
    seed: int = 0,
    max_passes: int = 1 << 30,
) -> Plan:
    """Resolves a request against the model's layer table.

    Args:
        max_passes: runs of the network on one sample that its maps may take.
    Raises:
        NotIntrospectable: the model cannot be looked into.
        UnknownLayer, NothingMatches, NotHookable: a name or glob of no use.
        CamNotPossible: a map that the method cannot make here; says what would work.
        NotReducible: a capture that its reduction is nothing for.
        BadInput, InputTooLarge: targets, counts and combinations that do not go.
    """
    model.check_introspectable()
    if len(captures) > MAX_CAPTURES:
        raise InputTooLarge("captures", "captures", len(captures), MAX_CAPTURES)
    planned: dict[tuple[str, CaptureKind, Target, Reduction], PlannedCapture] = {}
    for request in captures:
        for layer in _layers(model, request):
            key = layer.name, request.kind, request.target, request.reduction
            planned.setdefault(key, _plan_capture(layer, request, batch))
        if request.kind is CaptureKind.GRADIENT:
            check_target(model, request.target, batch, f"{request.field}.target")
    if len(planned) > MAX_CAPTURES:
        raise InputTooLarge("captures", "captures", len(planned), MAX_CAPTURES)
    if top_k is None and not planned and not cams:
        raise BadInput("captures", "nothing to capture and no prediction wanted", "at least one capture or CAM")
    return Plan(
        model=model,
        batch=batch,
        captures=tuple(sorted(planned.values(), key=lambda capture: capture.layer.index)),
        cams=plan_cams(model, cams, batch=batch, pictures_sent=bool(placements), max_passes=max_passes),
        top_k=top_k,
        placements=placements,
        seed=seed,
    )


def _layers(model: Model, request: CaptureRequest) -> list[Layer]:
    """The layers meant, as far as there is something to take; at one that is asked for by its name there must be."""
    field = f"{request.field}.layer"
    found = model.layers.match(request.layer, field)
    there = [layer for layer in found if not _nothing_to_take(layer, request.kind)]
    if not there:
        raise NotHookable(field, found[0].name, _nothing_to_take(found[0], request.kind))
    return there


_NOTHING = {
    CaptureKind.OUTPUT: "it puts out no tensor",
    CaptureKind.INPUT: "it is given no tensor by position",
    CaptureKind.GRADIENT: "it puts out no floating tensor",
}


def _nothing_to_take(layer: Layer, kind: CaptureKind) -> str:
    if not _tensors(layer, kind):
        return _NOTHING[kind]
    return layer.no_gradient if kind is CaptureKind.GRADIENT else ""


def _plan_capture(layer: Layer, request: CaptureRequest, batch: int) -> PlannedCapture:
    expected = tuple(_expected(tensor, layer, request, batch) for tensor in _tensors(layer, request.kind))
    return PlannedCapture(request.index, layer, request.kind, request.target, request.reduction, expected)


def _tensors(layer: Layer, kind: CaptureKind) -> tuple[LayerTensor, ...]:
    """What there is to take, as the probe run saw it."""
    if kind is CaptureKind.GRADIENT:
        return tuple(tensor for tensor in layer.outputs if tensor.dtype.is_floating_point)
    return layer.inputs if kind is CaptureKind.INPUT else layer.outputs


def _expected(tensor: LayerTensor, layer: Layer, request: CaptureRequest, batch: int) -> Expected:
    shape = tensor.shape_for(batch)
    if shape is None or tensor.dtype not in SENDABLE:
        return Expected(tensor.path, tensor.dtype, None)
    try:
        form, element = request.reduction.form(Form(tensor.dtype, shape, tensor.batch_first))
    except CannotReduce as error:
        raise NotReducible(request.field, layer.name, str(error)) from error
    if isinstance(request.reduction.shrink, TopChannels) and form.shape[0] * form.shape[1] > MAX_KEPT_CHANNELS:
        field = f"{request.field}.channels.top_k"
        raise InputTooLarge(field, "channels of all samples", form.shape[0] * form.shape[1], MAX_KEPT_CHANNELS)
    size = element * math.prod(form.shape)
    return Expected(tensor.path, form.dtype, form.shape, size, tensor.dtype.itemsize * math.prod(shape))
