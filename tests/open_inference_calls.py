"""The Open Inference Protocol by hand: messages, and calls on a channel without stubs."""

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import numpy as np

from cutaway_server.rpc.open_inference import messages

SERVICE = "inference.GRPCInferenceService"
Tensor = messages.ModelInferRequest.InferInputTensor
Wanted = messages.ModelInferRequest.InferRequestedOutputTensor


def call(address: str, method: str, request: Any, timeout: float = 30, **more: Any) -> Any:
    """One unary call."""
    answer = getattr(messages, f"{method}Response")
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        rpc = channel.unary_unary(f"/{SERVICE}/{method}", lambda message: message.SerializeToString(), answer.FromString)
        return rpc(request, timeout=timeout, **more)


def stream(channel: grpc.Channel, requests: Iterable[Any], timeout: float | None = 30) -> Any:
    """One stream: a call to iterate over."""
    answer = messages.ModelStreamInferResponse.FromString
    rpc = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", lambda message: message.SerializeToString(), answer)
    return rpc(iter(requests), timeout=timeout)


def answers(address: str, *requests: Any) -> list[Any]:
    """All answers of a stream with these requests."""
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        return list(stream(channel, requests))


def tensor(array: np.ndarray, name: str = "x", datatype: str = "FP32") -> Any:
    return Tensor(name=name, datatype=datatype, shape=array.shape)


def infer(array: np.ndarray, *outputs: Any, model: str = "mnist", name: str = "x", **more: Any) -> Any:
    """A request with raw elements; outputs by name, or as messages."""
    return messages.ModelInferRequest(
        model_name=model,
        inputs=[tensor(array, name)],
        outputs=[Wanted(name=output) if isinstance(output, str) else output for output in outputs],
        raw_input_contents=[array.tobytes()],
        **more,
    )


def value_of(answer: Any, name: str, kind: str = "float32") -> np.ndarray:
    """An output's elements, from the raw contents."""
    names = [output.name for output in answer.outputs]
    place = names.index(name)
    return np.frombuffer(answer.raw_output_contents[place], kind).reshape(answer.outputs[place].shape)


def elements(*texts: bytes) -> bytes:
    """BYTES as they travel."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def read_elements(data: bytes) -> Iterator[bytes]:
    """What `elements` wrote."""
    while data:
        (length,) = struct.unpack_from("<I", data)
        yield data[4 : 4 + length]
        data = data[4 + length :]
