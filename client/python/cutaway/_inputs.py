"""What a caller gives as input (arrays, picture files, pictures) as the messages that carry it."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from PIL import Image

from cutaway._tensors import Array, encode
from cutaway.v1 import input_pb2


class SupportsArray(Protocol):
    """A numpy array, or what makes itself one, such as a tensor of torch on the CPU."""

    def __array__(self) -> Array: ...


Layout: TypeAlias = Literal["NHWC", "NCHW", "NHW"]
One: TypeAlias = SupportsArray | bytes | str | os.PathLike[str] | Image.Image
Value: TypeAlias = One | Sequence[One]
Inputs: TypeAlias = Value | Mapping[str, Value]

_LAYOUTS: dict[str, input_pb2.PixelLayout] = {
    "NHWC": input_pb2.PIXEL_LAYOUT_NHWC,
    "NCHW": input_pb2.PIXEL_LAYOUT_NCHW,
    "NHW": input_pb2.PIXEL_LAYOUT_NHW,
}
_CHANNELS = (1, 3)


def input_messages(x: Inputs, layout: Layout | None = None) -> list[input_pb2.Input]:
    """One message for each input; without a name where x is not a mapping.

    Args:
        x: an array with the batch first, or pictures (bytes of a PNG or JPEG file, its path, a PIL image), or the path
            of a .npy file, or a list of those, one batch; or a mapping from input names to those.
            uint8 arrays are pixels, all others are model-ready.
        layout: what the axes of uint8 arrays are; inferred where there is no doubt.
    Raises:
        TypeError: a value or dtype that cannot be sent.
        ValueError: uint8 pixels whose layout is in doubt or does not fit; a layout where nothing is pixels; arrays
            that do not join.
        OSError: a file that cannot be read.
    """
    if layout is not None and layout not in _LAYOUTS:
        raise ValueError(f"layout {layout!r} is none of {', '.join(_LAYOUTS)}")
    named = x if isinstance(x, Mapping) else {"": x}
    messages = [_message(name, value, layout) for name, value in named.items()]
    if layout is not None and not any(message.layout for message in messages):
        raise ValueError(f"layout={layout!r} is for arrays of uint8 pixels, and none was given")
    return messages


def _message(name: str, value: Value, layout: Layout | None) -> input_pb2.Input:
    loaded = [_loaded(part) for part in (value if isinstance(value, (list, tuple)) else [value])]
    files = [part for part in loaded if isinstance(part, bytes)]
    arrays = [part for part in loaded if not isinstance(part, bytes)]
    if not loaded:
        raise ValueError("an empty list holds no input")
    if files and arrays:
        raise TypeError("one input is either all pictures or all arrays, not both")
    if files:
        return input_pb2.Input(name=name, images=input_pb2.EncodedImages(files=files))
    return _tensor_input(name, _joined(arrays), layout)


def _loaded(value: Any) -> bytes | Array:
    """The bytes of a picture file, or an array."""
    match value:
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case Image.Image():
            return _png(value)
        case str() | os.PathLike():
            return read(value)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise TypeError(f"a {type(value).__name__} is no input: give an array, or a picture as bytes, path or PIL image")


def read(path: str | os.PathLike[str]) -> bytes | Array:
    """A file's bytes as they are, or the array of a .npy file (never one with pickled objects)."""
    if os.fspath(path).endswith(".npy"):
        array: Array = np.load(path, allow_pickle=False)
        return array
    with open(path, "rb") as file:
        return file.read()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", compress_level=1)  # fast: the bytes live for one call
    except OSError as error:
        raise TypeError(f"a picture of mode {image.mode} cannot be sent as PNG: convert it to L or RGB") from error
    return buffer.getvalue()


def _joined(arrays: Sequence[Array]) -> Array:
    """Arrays one after the other along the batch axis."""
    if len(arrays) == 1:
        return arrays[0]
    if len({array.dtype for array in arrays}) > 1 or len({array.shape[1:] for array in arrays}) > 1:
        kinds = ", ".join(f"{array.dtype.name} {array.shape}" for array in arrays)
        raise ValueError(f"the arrays of one batch must agree in dtype and in all axes but the first: {kinds}")
    return np.concatenate(arrays)


def _tensor_input(name: str, array: Array, layout: Layout | None) -> input_pb2.Input:
    message = input_pb2.Input(name=name, tensor=encode(array))
    if array.dtype == np.uint8:
        message.layout = _LAYOUTS[_checked(array.shape, layout) if layout else inferred_layout(array.shape)]
    return message


def _checked(shape: tuple[int, ...], layout: Layout) -> Layout:
    if len(shape) != len(layout):
        raise ValueError(f"layout {layout} has {len(layout)} axes, but the pixels have the shape {shape}")
    return layout


def inferred_layout(shape: tuple[int, ...]) -> Layout:
    """What the axes of uint8 pixels are, where the shape leaves no doubt.

    Raises:
        ValueError: it does; the message says how to settle it.
    """
    match shape:
        case (_, _, width) if width not in _CHANNELS:
            return "NHW"
        case (_, first, _, last) if first in _CHANNELS and last not in _CHANNELS:
            return "NCHW"
        case (_, first, _, last) if last in _CHANNELS and first not in _CHANNELS:
            return "NHWC"
    raise ValueError(
        f"uint8 pixels of shape {shape} can be read in several ways or in none:"
        " give layout='NHWC', 'NCHW' or 'NHW', the batch first"
    )
