"""Plans the maps of a call: which method at which layers, of which score, in which shape, and at what price."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from cutaway_server.errors import BadInput, CamNotPossible, InputTooLarge, NotHookable
from cutaway_server.introspection import faithfulness
from cutaway_server.introspection.cam import METHODS
from cutaway_server.introspection.cam.method import OWN, Extent, Join, Method, Needs, Options, Passes
from cutaway_server.introspection.map_shapes import Fusion, Scaling
from cutaway_server.introspection.target import PREDICTED, Target
from cutaway_server.models.layer_table import Layer
from cutaway_server.models.model import Model

MAX_CAMS = 64
MAX_FUSED = 16
MAX_STEPS = 1024
MAX_POINTS = 256
VARIANTS = 6  # that augmentation makes of an input, itself among them
_NO_CLASSES = "the network's own output is not [N, classes, …]"


class Picture(Enum):
    """A PNG file of a map."""

    HEAT_MAP = "heat map"
    OVERLAY = "overlay"


@dataclass(frozen=True)
class CamRequest:
    """A map to make.

    Attributes:
        field: names it in the request.
        layers: empty for the default one.
        top_k: maps for so many of the best classes; 0 for one of the target's.
        relu, join: None for the method's own.
        scaling: of a second form of the map; None where only the raw one is wanted.
        points: of the curves of its faithfulness; 0 where that is not to be measured.
    """

    field: str
    method: str
    layers: tuple[str, ...] = ()
    target: Target = PREDICTED
    top_k: int = 0
    relu: bool | None = None
    join: Join | None = None
    augment: bool = False
    options: Options = OWN
    fusion: Fusion = Fusion.MEAN
    scaling: Scaling | None = None
    pictures: tuple[Picture, ...] = ()
    points: int = 0


@dataclass(frozen=True)
class PlannedCam:
    """One map, everything resolved.

    Attributes:
        index: its place in the request.
        layers: empty for a method at the input.
        shape: of the raw map.
        making: passes beyond the first forward pass and the backward passes that maps of one score share.
        judging: passes that measuring its faithfulness takes.
    """

    index: int
    method: Method
    layers: tuple[Layer, ...]
    target: Target
    relu: bool
    join: Join
    augment: bool
    options: Options
    fusion: Fusion
    scaling: Scaling | None
    pictures: tuple[Picture, ...]
    points: int
    shape: tuple[int, ...]
    making: Passes
    judging: Passes

    @property
    def passes(self) -> Passes:
        """All of them."""
        return Passes(self.making.forward + self.judging.forward, self.making.backward + self.judging.backward)

    @property
    def chance(self) -> bool:
        """Whether random numbers are drawn for it."""
        return self.method.chance or self.points > 0


def possible_methods(model: Model) -> list[str]:
    """The methods that some layer of the model, or its input, allows."""
    return [method.name for method in METHODS.values() if not _impossible(model, method)]


def plan_cams(
    model: Model, requests: Sequence[CamRequest], *, batch: int, pictures_sent: bool, max_passes: int
) -> tuple[PlannedCam, ...]:
    """Resolves the maps of a call; of a top k one for each rank.

    Args:
        pictures_sent: whether the input came as pictures.
        max_passes: runs of the network on one sample that the call may ask for.
    Raises:
        BadInput, InputTooLarge: methods, targets, settings and counts that do not go.
        UnknownLayer, NotHookable, CamNotPossible: a map that the method cannot make there; says what would work.
    """
    if len(requests) > MAX_CAMS:
        raise InputTooLarge("cams", "CAMs", len(requests), MAX_CAMS)
    planned = []
    for index, request in enumerate(requests):
        if Picture.OVERLAY in request.pictures and not pictures_sent:
            raise BadInput(f"{request.field}.pictures", "an overlay", "HEAT_MAP: no pictures or pixels were sent to lay it on")
        planned += list(_plan(model, index, request, batch))
    if len(planned) > MAX_CAMS:
        raise InputTooLarge("cams", "CAMs, those of each top k counted by themselves,", len(planned), MAX_CAMS)
    runs = batch * sum(cam.passes.forward for cam in planned)
    if runs > max_passes:
        raise InputTooLarge("cams", "runs of the network on one sample", runs, max_passes)
    return tuple(planned)


def _plan(model: Model, index: int, request: CamRequest, batch: int) -> Iterator[PlannedCam]:
    method = METHODS.get(request.method)
    if method is None:
        raise BadInput(f"{request.field}.method", repr(request.method[:100]), f"one of {', '.join(METHODS)}")
    check_target(model, request.target, batch, f"{request.field}.target")
    if request.top_k > model.score_classes:
        raise BadInput(f"{request.field}.target.top_k.k", str(request.top_k), f"1 to {model.score_classes}")
    _check_settings(request, method)
    layers = () if method.at_input else tuple(_layers(model, method, request))
    if method.at_input:
        _check_input(model, method, request)
    join = request.join or method.join
    channels, space = _source(model, layers)
    one = len(layers) <= 1
    shape = (batch, *((channels,) if join is Join.NONE and one else ()), *space)
    if request.pictures and len(shape) != 3:
        raise BadInput(f"{request.field}.pictures", f"pictures of a map {_shape_text(shape)}", "none: they are of maps [N, h, w]")
    options = _options(model, method, request)
    making = _making(model, method, layers, options, request)
    for rank in range(request.top_k or 1):
        yield PlannedCam(
            index=index,
            method=method,
            layers=layers,
            target=replace(request.target, rank=rank, finer=method.finer),
            relu=method.relu if request.relu is None else request.relu,
            join=join,
            augment=request.augment,
            options=options,
            fusion=request.fusion,
            scaling=request.scaling,
            pictures=request.pictures,
            points=request.points,
            shape=shape,
            making=making,
            judging=_judging(method, making, request, at_layers=bool(layers)),
        )


def check_target(model: Model, target: Target, batch: int, field: str) -> None:
    """Raises BadInput where the network has no such classes, or not one for each sample."""
    if not model.score_classes:
        raise BadInput(field, "a score of a class", f"captures of outputs and inputs: {_NO_CLASSES}")
    place = "contrast" if target.against else "classes"
    for name, classes in ((f"{place}.indices", target.classes), (f"{place}.against", target.against)):
        if len(classes) not in (0, 1, batch):
            raise BadInput(f"{field}.{name}", f"{len(classes)} classes", f"1, or one for each of the {batch} samples")
        for index in classes:
            if not 0 <= index < model.score_classes:
                raise BadInput(f"{field}.{name}", f"class {index}", f"0 to {model.score_classes - 1}")


def _check_settings(request: CamRequest, method: Method) -> None:
    """Raises BadInput for settings that are nothing for the method, or for each other."""
    settings = f"{request.field}.settings"
    if request.target.probability and method.needs is Needs.HEAD:
        raise BadInput(f"{settings}.score", "PROBABILITY", f"MODEL: {method.name!r} weighs by the weights of the class's logit")
    if request.target.against and method.finer:
        raise BadInput(f"{request.field}.target", "a contrast", f"a class: {method.name!r} finds what to compare with by itself")
    if request.augment and (method.at_input or method.needs is Needs.RUNS):
        cheap = ", ".join(other.name for other in METHODS.values() if not other.at_input and other.needs is not Needs.RUNS)
        raise BadInput(f"{settings}.augment", f"it for {method.name!r}", f"one of {cheap}")
    for name in ("steps", "window", "stride"):
        if getattr(request.options, name) and not getattr(method.default((1,)), name):
            takers = [repr(other.name) for other in METHODS.values() if getattr(other.default((1,)), name)]
            raise BadInput(f"{settings}.{name}", f"it for {method.name!r}", f"it for {', '.join(takers)} only")
    if request.points and (request.join is Join.NONE or request.target.against):
        what = "channels kept apart" if request.join is Join.NONE else "a contrast"
        raise BadInput(f"{request.field}.faithfulness", f"it with {what}", "one map of one class")
    if request.join is Join.NONE and len(request.layers) > 1:
        raise BadInput(f"{settings}.join", "NONE for several layers", "another, or one layer: channels of layers differ")


def _impossible(model: Model, method: Method) -> str:
    """Why the method can make no map of this model at all; empty where it can."""
    if not model.score_classes:
        return _NO_CLASSES
    if method.at_input:
        return _no_space(model) or (model.no_input_gradient if method.differentiates else "")
    if method.needs is Needs.HEAD and model.gap_head is None:
        return f"model {model.name!r} does not end in a global average pooling and one linear layer, which the method weighs by"
    return "" if any(_cells(model, layer) > 1 for layer in model.layers.firing) else "no layer of the network has axes in space"


def _no_space(model: Model) -> str:
    (first, *_) = model.inputs
    spatial = first.dtype.is_floating_point and 3 <= len(first.shape) <= 5
    return "" if spatial else f"its first input is {_shape_text(first.shape)} of {str(first.dtype).removeprefix('torch.')}"


def _check_input(model: Model, method: Method, request: CamRequest) -> None:
    if request.layers:
        raise BadInput(f"{request.field}.layers", repr(request.layers[0]), f"none: {method.name!r} explains at the network's input")
    if reason := _impossible(model, method):
        raise CamNotPossible(f"{request.field}.method", method.name, reason, "methods at a layer, such as 'grad-cam', may work")


def _layers(model: Model, method: Method, request: CamRequest) -> Iterator[Layer]:
    if len(request.layers) > MAX_FUSED:
        raise InputTooLarge(f"{request.field}.layers", "layers of one map", len(request.layers), MAX_FUSED)
    if method.needs is Needs.HEAD and (reason := _impossible(model, method)):
        raise CamNotPossible(f"{request.field}.method", method.name, reason, "'grad-cam' works at any layer [N, C, …]")
    if not request.layers:
        yield _default_layer(model, method, request)
    for position, name in enumerate(request.layers):
        field = f"{request.field}.layers[{position}]"
        layer = model.layers.exact(name, field)
        _check_layer(model, method, layer, field)
        yield layer


def _default_layer(model: Model, method: Method, request: CamRequest) -> Layer:
    field = f"{request.field}.layers"
    if method.needs is Needs.HEAD:
        assert model.gap_head is not None
        averaged = [model.layers.exact(name, field) for name in model.gap_head.layers]
        return [layer for layer in averaged if not layer.container][-1]
    found = [layer for layer in model.layers.firing if not layer.container and _cells(model, layer) > 1]
    found = [layer for layer in found if not (layer.no_gradient and method.differentiates)]
    if not found:
        raise CamNotPossible(field, method.name, "no layer of the network has axes in space", "ask for captures instead")
    found = [layer for layer in found if not (layer.fixed_size or layer.aside)] or found
    while len(found) > 1 and "pool" in found[-1].type.lower():  # what ends the network's space, even where it leaves some
        found.pop()
    return found[-1]


def _check_layer(model: Model, method: Method, layer: Layer, field: str) -> None:
    if not _cells(model, layer):
        shapes = ", ".join(tensor.shape_text for tensor in layer.outputs) or "nothing"
        works = [other.name for other in model.layers.firing if _cells(model, other) > 1]
        instead = f"it works at {', '.join(map(repr, works[-3:]))}" if works else "ask for captures instead"
        wanted = f"[{', '.join(['N', 'C', *_AXES[len(model.inputs[0].shape) - 2]])}]"
        raise CamNotPossible(field, method.name, f"layer {layer.name!r} puts out {shapes}, not {wanted}", instead)
    if layer.no_gradient and method.differentiates:
        raise NotHookable(field, layer.name, layer.no_gradient)
    if method.needs is Needs.HEAD and model.gap_head and layer.name not in model.gap_head.layers:
        missing = f"layer {layer.name!r} is not what the network averages before its linear layer"
        raise CamNotPossible(field, method.name, missing, f"it works at {', '.join(map(repr, model.gap_head.layers))}")


_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


def _cells(model: Model, layer: Layer) -> int:
    """Cells in space of a layer that puts out one [N, C, …] with as many axes as the network's input; 0 of any other."""
    axes = len(model.inputs[0].shape)
    if len(layer.outputs) != 1 or not 3 <= axes <= 5:
        return 0
    (output,) = layer.outputs
    spatial = output.batch_first and output.dtype.is_floating_point and len(output.shape) == axes
    return math.prod(output.shape[2:]) if spatial else 0


def _source(model: Model, layers: Sequence[Layer]) -> tuple[int, tuple[int, ...]]:
    """Channels, and sizes in space, of the largest layer, or of the input where there is none."""
    shapes = [layer.outputs[0].shape for layer in layers] or [model.inputs[0].shape]
    _, channels, *space = max(shapes, key=lambda shape: math.prod(shape[2:]))
    return channels, tuple(space)


def _options(model: Model, method: Method, request: CamRequest) -> Options:
    """The method's own where the request has none."""
    space = tuple(model.inputs[0].shape[2:])
    own, asked = method.default(space), request.options
    for name in ("window", "stride"):
        sizes = getattr(asked, name)
        if sizes and (len(sizes) not in (1, len(space)) or not all(sizes)):
            raise BadInput(f"{request.field}.settings.{name}", str(list(sizes)), f"one size, or {len(space)}, each 1 or more")
    if asked.steps > MAX_STEPS:
        raise InputTooLarge(f"{request.field}.settings.steps", "steps", asked.steps, MAX_STEPS)
    window = asked.window or own.window
    stride = asked.stride or tuple(max(1, math.ceil(edge / 2)) for edge in window)
    return Options(asked.steps or own.steps, window, stride)


def _making(model: Model, method: Method, layers: Sequence[Layer], options: Options, request: CamRequest) -> Passes:
    space = tuple(model.inputs[0].shape[2:])
    channels = [layer.outputs[0].shape[1] for layer in layers] or [model.inputs[0].shape[1]]
    each = [method.passes(Extent(count, space, options)) for count in channels]
    more = VARIANTS - 1 if request.augment else 0
    backward = sum(one.backward for one in each)
    return Passes(sum(one.forward for one in each) + more, backward + more * (backward + _shared_backward(method)))


def _judging(method: Method, making: Passes, request: CamRequest, *, at_layers: bool) -> Passes:
    """Two maps, the real one and a random one, are measured; and made again for other inputs, but for noise at the input."""
    if not request.points:
        return Passes()
    again = Passes(1 + making.forward, _shared_backward(method) + making.backward)
    measured = 2 * faithfulness.passes(request.points)
    return Passes(measured + faithfulness.DRAWS * (again.forward + int(at_layers)), faithfulness.DRAWS * again.backward)


def _shared_backward(method: Method) -> int:
    """Backward passes of a look that all maps of one score share."""
    return int(method.needs in (Needs.GRADIENT, Needs.CURVATURE))


def _shape_text(shape: Sequence[int]) -> str:
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"
