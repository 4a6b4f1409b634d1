"""What a caller asks as the messages that ask it: pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from itertools import chain
from typing import Literal, TypeAlias, TypedDict

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from cutaway._inputs import Inputs, Layout, input_messages
from cutaway._words import names
from cutaway.v1 import introspect_pb2, predict_pb2

Numbers: TypeAlias = int | Sequence[int] | None
"""One for all, one for each, or none."""


@dataclass(frozen=True, repr=False)
class Cam:
    """A class activation map, or an attribution of the input, to ask for.

    Args:
        method: one of the model's `introspection.cam_methods`, such as "cam" or "grad-cam".
        layer: exact name of the target layer, or of several, whose maps are fused; None for the last one before the end of
            the network's space. Not for methods that explain at the input.
        class_index: which class to explain, one for all samples or one for each; None for the predicted class of each.
        relu: whether negative values become 0; None for what the method's paper does.
        top_k: the best classes of each sample instead: so many maps, best first.
        against: explains what speaks for class_index and against this class, one for all samples or one for each.
        score: which score is explained: the model's own, such as a logit, or the class's probability. None for the former.
        channels: how the parts that channels add become a map; "each" keeps them apart. None for what the method's paper does.
        augment: the mean over six variants of the input: mirrored or not, three brightnesses.
        steps: of the path of "integrated-gradients", or noisy inputs of "smooth-grad"; 0 for the method's own.
        window: edge of the window of "occlusion" in pixels, one for all axes or one for each; None for an eighth of each.
        stride: by how many pixels it moves, likewise; None for half the window.
        fusion: how the maps of several layers become one; None for their mean.
        normalisation: has the map once more with its numbers scaled, for each sample: "min-max" to 0 … 1, "max" by the
            largest absolute value.
        upsampling: has the map once more at the size of the network's input; after the normalisation, where both are given.
        pictures: has PNG files drawn on the server: of the map by itself, or on the picture as it was sent.
        faithfulness: measures whether the map can be believed; a number says how many points its curves have.
    """

    method: str
    layer: str | Sequence[str] | None = None
    class_index: int | Sequence[int] | None = None
    relu: bool | None = None
    _: KW_ONLY
    top_k: int | None = None
    against: int | Sequence[int] | None = None
    score: Literal["model", "probability"] | None = None
    channels: Literal["sum", "principal", "largest", "each"] | None = None
    augment: bool = False
    steps: int = 0
    window: int | Sequence[int] | None = None
    stride: int | Sequence[int] | None = None
    fusion: Literal["mean", "max", "product"] | None = None
    normalisation: Literal["min-max", "max"] | None = None
    upsampling: Literal["bilinear", "nearest"] | None = None
    pictures: Sequence[Literal["heat-map", "overlay"]] = ()
    faithfulness: bool | int = False

    def __repr__(self) -> str:
        return _brief(self)


@dataclass(frozen=True, repr=False)
class Capture:
    """A layer to look at, and what becomes of its tensor before it travels.

    At most one of statistics, pool, channels and top_channels, which shrink it.

    Args:
        layer: an exact name, or a glob.
        statistics: numbers about the tensor instead of it.
        histogram_bins: the same, with a histogram of so many bins.
        pool: "mean" or "max" over space: the axes after (N, C).
        channels: some of axis 1, by index or as a slice without negative numbers.
        top_channels: so many of each sample's channels, those of the largest mean.
        size: what pool leaves of each axis in space: one number for all, or one for each; None for 1.
        precision: "float16", or "affine8": a byte an element with a scale and a zero point for each sample.
        class_index: for a gradient, of which class's score, one for all samples or one for each; None for the predicted class.
        against: for a gradient, of class_index's score less that of this class, one for all samples or one for each.
    """

    layer: str
    statistics: bool = False
    histogram_bins: int = 0
    pool: Literal["mean", "max"] | None = None
    channels: Sequence[int] | slice | None = None
    top_channels: int | None = None
    size: int | Sequence[int] | None = None
    precision: Literal["float16", "affine8"] | None = None
    class_index: int | Sequence[int] | None = None
    against: int | Sequence[int] | None = None

    def __repr__(self) -> str:
        return _brief(self)


def _brief(asked: Cam | Capture) -> str:
    """Only what was set."""
    given = ((field.name, getattr(asked, field.name)) for field in fields(asked) if getattr(asked, field.name) != field.default)
    return f"{type(asked).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"


class Look(TypedDict, total=False):
    """The keywords of introspect. A layer is an exact name or a glob; "*" crosses dots and matches no container."""

    layers: Sequence[str | Capture]
    """Layers whose output to take."""
    inputs: Sequence[str | Capture]
    """Layers whose input to take."""
    gradients: Sequence[str | Capture]
    """Layers where to take the gradient of the predicted class's score with respect to the output."""
    cams: Sequence[Cam]
    """Class activation maps to make."""
    top_k: int
    """How many best classes to name for each sample; 0 for none."""
    without_prediction: bool
    """Waives the prediction; the forward pass may then stop after the last layer wanted."""
    seed: int | None
    """For maps in which chance plays; None for one that the server draws, which `Started` tells."""
    version: str
    """Of the model; empty for the default one."""
    layout: Layout | None
    """What the axes of uint8 pixels are: "NHWC", "NCHW" or "NHW"; inferred where there is no doubt."""


def predict_request(
    model: str, x: Inputs, *, top_k: int = 0, version: str = "", layout: Layout | None = None
) -> predict_pb2.PredictRequest:
    """Asks for a prediction. Raises as input_messages does."""
    return predict_pb2.PredictRequest(
        model=model, version=version, inputs=input_messages(x, layout), top_k=_not_negative("top_k", top_k)
    )


def introspect_request(
    model: str,
    x: Inputs,
    *,
    layers: Sequence[str | Capture] = (),
    inputs: Sequence[str | Capture] = (),
    gradients: Sequence[str | Capture] = (),
    cams: Sequence[Cam] = (),
    top_k: int = 0,
    without_prediction: bool = False,
    seed: int | None = None,
    version: str = "",
    layout: Layout | None = None,
    plan_only: bool = False,
) -> introspect_pb2.IntrospectRequest:
    """Asks to look inside. Raises as input_messages does, and ValueError for a Capture or Cam that contradicts itself."""
    return introspect_pb2.IntrospectRequest(
        model=model,
        version=version,
        inputs=input_messages(x, layout),
        top_k=_not_negative("top_k", top_k),
        captures=chain(
            _captures("layers", layers, introspect_pb2.CAPTURE_KIND_OUTPUT),
            _captures("inputs", inputs, introspect_pb2.CAPTURE_KIND_INPUT),
            _captures("gradients", gradients, introspect_pb2.CAPTURE_KIND_GRADIENT),
        ),
        cams=map(_cam, cams),
        without_prediction=without_prediction,
        seed=seed,
        plan_only=plan_only,
    )


def _captures(keyword: str, layers: Sequence[str | Capture], kind: introspect_pb2.CaptureKind) -> list[introspect_pb2.Capture]:
    if isinstance(layers, str):  # a string is a sequence of its letters, which nobody means
        raise TypeError(f"{keyword} is a list of names: write {keyword}=[{layers!r}]")
    return [_capture(Capture(layer) if isinstance(layer, str) else layer, kind) for layer in layers]


def _capture(capture: Capture, kind: introspect_pb2.CaptureKind) -> introspect_pb2.Capture:
    message = introspect_pb2.Capture(
        layer=capture.layer,
        kind=kind,
        target=_target(capture.class_index, capture.against),
        precision=_choice("precision", introspect_pb2.Precision, capture.precision),
    )
    shrinks = [shrink for shrink in (_statistics(capture), _pool(capture), _channels(capture), _top_channels(capture)) if shrink]
    if len(shrinks) > 1:
        raise ValueError(f"layer {capture.layer!r}: only one of statistics, pool, channels and top_channels goes at a time")
    for shrink in shrinks:
        message.MergeFrom(shrink)
    return message


def _statistics(capture: Capture) -> introspect_pb2.Capture | None:
    if not (capture.statistics or capture.histogram_bins):
        return None
    bins = _not_negative("histogram_bins", capture.histogram_bins)
    return introspect_pb2.Capture(statistics=introspect_pb2.Statistics(histogram_bins=bins))


def _pool(capture: Capture) -> introspect_pb2.Capture | None:
    if capture.pool is None:
        if capture.size is not None:
            raise ValueError(f"layer {capture.layer!r}: size goes with pool")
        return None
    method = _choice("pool", introspect_pb2.PoolMethod, capture.pool)
    return introspect_pb2.Capture(pool=introspect_pb2.Pool(method=method, size=_sizes("size", capture.size)))


def _top_channels(capture: Capture) -> introspect_pb2.Capture | None:
    if capture.top_channels is None:
        return None
    return introspect_pb2.Capture(channels=introspect_pb2.Channels(top_k=_not_negative("top_channels", capture.top_channels)))


def _channels(capture: Capture) -> introspect_pb2.Capture | None:
    if capture.channels is None:
        return None
    if isinstance(capture.channels, slice):
        return introspect_pb2.Capture(channels=introspect_pb2.Channels(range=_channel_range(capture.channels)))
    indices = introspect_pb2.ChannelIndices(indices=[_not_negative("channels", index) for index in capture.channels])
    return introspect_pb2.Capture(channels=introspect_pb2.Channels(indices=indices))


def _channel_range(channels: slice) -> introspect_pb2.ChannelRange:
    if channels.step is not None and channels.step < 1:
        raise ValueError(f"the step of channels must be 1 or more, not {channels.step}")
    start, step = (_not_negative("channels", part or 0) for part in (channels.start, channels.step))
    stop = None if channels.stop is None else _not_negative("channels", channels.stop)
    return introspect_pb2.ChannelRange(start=start, stop=stop, step=step)


def _cam(cam: Cam) -> introspect_pb2.Cam:
    return introspect_pb2.Cam(
        method=cam.method,
        layers=[cam.layer] if isinstance(cam.layer, str) else cam.layer,
        target=_target(cam.class_index, cam.against, cam.top_k),
        settings=_settings(cam),
        fusion=_choice("fusion", introspect_pb2.Fusion, cam.fusion),
        scaling=_scaling(cam),
        pictures=[_choice("pictures", introspect_pb2.CamPicture, picture) for picture in cam.pictures],
        faithfulness=_faithfulness(cam),
    )


def _settings(cam: Cam) -> introspect_pb2.CamSettings:
    settings = introspect_pb2.CamSettings(
        score=_choice("score", introspect_pb2.Score, cam.score),
        join=_choice("channels", introspect_pb2.ChannelJoin, cam.channels),
        augment=cam.augment,
        steps=_not_negative("steps", cam.steps),
        window=_sizes("window", cam.window),
        stride=_sizes("stride", cam.stride),
    )
    if cam.relu is not None:
        settings.relu = cam.relu
    return settings


def _scaling(cam: Cam) -> introspect_pb2.Scaling | None:
    if cam.normalisation is None and cam.upsampling is None:
        return None
    return introspect_pb2.Scaling(
        normalisation=_choice("normalisation", introspect_pb2.Normalisation, cam.normalisation),
        upsampling=_choice("upsampling", introspect_pb2.Upsampling, cam.upsampling),
    )


def _faithfulness(cam: Cam) -> introspect_pb2.FaithfulnessSettings | None:
    if cam.faithfulness is False:
        return None
    steps = 0 if cam.faithfulness is True else _not_negative("faithfulness", cam.faithfulness)
    return introspect_pb2.FaithfulnessSettings(steps=steps)


def _target(class_index: Numbers, against: Numbers, top_k: int | None = None) -> introspect_pb2.Target | None:
    """Of which score; None for the predicted class's."""
    if top_k is not None and (class_index is not None or against is not None):
        raise ValueError("top_k asks for the best classes: it goes without class_index and against")
    if against is not None and class_index is None:
        raise ValueError("against goes with class_index: the class that it is to be set apart from")
    if top_k is not None:
        return introspect_pb2.Target(top_k=introspect_pb2.TopK(k=_not_negative("top_k", top_k)))
    if against is not None:
        return introspect_pb2.Target(contrast=introspect_pb2.Contrast(indices=_each(class_index), against=_each(against)))
    if class_index is not None:
        return introspect_pb2.Target(classes=introspect_pb2.ClassIndices(indices=_each(class_index)))
    return None


def _each(numbers: Numbers) -> Sequence[int]:
    return () if numbers is None else numbers if isinstance(numbers, Iterable) else (numbers,)


def _sizes(name: str, numbers: Numbers) -> list[int]:
    return [_not_negative(name, number) for number in _each(numbers)]


def _choice(name: str, enum: EnumTypeWrapper, word: str | None) -> str:
    """The enum's name for a word; None leaves it to the server."""
    choices = names(enum)
    if word not in choices:
        raise ValueError(f"{name} must be one of {', '.join(repr(choice) for choice in choices if choice)}, not {word!r}")
    return choices[word]


def _not_negative(name: str, number: int) -> int:
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {number}")
    return number
