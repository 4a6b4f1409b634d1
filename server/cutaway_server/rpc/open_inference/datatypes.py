"""Element types as the Open Inference Protocol calls them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from cutaway_server.errors import BadInput

DATATYPES = {
    torch.float32: "FP32",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float64: "FP64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.uint8: "UINT8",
    torch.bool: "BOOL",
}
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
BYTES = "BYTES"


class Contents(NamedTuple):
    """Where a datatype's elements are in InferTensorContents.

    Attributes:
        kind: what numpy calls its elements.
        wide: what numpy calls those of the field.
    """

    field: str
    kind: str
    wide: str


CONTENTS = {  # FP16 and BF16 have no field
    "FP32": Contents("fp32_contents", "float32", "float32"),
    "FP64": Contents("fp64_contents", "float64", "float64"),
    "INT8": Contents("int_contents", "int8", "int32"),
    "INT16": Contents("int_contents", "int16", "int32"),
    "INT32": Contents("int_contents", "int32", "int32"),
    "INT64": Contents("int64_contents", "int64", "int64"),
    "UINT8": Contents("uint_contents", "uint8", "uint32"),
    "BOOL": Contents("bool_contents", "bool", "bool"),
    BYTES: Contents("bytes_contents", "object", "object"),
}


def datatype(dtype: torch.dtype) -> str:
    """FP32 for torch.float32."""
    return DATATYPES[dtype]


def join_elements(elements: Iterable[bytes]) -> bytes:
    """BYTES as they travel: each element after its length in 4 bytes, little-endian."""
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


def split_elements(data: bytes, count: int, field: str) -> Iterator[bytes]:
    """So many elements of BYTES.

    Raises:
        BadInput: there are not so many, or more.
    """
    expected = f"{count:,} elements, each after its length in 4 bytes, little-endian"
    end = 0
    for element in range(count):
        begin = end + 4
        end = begin + int.from_bytes(data[end:begin], "little")
        if end > len(data):
            raise BadInput(field, f"{len(data):,} bytes, which end within element {element:,}", expected)
        yield data[begin:end]
    if end < len(data):
        raise BadInput(field, f"{len(data) - end:,} bytes after the last element", expected)
