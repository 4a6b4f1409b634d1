"""Element types, tensors and times, between the wire and Python."""

import math
import warnings
from typing import Any

import numpy as np
import torch
from google.protobuf import duration_pb2
from numpy.typing import NDArray
from torch import Tensor

from cutaway.v1 import tensor_pb2
from cutaway_server.errors import BadInput
from cutaway_server.models.tensor_bytes import raw_bytes

DTYPES = {
    tensor_pb2.DATA_TYPE_FLOAT32: torch.float32,
    tensor_pb2.DATA_TYPE_FLOAT16: torch.float16,
    tensor_pb2.DATA_TYPE_BFLOAT16: torch.bfloat16,
    tensor_pb2.DATA_TYPE_FLOAT64: torch.float64,
    tensor_pb2.DATA_TYPE_INT8: torch.int8,
    tensor_pb2.DATA_TYPE_INT16: torch.int16,
    tensor_pb2.DATA_TYPE_INT32: torch.int32,
    tensor_pb2.DATA_TYPE_INT64: torch.int64,
    tensor_pb2.DATA_TYPE_UINT8: torch.uint8,
    tensor_pb2.DATA_TYPE_BOOL: torch.bool,
}
_NUMPY = {dtype: torch.empty(0, dtype=dtype).numpy().dtype for dtype in DTYPES.values() if dtype is not torch.bfloat16}
WIRE_DTYPES = {dtype: wire for wire, dtype in DTYPES.items()}
_MAX_AXES = 16  # keeps shapes in messages short: a status travels in headers of 8 KiB


def dtype_name(dtype: torch.dtype) -> str:
    """FLOAT32 for torch.float32, as the contract spells it; PyTorch's own word for what the contract lacks."""
    wire = WIRE_DTYPES.get(dtype)
    return tensor_pb2.DataType.Name(wire).removeprefix("DATA_TYPE_") if wire else str(dtype).removeprefix("torch.")


with warnings.catch_warnings():  # PyTorch says once that it knows no read-only tensors: let that be now. Ours are nobody else's
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def decode_tensor(message: tensor_pb2.Tensor, field: str) -> Tensor:
    """The tensor in a message. Its memory is that of the bytes, which protobuf copies out of the message for us alone.

    Raises:
        BadInput: no dtype, a shape that no tensor has, or another number of bytes than dtype and shape ask for.
    """
    data, shape, dtype = message.data, tuple(message.shape), DTYPES.get(message.dtype)
    if dtype is None or len(shape) > _MAX_AXES or min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
        raise _no_tensor(message, field)
    if not data:
        if _too_large(shape, dtype):
            raise _no_tensor(message, field)
        return torch.empty(shape, dtype=dtype)
    array = array_of(data, shape, dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if array is None else torch.from_numpy(array)


def array_of(data: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> NDArray[Any] | None:
    """Bytes as an array, which takes a quarter of the time that a tensor takes; None where they do not fit, and for bfloat16."""
    of = _NUMPY.get(dtype)
    if of is None or min(shape, default=0) < 0 or len(data) != math.prod(shape) * of.itemsize:
        return None
    return np.frombuffer(data, of).reshape(shape)


def _no_tensor(message: tensor_pb2.Tensor, field: str) -> BadInput:
    shape, dtype = tuple(message.shape), DTYPES.get(message.dtype)
    if dtype is None:
        names = ", ".join(map(dtype_name, WIRE_DTYPES))
        return BadInput(f"{field}.dtype", "none" if not message.dtype else f"value {message.dtype}", f"one of {names}")
    if len(shape) > _MAX_AXES:
        return BadInput(f"{field}.shape", f"{len(shape):,} axes", f"at most {_MAX_AXES}")
    if any(size < 0 for size in shape):
        return BadInput(f"{field}.shape", str(list(shape)), "no negative size")
    if _too_large(shape, dtype):
        return BadInput(f"{field}.shape", str(list(shape)), "sizes that 64 bits can count the bytes of")
    expected = math.prod(shape) * dtype.itemsize
    got = f"{len(message.data):,} bytes"
    return BadInput(f"{field}.data", got, f"{expected:,} bytes for {dtype_name(dtype)} {list(shape)}")


def _too_large(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return math.prod(max(1, size) for size in shape) * dtype.itemsize >= 1 << 63


def encode_tensor(tensor: Tensor) -> tensor_pb2.Tensor:
    """A tensor as a message."""
    plain = tensor.device.type == "cpu" and tensor.dtype is not torch.bfloat16
    data = tensor.numpy().tobytes() if plain else bytes(raw_bytes(tensor))
    return tensor_pb2.Tensor(dtype=WIRE_DTYPES[tensor.dtype], shape=tensor.shape, data=data)


def duration(seconds: float) -> duration_pb2.Duration:
    """Seconds as a message, rounded to nanoseconds; never negative."""
    message = duration_pb2.Duration()
    message.FromNanoseconds(max(0, round(seconds * 1e9)))
    return message
