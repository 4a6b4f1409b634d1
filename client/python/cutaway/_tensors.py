"""Tensors: numpy arrays to the bytes of the contract and back. Row-major, little-endian, no padding."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cutaway._errors import BrokenAnswer
from cutaway._words import word
from cutaway.v1 import tensor_pb2

Array: TypeAlias = NDArray[Any]

# What an element's bytes are on the wire. BFLOAT16 has no numpy type: its bytes are the upper half of a float32's. BOOL
# is read as a byte, since numpy leaves a bool of any byte but 0 and 1 undefined.
_WIRE: dict[tensor_pb2.DataType, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_BFLOAT16: np.dtype("<u2"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DATA_TYPE_INT8: np.dtype("<i1"),
    tensor_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype("<u1"),
    tensor_pb2.DATA_TYPE_BOOL: np.dtype("<u1"),
}
_BY_NAME = {
    "float32": tensor_pb2.DATA_TYPE_FLOAT32,
    "float16": tensor_pb2.DATA_TYPE_FLOAT16,
    "float64": tensor_pb2.DATA_TYPE_FLOAT64,
    "int8": tensor_pb2.DATA_TYPE_INT8,
    "int16": tensor_pb2.DATA_TYPE_INT16,
    "int32": tensor_pb2.DATA_TYPE_INT32,
    "int64": tensor_pb2.DATA_TYPE_INT64,
    "uint8": tensor_pb2.DATA_TYPE_UINT8,
    "bool": tensor_pb2.DATA_TYPE_BOOL,
}


def encode(array: Array) -> tensor_pb2.Tensor:
    """An array of any memory layout and byte order as a message.

    Raises:
        TypeError: its dtype has no place in the contract (complex, unsigned above 8 bits, strings, objects …).
    """
    number = _BY_NAME.get(array.dtype.name)
    if number is None:
        raise TypeError(f"an array of {array.dtype.name} cannot be sent: its dtype must be in {', '.join(_BY_NAME)}")
    data = array.astype(_WIRE[number], copy=False).tobytes(order="C")
    return tensor_pb2.Tensor(dtype=number, shape=array.shape, data=data)


def decode(dtype: tensor_pb2.DataType, shape: Sequence[int], data: bytes | bytearray) -> Array:
    """The array that the bytes hold: writable, in the machine's byte order; BFLOAT16 becomes float32.

    A bytearray becomes the array's memory where its bytes can stay as they are, so it must not be used afterwards.

    Raises:
        BrokenAnswer: an unknown dtype, a negative size, or another number of bytes than dtype and shape ask for.
    """
    if len(data) != (expected := byte_count(dtype, shape)):
        raise BrokenAnswer(f"a tensor of shape {tuple(shape)} came with {len(data)} bytes instead of {expected}")
    try:
        raw = np.frombuffer(data if isinstance(data, bytearray) else bytearray(data), _WIRE[dtype]).reshape(shape)
    except ValueError as error:  # more axes than numpy has, or sizes beyond its integers beside a 0
        raise BrokenAnswer(f"a tensor came with the shape {tuple(shape)}, which numpy cannot hold") from error
    if dtype == tensor_pb2.DATA_TYPE_BFLOAT16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    if dtype == tensor_pb2.DATA_TYPE_BOOL:
        return raw.astype(np.bool_)
    return raw.astype(raw.dtype.newbyteorder("="), copy=False)


def byte_count(dtype: tensor_pb2.DataType, shape: Sequence[int]) -> int:
    """How many bytes a tensor has on the wire.

    Raises:
        BrokenAnswer: an unknown dtype or a negative size.
    """
    if dtype not in _WIRE:
        raise BrokenAnswer(f"a tensor came with data type {dtype}, which this client does not know: a newer one may")
    if any(size < 0 for size in shape):
        raise BrokenAnswer(f"a tensor came with the impossible shape {tuple(shape)}")
    return math.prod(shape) * _WIRE[dtype].itemsize


def dtype_name(dtype: tensor_pb2.DataType) -> str:
    """DATA_TYPE_BFLOAT16 as "bfloat16"."""
    return word(tensor_pb2.DataType, dtype)
