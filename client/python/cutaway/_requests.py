"""What a caller asks as the messages that ask it: pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypedDict, TypeVar

from cutaway._inputs import Inputs, Layout, input_messages
from cutaway.v1 import introspect_pb2, predict_pb2

N = TypeVar("N")


@dataclass(frozen=True)
class Cam:
    """A class activation map to ask for.

    Args:
        method: one of the model's `introspection.cam_methods`, such as "cam" or "grad-cam".
        layer: exact name of the target layer; None for the last one with a plane (N, C, H, W).
        class_index: which class to explain, one for all samples or one for each; None for the predicted class of each.
        relu: whether negative values become 0; None for what the method's paper does.
    """

    method: str
    layer: str | None = None
    class_index: int | Sequence[int] | None = None
    relu: bool | None = None


@dataclass(frozen=True)
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
    """For methods in which chance plays."""
    version: str
    """Of the model; empty for the default one."""
    layout: Layout | None
    """What the axes of uint8 pixels are: "NHWC", "NCHW" or "NHW"; inferred where there is no doubt."""


_PRECISIONS: dict[str, introspect_pb2.Precision] = {
    "float16": introspect_pb2.PRECISION_FLOAT16,
    "affine8": introspect_pb2.PRECISION_AFFINE8,
}
_POOLS: dict[str, introspect_pb2.PoolMethod] = {"mean": introspect_pb2.POOL_METHOD_MEAN, "max": introspect_pb2.POOL_METHOD_MAX}


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
    """Asks to look inside. Raises as input_messages does, and ValueError for a Capture that contradicts itself."""
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
    message = introspect_pb2.Capture(layer=capture.layer, kind=kind)
    if capture.class_index is not None:
        message.target.CopyFrom(_target(capture.class_index))
    if capture.precision is not None:
        message.precision = _choice("precision", capture.precision, _PRECISIONS)
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
    sizes = capture.size if isinstance(capture.size, Iterable) else [1 if capture.size is None else capture.size]
    method = _choice("pool", capture.pool, _POOLS)
    return introspect_pb2.Capture(pool=introspect_pb2.Pool(method=method, size=[_not_negative("size", size) for size in sizes]))


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
    message = introspect_pb2.Cam(method=cam.method, layer=cam.layer or "")
    if cam.class_index is not None:
        message.target.CopyFrom(_target(cam.class_index))
    if cam.relu is not None:
        message.settings.relu = cam.relu
    return message


def _target(class_index: int | Sequence[int]) -> introspect_pb2.Target:
    indices = class_index if isinstance(class_index, Iterable) else [class_index]
    return introspect_pb2.Target(classes=introspect_pb2.ClassIndices(indices=indices))


def _choice(name: str, word: str, choices: Mapping[str, N]) -> N:
    if word not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {word!r}")
    return choices[word]


def _not_negative(name: str, number: int) -> int:
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {number}")
    return number
