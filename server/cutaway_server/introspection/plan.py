"""Plans an introspection: resolves names, checks that each map can be, and says what will come. Nothing runs here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from cutaway_server.errors import BadInput, CamNotPossible, InputTooLarge, NotHookable, NotReducible
from cutaway_server.introspection.cam import METHODS, Method, Needs
from cutaway_server.introspection.reduce import CannotReduce, Form, Reduction, TopChannels
from cutaway_server.models.layer_table import Layer, LayerTensor
from cutaway_server.models.model import Model
from cutaway_server.models.preprocessing import Placement
from cutaway_server.models.tensor_bytes import SENDABLE

MAX_CAPTURES = 4096
MAX_CAMS = 64
MAX_KEPT_CHANNELS = 65_536  # their indices travel in a message's header
WHOLE = Reduction()
_LONG_OPERATIONS = 0.2  # share of a forward pass that may run between two modules without a look at cancels and deadlines


class CaptureKind(Enum):
    """What is taken at a layer."""

    OUTPUT = "output"
    INPUT = "input"
    GRADIENT = "gradient"


@dataclass(frozen=True)
class Target:
    """Which score is explained.

    Attributes:
        classes: one index for all samples or one for each; empty for each sample's predicted class.
        probability: whether the class's probability is meant instead of the network's own score.
    """

    classes: tuple[int, ...] = ()
    probability: bool = False

    def __post_init__(self) -> None:
        if len(set(self.classes)) == 1:  # the same for all samples: one score, one backward pass, however it was written
            object.__setattr__(self, "classes", self.classes[:1])


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
class CamRequest:
    """A map to make. `layer` may be empty, `relu` None: the method's default. `field` names it in the request."""

    field: str
    method: str
    layer: str
    target: Target
    relu: bool | None


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
class PlannedCam:
    """One map, everything resolved. `index` is its place in the request."""

    index: int
    method: Method
    layer: Layer
    target: Target
    relu: bool


@dataclass(frozen=True)
class Plan:
    """What one call does.

    Attributes:
        batch: number of samples.
        captures: in order of execution of their layers.
        cams: in order of the request.
        top_k: how many classes to name; None where no prediction is asked for.
        placements: where each sample lies on its photograph; empty for tensors.
    """

    model: Model
    batch: int
    captures: tuple[PlannedCapture, ...]
    cams: tuple[PlannedCam, ...]
    top_k: int | None
    placements: tuple[Placement, ...] = ()

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
        layers = [capture.layer for capture in self.captures] + [cam.layer for cam in self.cams]
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
        return captured + [planned.layer for planned in self.cams if planned.method.needs is Needs.GRADIENT]

    @property
    def backward_targets(self) -> set[Target]:
        """The scores that gradients are taken of: one backward pass each."""
        gradients = {capture.target for capture in self.captures if capture.kind is CaptureKind.GRADIENT}
        return gradients | {planned.target for planned in self.cams if planned.method.needs is Needs.GRADIENT}

    @property
    def compute_seconds(self) -> float:
        """An estimate: what the layers took at loading, in proportion to the batch; twice that for a backward pass."""
        layers, stop, held = self.model.layers, self.stops_after, self.gradient_layers
        forward = layers.share(upto=stop) if stop else 1.0
        backward = 1.0 - layers.share(upto=min(held, key=lambda layer: layer.index)) if held else 0.0
        return self.batch * self.model.forward_seconds * (forward + 2 * len(self.backward_targets) * backward)


def make_plan(
    model: Model,
    *,
    batch: int,
    captures: Sequence[CaptureRequest],
    cams: Sequence[CamRequest],
    top_k: int | None,
    placements: tuple[Placement, ...] = (),
) -> Plan:
    """Resolves a request against the model's layer table.

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
            _check_target(model, request.target, batch, f"{request.field}.target")
    if len(planned) > MAX_CAPTURES:
        raise InputTooLarge("captures", "captures", len(planned), MAX_CAPTURES)
    if top_k is None and not planned and not cams:
        raise BadInput("captures", "nothing to capture and no prediction wanted", "at least one capture or CAM")
    if len(cams) > MAX_CAMS:
        raise InputTooLarge("cams", "CAMs", len(cams), MAX_CAMS)
    return Plan(
        model=model,
        batch=batch,
        captures=tuple(sorted(planned.values(), key=lambda capture: capture.layer.index)),
        cams=tuple(_plan_cam(model, index, request, batch) for index, request in enumerate(cams)),
        top_k=top_k,
        placements=placements,
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


def possible_methods(model: Model) -> list[str]:
    """The methods that some layer of the model allows."""
    return [method.name for method in METHODS.values() if method.needs is not Needs.HEAD or model.gap_head]


def _plan_cam(model: Model, index: int, request: CamRequest, batch: int) -> PlannedCam:
    method = METHODS.get(request.method)
    if method is None:
        raise BadInput(f"{request.field}.method", repr(request.method[:100]), f"one of {', '.join(METHODS)}")
    _check_target(model, request.target, batch, f"{request.field}.target")
    resolve = _head_layer if method.needs is Needs.HEAD else _spatial_layer
    relu = method.relu if request.relu is None else request.relu
    return PlannedCam(index, method, resolve(model, request), request.target, relu)


def _spatial_layer(model: Model, request: CamRequest) -> Layer:
    field = f"{request.field}.layer"
    if not request.layer:
        spatial = [layer for layer in model.layers.firing if not layer.container and _plane(layer) > 1 and not layer.no_gradient]
        if not spatial:
            raise CamNotPossible(field, request.method, "no layer of the network puts out [N, C, H, W]", "ask for captures instead")
        return spatial[-1]
    layer = model.layers.exact(request.layer, field)
    if not _plane(layer):
        shapes = ", ".join(tensor.shape_text for tensor in layer.outputs) or "nothing"
        works = [other.name for other in model.layers.firing if _plane(other) > 1]
        instead = f"it works at {', '.join(map(repr, works[-3:]))}" if works else "ask for captures instead"
        raise CamNotPossible(field, request.method, f"layer {layer.name!r} puts out {shapes}, not [N, C, H, W]", instead)
    if layer.no_gradient:
        raise NotHookable(field, layer.name, layer.no_gradient)
    return layer


def _head_layer(model: Model, request: CamRequest) -> Layer:
    field = f"{request.field}.layer"
    asked = model.layers.exact(request.layer, field) if request.layer else None
    if model.gap_head is None:
        missing = f"model {model.name!r} does not end in a global average pooling and one linear layer, which the method weighs by"
        raise CamNotPossible(f"{request.field}.method", request.method, missing, "'grad-cam' works at any layer [N, C, H, W]")
    averaged = [model.layers.exact(name, field) for name in model.gap_head.layers]
    if asked is None:
        return [layer for layer in averaged if not layer.container][-1]
    if asked not in averaged:
        missing = f"layer {asked.name!r} is not what the network averages before its linear layer"
        raise CamNotPossible(field, request.method, missing, f"it works at {', '.join(repr(layer.name) for layer in averaged)}")
    return asked


def _plane(layer: Layer) -> int:
    """Cells of the plane of a layer that puts out one [N, C, H, W]; 0 of any other."""
    if len(layer.outputs) != 1:
        return 0
    (output,) = layer.outputs
    spatial = output.batch_first and output.dtype.is_floating_point and len(output.shape) == 4
    return output.shape[2] * output.shape[3] if spatial else 0


def _check_target(model: Model, target: Target, batch: int, field: str) -> None:
    if not model.class_count:
        raise BadInput(field, "a score of a class", "captures of outputs and inputs: the network's own output is not [N, classes]")
    if len(target.classes) not in (0, 1, batch):
        raise BadInput(f"{field}.classes.indices", f"{len(target.classes)} classes", f"1, or one for each of the {batch} samples")
    for index in target.classes:
        if not 0 <= index < model.class_count:
            raise BadInput(f"{field}.classes.indices", f"class {index}", f"0 to {model.class_count - 1}")
