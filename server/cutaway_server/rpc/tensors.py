"""Element types, tensors and times, between the wire and Python."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from google.protobuf import duration_pb2
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
ARRAY_DTYPES = {dtype: torch.empty(0, dtype=dtype).numpy().dtype for dtype in DTYPES.values() if dtype is not torch.bfloat16}
"""NumPy's, which has no bfloat16."""
WIRE_DTYPES = {dtype: wire for wire, dtype in DTYPES.items()}
_MAX_AXES = 16  # keeps shapes in messages short: a status travels in headers of 8 KiB


def dtype_name(dtype: torch.dtype) -> str:
    """FLOAT32 for torch.float32, as the contract spells it; PyTorch's own word for what the contract lacks."""
    wire = WIRE_DTYPES.get(dtype)
    return tensor_pb2.DataType.Name(wire).removeprefix("DATA_TYPE_") if wire else str(dtype).removeprefix("torch.")


class Naming(NamedTuple):
    """How a refusal speaks of a tensor that came: what its parts are called, and what element types are."""

    dtype: str
    shape: str
    data: str
    word: Callable[[torch.dtype], str] = dtype_name


def decode_tensor(message: tensor_pb2.Tensor, field: str) -> Tensor:
    """The tensor in a message, as `tensor_of`.

    Raises:
        BadInput: no dtype, or as `tensor_of`.
    """
    dtype = DTYPES.get(message.dtype)
    if dtype is None:
        names = ", ".join(map(dtype_name, WIRE_DTYPES))
        raise BadInput(f"{field}.dtype", "none" if not message.dtype else f"value {message.dtype}", f"one of {names}")
    return tensor_of(message.data, dtype, tuple(message.shape), naming(field))


def naming(field: str) -> Naming:
    """Of a tensor of cutaway.v1."""
    return Naming(f"{field}.dtype", f"{field}.shape", f"{field}.data")


def tensor_of(data: bytes, dtype: torch.dtype, shape: tuple[int, ...], naming: Naming) -> Tensor:
    """A tensor over bytes that nobody else holds, as those of a protobuf field are: each look at it makes them anew.

    Raises:
        BadInput: a shape that no tensor has, or another number of bytes than dtype and shape ask for.
    """
    expected = math.prod(check_shape(shape, dtype, naming)) * dtype.itemsize
    if len(data) != expected:
        raise BadInput(naming.data, f"{len(data):,} bytes", f"{expected:,} bytes for {naming.word(dtype)} {list(shape)}")
    if not expected:
        return torch.empty(shape, dtype=dtype)
    own = data if expected > 1 else bytearray(data)  # of single bytes Python keeps one object each, for everybody
    return torch.frombuffer(own, dtype=dtype).reshape(shape)


with warnings.catch_warnings():  # that bytes are not writable: each says it once in a process, and nothing else looks at ours
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def check_shape(shape: Sequence[int], dtype: torch.dtype, naming: Naming) -> Sequence[int]:
    """The shape. Raises BadInput for one that no tensor has."""
    if len(shape) > _MAX_AXES:
        raise BadInput(naming.shape, f"{len(shape):,} axes", f"at most {_MAX_AXES}")
    if any(size < 0 for size in shape):
        raise BadInput(naming.shape, str(list(shape)), "no negative size")
    if math.prod(max(1, size) for size in shape) * dtype.itemsize >= 1 << 63:
        raise BadInput(naming.shape, str(list(shape)), "sizes that 64 bits can count the bytes of")
    return shape


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
