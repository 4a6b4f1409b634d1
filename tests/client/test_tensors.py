"""Arrays to bytes and back: what hypothesis draws comes back, and bytes written by hand mean what the contract says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cutaway
from cutaway._tensors import decode, encode
from cutaway.v1 import tensor_pb2

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, NaN included."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(any_array)
def test_round_trip(array):
    message = encode(array)
    decoded = decode(message.dtype, message.shape, message.data)
    assert same(decoded, array)
    assert decoded.flags.writeable


@given(any_array)
def test_memory_layout_and_byte_order_do_not_matter(array):
    swapped = array.astype(array.dtype.newbyteorder(">"))
    assert encode(swapped) == encode(array)
    if array.ndim:  # numpy makes one axis of none
        assert encode(np.asfortranarray(array)) == encode(array)
        assert encode(array[::-1]) == encode(np.ascontiguousarray(array[::-1]))


@pytest.mark.parametrize(
    ("dtype", "data", "expected"),
    [
        (tensor_pb2.DATA_TYPE_FLOAT32, b"\x00\x00\x80\x3f\x00\x00\x00\xc0", np.array([1, -2], "f4")),
        (tensor_pb2.DATA_TYPE_FLOAT16, b"\x00\x3c\x00\xc0", np.array([1, -2], "f2")),
        (tensor_pb2.DATA_TYPE_BFLOAT16, b"\x80\x3f\x40\xc0", np.array([1, -3], "f4")),
        (tensor_pb2.DATA_TYPE_FLOAT64, b"\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\0\xc0", np.array([1, -2], "f8")),
        (tensor_pb2.DATA_TYPE_INT8, b"\x01\xff", np.array([1, -1], "i1")),
        (tensor_pb2.DATA_TYPE_INT16, b"\x01\x02\xff\xff", np.array([513, -1], "i2")),
        (tensor_pb2.DATA_TYPE_INT32, b"\x01\x02\x00\x00\xff\xff\xff\xff", np.array([513, -1], "i4")),
        (tensor_pb2.DATA_TYPE_INT64, b"\x01\x02" + bytes(6) + b"\xff" * 8, np.array([513, -1], "i8")),
        (tensor_pb2.DATA_TYPE_UINT8, b"\x01\xff", np.array([1, 255], "u1")),
        (tensor_pb2.DATA_TYPE_BOOL, b"\x00\x01", np.array([False, True])),
    ],
)
def test_bytes_by_hand(dtype, data, expected):
    assert same(decode(dtype, [2], data), expected)


def test_bfloat16_keeps_infinity_and_nan():
    special = decode(tensor_pb2.DATA_TYPE_BFLOAT16, [3], b"\x80\x7f\x80\xff\xc0\x7f")
    np.testing.assert_array_equal(special, np.array([np.inf, -np.inf, np.nan], "f4"))


def test_a_scalar_has_no_axes():
    assert decode(tensor_pb2.DATA_TYPE_INT8, [], b"\x05") == 5


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        (tensor_pb2.DATA_TYPE_FLOAT32, [2], bytes(7)),
        (tensor_pb2.DATA_TYPE_FLOAT32, [2], bytes(9)),
        (tensor_pb2.DATA_TYPE_FLOAT32, [], b""),
        (tensor_pb2.DATA_TYPE_INT8, [-1], b""),
        (tensor_pb2.DATA_TYPE_INT8, [-1, -1], b"\0"),
        (tensor_pb2.DATA_TYPE_INT8, [0, 2**62, 2**62], b""),
        (tensor_pb2.DATA_TYPE_INT8, [1] * 80, b"\0"),
        (tensor_pb2.DATA_TYPE_UNSPECIFIED, [1], b"\0"),
        (99, [1], b"\0"),
    ],
)
def test_malformed_tensors_are_refused(dtype, shape, data):
    with pytest.raises(cutaway.BrokenAnswer):
        decode(dtype, shape, data)


@pytest.mark.parametrize("dtype", ["complex64", "uint16", "uint64", "object", "U3", "datetime64[s]"])
def test_dtypes_that_cannot_travel(dtype):
    with pytest.raises(TypeError, match="cannot be sent"):
        encode(np.zeros(2, dtype))
