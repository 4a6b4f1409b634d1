"""Requests as bytes, and the scores in an answer, by the field numbers of each protocol: nobody's stubs are needed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

FLOAT32 = 1  # cutaway.v1.DataType


@dataclass(frozen=True)
class Protocol:
    """How a network is asked.

    Attributes:
        method: the RPC's path.
        request: the message about a model's name, an input and the input's name.
        scores: ways of field numbers from the answer to the float32 scores' bytes; the first that is there counts.
    """

    method: str
    request: Callable[[str, np.ndarray, str], bytes]
    scores: tuple[tuple[int, ...], ...]


def field(number: int, value: bytes | str | int) -> bytes:
    """One field of a message: an integer, or anything that has a length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields that have a length, in the order in which they stand."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        if tag & 7 == 2:
            size, at = _read_varint(message, at)
            yield tag >> 3, message[at : at + size]
            at += size
        elif tag & 7 == 0:
            _, at = _read_varint(message, at)
        else:
            at += {1: 8, 5: 4}[tag & 7]


def scores(protocol: Protocol, answer: bytes) -> np.ndarray:
    """The scores in an answer, flat.

    Raises:
        ValueError: there are none.
    """
    for way in protocol.scores:
        found: bytes | None = answer
        for number in way:
            found = dict(fields(found)).get(number) if found is not None else None
        if found is not None:
            return np.frombuffer(found, np.float32)
    raise ValueError(f"no scores in an answer of {len(answer)} bytes")


def _varint(number: int) -> bytes:
    low = bytearray()
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes([*low, number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _shape(x: np.ndarray) -> bytes:
    return b"".join(map(_varint, x.shape))


def _cutaway_request(model: str, x: np.ndarray, name: str) -> bytes:
    tensor = field(1, FLOAT32) + field(2, _shape(x)) + field(3, x.tobytes())
    return field(1, model) + field(3, field(2, tensor))


def _open_inference_request(model: str, x: np.ndarray, name: str) -> bytes:
    tensor = field(1, name) + field(2, "FP32") + field(3, _shape(x))
    return field(1, model) + field(3, "1") + field(5, tensor) + field(7, x.tobytes())


def _torchserve_request(model: str, x: np.ndarray, name: str) -> bytes:
    return field(1, model) + field(3, field(1, "data") + field(2, x.tobytes()))


CUTAWAY = Protocol("/cutaway.v1.InferenceService/Predict", _cutaway_request, ((3, 3),))
OPEN_INFERENCE = Protocol("/inference.GRPCInferenceService/ModelInfer", _open_inference_request, ((6,), (5, 5, 6)))
TORCHSERVE = Protocol("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions", _torchserve_request, ((1,),))
BYTES = Protocol("/peers.Bytes/Predict", lambda model, x, name: field(1, x.tobytes()), ((1,),))
"""google.protobuf.BytesValue there and back: for a server that has no protocol of its own."""
