"""From request messages to what the wings take. What comes out is valid."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cutaway.v1 import input_pb2, introspect_pb2, tensor_pb2
from cutaway_server.errors import BadInput, InputTooLarge
from cutaway_server.introspection.plan import MAX_KEPT_CHANNELS, CaptureKind, CaptureRequest
from cutaway_server.introspection.reduce import (
    ChannelList,
    ChannelRange,
    Pool,
    Precision,
    Reduction,
    Shrink,
    Statistics,
    TopChannels,
)
from cutaway_server.introspection.target import Target
from cutaway_server.models.arrays import Array
from cutaway_server.models.model import InputSpec, Model, shape_text
from cutaway_server.models.preprocessing import ImageSpec, Placement, check_sides, open_image, preprocess_all
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.tensors import ARRAY_DTYPES, WIRE_DTYPES, Naming, decode_tensor, dtype_name, naming

_LAYOUTS = {
    input_pb2.PIXEL_LAYOUT_NHWC: (4, (0, 1, 2, 3)),
    input_pb2.PIXEL_LAYOUT_NCHW: (4, (0, 2, 3, 1)),
    input_pb2.PIXEL_LAYOUT_NHW: (3, (0, 1, 2)),
}


@dataclass(frozen=True)
class Decoded:
    """A network's arguments on the host, the batch first, and what they were made of.

    Attributes:
        placements: where each sample of the first input lies on its photograph; empty where none were sent.
        photographs: those, where they are to be drawn on.
    """

    arguments: tuple[Tensor, ...]
    placements: tuple[Placement, ...]
    photographs: tuple[Image.Image, ...]

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.arguments[0])


class Ready(NamedTuple):
    """One input, and what it was made of."""

    tensor: Tensor
    placements: tuple[Placement, ...] = ()
    photographs: tuple[Image.Image, ...] = ()


def decode_inputs(model: Model, inputs: Sequence[input_pb2.Input], limits: Limits, *, keep_photographs: bool = False) -> Decoded:
    """All inputs of a call.

    Args:
        keep_photographs: whether pictures will be drawn on them.
    Raises:
        BadInput, InputTooLarge: names the field, what came and what is expected.
    """

    def decode(position: int, spec: InputSpec) -> Ready:
        return _decode_input(inputs[position], spec, f"inputs[{position}]", limits, keep_photographs)

    return decode_named(model, [message.name for message in inputs], decode)


def decode_named(model: Model, names: Sequence[str], decode: Callable[[int, InputSpec], Ready]) -> Decoded:
    """All inputs of a call, which come under these names; `decode` makes the one at a position ready for its spec.

    Raises:
        BadInput: one that the model has not, one twice, one missing, or batches that differ.
    """
    ready: dict[str, Ready] = {}
    for position, name in enumerate(names):
        spec = _spec(model, name, position)
        if spec.name in ready:
            raise BadInput(f"inputs[{position}].name", f"a second input {spec.name!r}", "each input once")
        ready[spec.name] = decode(position, spec)
    for spec in model.inputs:
        if spec.name not in ready:
            raise BadInput("inputs", f"no input {spec.name!r}", f"one for each of {', '.join(s.name for s in model.inputs)}")
    arguments = tuple(ready[spec.name].tensor for spec in model.inputs)
    if len({len(argument) for argument in arguments}) > 1:
        raise BadInput("inputs", f"batches of {[len(argument) for argument in arguments]}", "the same batch size for all inputs")
    first = ready[model.inputs[0].name]
    return Decoded(arguments, first.placements, first.photographs)


def inputs_at_hand(model: Model, inputs: Sequence[input_pb2.Input]) -> tuple[Array, ...] | None:
    """What `decode_inputs` gives for model-ready tensors that are as they must be; None for all else."""
    if len(inputs) != len(model.inputs):
        return None
    if len(inputs) == 1:
        (spec,), (given,) = model.inputs, inputs
        array = _array_at_hand(given.tensor, spec) if given.name in ("", spec.name) else None
        return None if array is None else (array,)
    by_name = {given.name: given.tensor for given in inputs}
    found = [_array_at_hand(by_name[spec.name], spec) if spec.name in by_name else None for spec in model.inputs]
    arguments = tuple(array for array in found if array is not None)
    return arguments if len(arguments) == len(found) and len({argument.shape[0] for argument in arguments}) == 1 else None


def _array_at_hand(message: tensor_pb2.Tensor, spec: InputSpec) -> Array | None:
    if message.dtype != WIRE_DTYPES.get(spec.dtype) or len(message.shape) != len(spec.shape):
        return None
    return array_at_hand(message.data, tuple(message.shape), spec)


def array_at_hand(data: bytes, shape: tuple[int, ...], spec: InputSpec) -> Array | None:
    """A model-ready array of the spec's type over bytes that nobody else holds, if it is as it must be.

    Args:
        shape: with as many axes as the spec's.
    Looks at nothing twice and copies nothing: it takes a fraction of the long way's time, which tells what is wrong.
    """
    dtype = ARRAY_DTYPES.get(spec.dtype)
    # Of single bytes Python keeps one object each, for everybody.
    if dtype is None or not spec.fits(shape) or len(data) < 2 or len(data) != math.prod(shape) * dtype.itemsize:
        return None
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if dtype.kind != "f" or np.logical_and.reduce(np.isfinite(array), axis=None) else None


def _spec(model: Model, name: str, position: int) -> InputSpec:
    if not name and len(model.inputs) == 1:
        return model.inputs[0]
    for spec in model.inputs:
        if spec.name == name:
            return spec
    raise BadInput(f"inputs[{position}].name", repr(name[:100]), f"one of {', '.join(repr(spec.name) for spec in model.inputs)}")


def _decode_input(message: input_pb2.Input, spec: InputSpec, field: str, limits: Limits, keep: bool) -> Ready:
    which = message.WhichOneof("value")
    if which is None:
        raise BadInput(field, "no value", "a tensor or images")
    if which == "tensor" and not (message.tensor.dtype == tensor_pb2.DATA_TYPE_UINT8 and spec.dtype != torch.uint8):
        tensor, named = decode_tensor(message.tensor, f"{field}.tensor"), naming(f"{field}.tensor")
        check_dtype(tensor.dtype, spec, named, "UINT8 pixels")
        return Ready(model_ready(tensor, spec, named))
    if spec.image is None:
        raise BadInput(f"{field}.{which}", "pixels", f"a model-ready {wanted(spec)}: this model has no preprocessing")
    images = _pictures(message, field, limits) if which == "tensor" else _photographs(message.images, f"{field}.images", limits)
    return prepared(images, spec, spec.image, field, limits, keep=keep)


def prepared(images: list[Image.Image], spec: InputSpec, image: ImageSpec, field: str, limits: Limits, *, keep: bool) -> Ready:
    """Photographs as an input of the network. Raises InputTooLarge where they take more than one call may have."""
    size = len(images) * math.prod(spec.usual) * spec.dtype.itemsize
    if size > limits.input_bytes:
        raise InputTooLarge(field, "bytes of model-ready input", size, limits.input_bytes)
    ready, placements = preprocess_all(images, image)
    return Ready(ready.to(spec.dtype), placements, tuple(images) if keep else ())


def check_dtype(dtype: torch.dtype | None, spec: InputSpec, naming: Naming, pixels: str, said: str = "") -> None:
    """Raises BadInput unless a model-ready tensor's element type is the spec's.

    Args:
        pixels: what may come instead, where the model prepares photographs.
        said: the type as the request has it, if that is not `naming`'s word for it.
    """
    if dtype != spec.dtype:
        came = said or (naming.word(dtype) if dtype else "none")
        tensor = wanted(spec, naming.word)
        raise BadInput(naming.dtype, came, f"a {tensor}, or {pixels}" if spec.image else tensor)


def model_ready(tensor: Tensor, spec: InputSpec, naming: Naming) -> Tensor:
    """The tensor. Raises BadInput unless it is of the spec's shape, not empty, and finite."""
    if not tensor.ndim or not spec.fits(tensor.shape):
        raise BadInput(naming.shape, str(list(tensor.shape)), f"{wanted(spec, naming.word)}, the batch first")
    if not tensor.numel():
        raise BadInput(naming.shape, f"an empty batch {list(tensor.shape)}", "at least one sample")
    if tensor.dtype.is_floating_point and not is_finite(tensor):
        bad = int((~tensor.isfinite()).sum())
        raise BadInput(naming.data, f"{bad:,} values that are NaN or infinite", "finite values only")
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether all of a floating tensor's values are. NumPy takes a seventh of PyTorch's time for it."""
    exact = tensor.isfinite() if tensor.dtype is torch.bfloat16 else np.isfinite(tensor.numpy())  # NumPy has no bfloat16
    return bool(exact.all())


def _pictures(message: input_pb2.Input, field: str, limits: Limits) -> list[Image.Image]:
    """UINT8 pixels as pictures."""
    names = ", ".join(input_pb2.PixelLayout.Name(layout).removeprefix("PIXEL_LAYOUT_") for layout in _LAYOUTS)
    if message.layout not in _LAYOUTS:
        raise BadInput(f"{field}.layout", "none", f"one of {names}: UINT8 tensors are pixels")
    axes, order = _LAYOUTS[message.layout]
    pixels = decode_tensor(message.tensor, f"{field}.tensor")
    layout = input_pb2.PixelLayout.Name(message.layout).removeprefix("PIXEL_LAYOUT_")
    if pixels.ndim != axes or (axes == 4 and pixels.permute(order).shape[3] not in (1, 3)):
        raise BadInput(f"{field}.tensor.shape", str(list(pixels.shape)), f"{layout} with 1 or 3 channels")
    if not pixels.numel():
        raise BadInput(f"{field}.tensor.shape", f"no pixels {list(pixels.shape)}", "at least one picture of one pixel")
    last = pixels.permute(order).contiguous()
    if last[..., 0].numel() > limits.pixels if axes == 4 else last.numel() > limits.pixels:
        raise InputTooLarge(f"{field}.tensor", "pixels", last.shape[:3].numel(), limits.pixels)
    check_sides(last.shape[2], last.shape[1], f"{field}.tensor.shape")
    gray = axes == 3 or last.shape[3] == 1
    return [Image.fromarray((picture.reshape(picture.shape[:2]) if gray else picture).numpy()) for picture in last]


def _photographs(message: input_pb2.EncodedImages, field: str, limits: Limits) -> list[Image.Image]:
    if not message.files:
        raise BadInput(f"{field}.files", "none", "at least one PNG or JPEG")
    return photographs(message.files, f"{field}.files", limits)


def photographs(files: Iterable[bytes], field: str, limits: Limits) -> list[Image.Image]:
    """PNG and JPEG files as pictures.

    Raises:
        BadInput, InputTooLarge: names the field, and the file's place in it.
    """
    images: list[Image.Image] = []
    left = limits.pixels
    for position, data in enumerate(files):
        image = open_image(data, f"{field}[{position}]", left)
        left -= image.width * image.height
        images.append(image)
    return images


def wanted(spec: InputSpec, word: Callable[[torch.dtype], str] = dtype_name) -> str:
    """What a model-ready tensor for this input is."""
    return f"{word(spec.dtype)} tensor {shape_text(spec)}"


_MAX_NAME = 1000  # characters: a glob is compiled, which takes seconds for a long one
_MAX_BINS = 1024
_MAX_SPACE = 3  # axes after [N, C]
_PRECISIONS = {
    introspect_pb2.PRECISION_UNSPECIFIED: Precision.OWN,
    introspect_pb2.PRECISION_FLOAT16: Precision.FLOAT16,
    introspect_pb2.PRECISION_AFFINE8: Precision.AFFINE8,
}
_KINDS = {
    introspect_pb2.CAPTURE_KIND_UNSPECIFIED: CaptureKind.OUTPUT,
    introspect_pb2.CAPTURE_KIND_OUTPUT: CaptureKind.OUTPUT,
    introspect_pb2.CAPTURE_KIND_INPUT: CaptureKind.INPUT,
    introspect_pb2.CAPTURE_KIND_GRADIENT: CaptureKind.GRADIENT,
}


def decode_captures(messages: Sequence[introspect_pb2.Capture]) -> list[CaptureRequest]:
    """What is to be captured.

    Raises:
        BadInput: no layer, a target for what has none, or a reduction that is none.
    """
    return [_decode_capture(message, index) for index, message in enumerate(messages)]


def _decode_capture(message: introspect_pb2.Capture, index: int) -> CaptureRequest:
    field = f"captures[{index}]"
    if not message.layer:
        raise BadInput(f"{field}.layer", "an empty name", "a layer's name or a glob")
    if len(message.layer) > _MAX_NAME:
        raise BadInput(f"{field}.layer", f"{len(message.layer):,} characters", f"at most {_MAX_NAME:,}")
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise BadInput(f"{field}.kind", f"value {message.kind}", "OUTPUT, INPUT or GRADIENT")
    if message.HasField("target") and kind is not CaptureKind.GRADIENT:
        raise BadInput(f"{field}.target", f"a target for {kind.name}", "one for GRADIENT only")
    if message.target.HasField("top_k"):
        raise BadInput(f"{field}.target.top_k", "a top k", "one score for a gradient; CAMs take a top k")
    target = decode_target(message.target, f"{field}.target")
    return CaptureRequest(index, field, message.layer, kind, target, _decode_reduction(message, field))


def _decode_reduction(message: introspect_pb2.Capture, field: str) -> Reduction:
    precision = _PRECISIONS.get(message.precision)
    if precision is None:
        raise BadInput(f"{field}.precision", f"value {message.precision}", "FLOAT16, AFFINE8 or none")
    shrink = _decode_shrink(message, field)
    if isinstance(shrink, Statistics) and precision is not Precision.OWN:
        raise BadInput(f"{field}.precision", "a precision for statistics", "none: they are FLOAT64")
    return Reduction(shrink, precision)


def _decode_shrink(message: introspect_pb2.Capture, field: str) -> Shrink | None:
    which = message.WhichOneof("reduction")
    if which == "statistics":
        bins = message.statistics.histogram_bins
        if bins > _MAX_BINS:
            raise BadInput(f"{field}.statistics.histogram_bins", str(bins), f"0 to {_MAX_BINS}")
        return Statistics(bins)
    if which == "pool":
        if message.pool.method not in introspect_pb2.PoolMethod.values():
            raise BadInput(f"{field}.pool.method", f"value {message.pool.method}", "MEAN or MAX")
        if len(message.pool.size) > _MAX_SPACE:
            raise BadInput(f"{field}.pool.size", f"{len(message.pool.size)} sizes", f"at most {_MAX_SPACE}")
        return Pool(message.pool.method == introspect_pb2.POOL_METHOD_MAX, tuple(message.pool.size) or (1,))
    return _decode_channels(message.channels, f"{field}.channels") if which else None


def _decode_channels(message: introspect_pb2.Channels, field: str) -> Shrink:
    which = message.WhichOneof("which")
    if which == "indices":
        indices = message.indices.indices
        if not 1 <= len(indices) <= MAX_KEPT_CHANNELS:
            raise BadInput(f"{field}.indices", f"{len(indices):,} channels", f"1 to {MAX_KEPT_CHANNELS:,}")
        return ChannelList(tuple(indices))
    if which == "top_k":
        if not message.top_k:
            raise BadInput(f"{field}.top_k", "0", "1 or more")
        return TopChannels(message.top_k)
    if which == "range":
        stop = message.range.stop if message.range.HasField("stop") else None
        return ChannelRange(message.range.start, stop, message.range.step or 1)
    raise BadInput(field, "no channels", "indices, top_k or range")


def decode_target(message: introspect_pb2.Target, field: str, probability: bool = False) -> Target:
    """Which score is meant; of a top k the best class's.

    Raises:
        BadInput: classes without a number.
    """
    which = message.WhichOneof("target")
    if which == "classes":
        return Target(_classes(message.classes.indices, f"{field}.classes.indices"), probability=probability)
    if which == "contrast":
        classes = _classes(message.contrast.indices, f"{field}.contrast.indices")
        return Target(classes, _classes(message.contrast.against, f"{field}.contrast.against"), probability=probability)
    return Target(probability=probability)


def _classes(indices: Sequence[int], field: str) -> tuple[int, ...]:
    if not indices:
        raise BadInput(field, "none", "one for all samples, or one for each")
    return tuple(indices)
