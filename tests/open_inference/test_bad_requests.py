"""Whatever a caller sends is answered with a code and a sentence that names the field. In a stream that sentence is an answer."""

import re
import struct
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import cutaway_server
from cutaway_server.rpc.open_inference import messages
from open_inference_calls import SERVICE, Tensor, Wanted, answers, call, elements, infer, tensor
from server_process import ServerProcess

Code = grpc.StatusCode
ZEROS = np.zeros((2, 1, 28, 28), np.float32)
INTERNAL_WORDS = re.compile(
    r"Traceback|\.py\b|site-packages|\s/\w+|torch|numpy|\bPIL\b|cutaway_server|_pb2|<class|object at|\w(Error|Exception)\b|__|\\n"
)


def raw(data: bytes, *shape: int, datatype: str = "FP32", **more: Any) -> Any:
    inputs = [Tensor(name="x", datatype=datatype, shape=shape)]
    return messages.ModelInferRequest(model_name="mnist", inputs=inputs, raw_input_contents=[data], **more)


def typed(*shape: int, datatype: str = "FP32", **contents: Any) -> Any:
    given = Tensor(name="x", datatype=datatype, shape=shape, contents=messages.InferTensorContents(**contents))
    return messages.ModelInferRequest(model_name="mnist", inputs=[given])


def changed(change: Callable[[Any], None]) -> Any:
    request = infer(ZEROS, "scores")
    change(request)
    return request


def text(value: str) -> Any:
    return messages.InferParameter(string_param=value)


def best(**value: Any) -> Any:
    return Wanted(name="scores", parameters={"classification": messages.InferParameter(**value)})


NAN = ZEROS.copy()
NAN[1, 0, 3, 4] = np.nan

# The request, its code, the field that the details name, and what the sentence says.
CASES: dict[str, tuple[Any, grpc.StatusCode, str, tuple[str, ...]]] = {
    "unknown model": (infer(ZEROS, model="resnet"), Code.NOT_FOUND, "resnet", ("'resnet'", "mnist, mnist-gap")),
    "unknown version": (infer(ZEROS, model_version="7"), Code.NOT_FOUND, "mnist", ("'7'", "mnist version 1")),
    "no model": (infer(ZEROS, model=""), Code.INVALID_ARGUMENT, "model_name", ("an empty name", "one of mnist, mnist-gap")),
    # inputs
    "no inputs": (
        messages.ModelInferRequest(model_name="mnist"),
        Code.INVALID_ARGUMENT,
        "inputs",
        ("no input 'x'", "one for each of x"),
    ),
    "unknown input": (
        messages.ModelInferRequest(model_name="mnist", inputs=[tensor(ZEROS, "image")], raw_input_contents=[ZEROS.tobytes()]),
        Code.INVALID_ARGUMENT,
        "inputs[0].name",
        ("'image'", "one of 'x'"),
    ),
    "input twice": (
        messages.ModelInferRequest(
            model_name="mnist", inputs=[tensor(ZEROS), tensor(ZEROS)], raw_input_contents=[ZEROS.tobytes()] * 2
        ),
        Code.INVALID_ARGUMENT,
        "inputs[1].name",
        ("a second input 'x'", "once"),
    ),
    "too few raw entries": (
        messages.ModelInferRequest(
            model_name="mnist", inputs=[tensor(ZEROS), tensor(ZEROS, "y")], raw_input_contents=[ZEROS.tobytes()]
        ),
        Code.INVALID_ARGUMENT,
        "raw_input_contents",
        ("1 entries", "one for each of the 2 inputs"),
    ),
    "too many raw entries": (
        changed(lambda request: request.raw_input_contents.append(b"")),
        Code.INVALID_ARGUMENT,
        "raw_input_contents",
        ("2 entries", "one for each of the 1 inputs"),
    ),
    "both forms": (
        changed(lambda request: request.inputs[0].contents.fp32_contents.append(1)),
        Code.INVALID_ARGUMENT,
        "inputs[0].contents",
        ("beside raw_input_contents", "one of the two"),
    ),
    "shared memory": (
        changed(lambda request: request.inputs[0].parameters["shared_memory_region"].MergeFrom(text("region"))),
        Code.INVALID_ARGUMENT,
        "inputs[0].parameters",
        ("shared_memory_region", "in the message"),
    ),
    "shared memory for an output": (
        changed(lambda request: request.outputs[0].parameters["shared_memory_region"].MergeFrom(text("region"))),
        Code.INVALID_ARGUMENT,
        "outputs[0].parameters",
        ("shared_memory_region", "in the message"),
    ),
    "shape": (
        raw(bytes(3136), 1, 28, 28, 1),
        Code.INVALID_ARGUMENT,
        "inputs[0].shape",
        ("[1, 28, 28, 1]", "FP32 tensor [N, 1, 28, 28]"),
    ),
    "no shape": (raw(bytes(4)), Code.INVALID_ARGUMENT, "inputs[0].shape", ("[]", "[N, 1, 28, 28]")),
    "axes without end": (raw(bytes(4), *[1] * 5000), Code.INVALID_ARGUMENT, "inputs[0].shape", ("5,000 axes", "at most 16")),
    "negative size": (raw(b"", -1, 1, 28, 28), Code.INVALID_ARGUMENT, "inputs[0].shape", ("no negative size",)),
    "sizes past 64 bits": (raw(b"", 0, 1 << 62, 1 << 62), Code.INVALID_ARGUMENT, "inputs[0].shape", ("64 bits",)),
    "too few bytes": (
        raw(bytes(3135), 1, 1, 28, 28),
        Code.INVALID_ARGUMENT,
        "raw_input_contents[0]",
        ("3,135 bytes", "3,136 bytes for FP32 [1, 1, 28, 28]"),
    ),
    "too many bytes": (raw(bytes(3140), 1, 1, 28, 28), Code.INVALID_ARGUMENT, "raw_input_contents[0]", ("3,140 bytes", "3,136")),
    "empty batch": (raw(b"", 0, 1, 28, 28), Code.INVALID_ARGUMENT, "inputs[0].shape", ("an empty batch", "at least one sample")),
    "NaN": (infer(NAN), Code.INVALID_ARGUMENT, "raw_input_contents[0]", ("1 values that are NaN", "finite")),
    "typed NaN": (
        typed(2, 1, 28, 28, fp32_contents=NAN.ravel()),
        Code.INVALID_ARGUMENT,
        "inputs[0].contents",
        ("1 values that are NaN", "finite"),
    ),
    "datatype": (
        raw(bytes(6272), 1, 1, 28, 28, datatype="FP64"),
        Code.INVALID_ARGUMENT,
        "inputs[0].datatype",
        ("'FP64'", "FP32 tensor [N, 1, 28, 28]", "BYTES [N] of PNG or JPEG files"),
    ),
    "no datatype": (raw(bytes(3136), 1, 1, 28, 28, datatype=""), Code.INVALID_ARGUMENT, "inputs[0].datatype", ("''", "FP32")),
    "unknown datatype": (raw(bytes(2), 1, datatype="UINT16"), Code.INVALID_ARGUMENT, "inputs[0].datatype", ("'UINT16'", "FP32")),
    "another protocol's datatype": (
        raw(bytes(2), 1, datatype="FLOAT32" * 100),
        Code.INVALID_ARGUMENT,
        "inputs[0].datatype",
        ("FLOAT32", "FP32"),
    ),
    "too few typed": (
        typed(1, 1, 28, 28, fp32_contents=[0.0] * 783),
        Code.INVALID_ARGUMENT,
        "inputs[0].contents.fp32_contents",
        ("783 elements", "784 for FP32"),
    ),
    "the wrong field": (
        typed(1, 1, 28, 28, fp64_contents=[0.0] * 784),
        Code.INVALID_ARGUMENT,
        "inputs[0].contents.fp32_contents",
        ("0 elements", "784 for FP32"),
    ),
    # files
    "no file": (raw(b"", 0, datatype="BYTES"), Code.INVALID_ARGUMENT, "inputs[0].shape", ("[0]", "[N] or [N, 1]")),
    "axes of files": (raw(elements(b""), 1, 1, 1, datatype="BYTES"), Code.INVALID_ARGUMENT, "inputs[0].shape", ("[N] or [N, 1]",)),
    "two files a sample": (raw(b"", 1, 2, datatype="BYTES"), Code.INVALID_ARGUMENT, "inputs[0].shape", ("[1, 2]", "[N, 1]")),
    "not an image": (
        raw(elements(b"hello"), 1, datatype="BYTES"),
        Code.INVALID_ARGUMENT,
        "raw_input_contents[0][0]",
        ("no whole PNG or JPEG",),
    ),
    "a file without its length": (
        raw(b"\x89PNG", 1, datatype="BYTES"),
        Code.INVALID_ARGUMENT,
        "raw_input_contents[0]",
        ("4 bytes, which end within element 0", "after its length in 4 bytes"),
    ),
    "half a length": (raw(b"\1\0", 1, datatype="BYTES"), Code.INVALID_ARGUMENT, "raw_input_contents[0]", ("end within element 0",)),
    "fewer files than the shape says": (
        typed(3, datatype="BYTES", bytes_contents=[b"", b""]),
        Code.INVALID_ARGUMENT,
        "inputs[0].contents.bytes_contents",
        ("2 elements", "3 for BYTES"),
    ),
    "too many files by far": (
        raw(struct.pack("<I", 0) * 1000, 1 << 40, datatype="BYTES"),
        Code.INVALID_ARGUMENT,
        "raw_input_contents[0][0]",
        ("no whole PNG or JPEG",),
    ),
    # outputs
    "unknown output": (infer(ZEROS, "score"), Code.INVALID_ARGUMENT, "outputs[0].name", ("'score'", "'scores', 'layer:NAME'")),
    "unnamed output": (infer(ZEROS, ""), Code.INVALID_ARGUMENT, "outputs[0].name", ("''", "'scores'")),
    "output twice": (
        infer(ZEROS, "scores", "scores"),
        Code.INVALID_ARGUMENT,
        "outputs[1].name",
        ("a second output 'scores'", "once"),
    ),
    "unknown layer": (
        infer(ZEROS, "scores", "layer:conv9"),
        Code.INVALID_ARGUMENT,
        "outputs[1].name",
        ("no layer 'conv9'", "did you mean", "'conv1'"),
    ),
    "no layer": (infer(ZEROS, "layer:"), Code.INVALID_ARGUMENT, "outputs[0].name", ("'layer:'", "'layer:NAME'")),
    "a glob that matches nothing": (
        infer(ZEROS, "layer:gelu*"),
        Code.INVALID_ARGUMENT,
        "outputs[0].name",
        ("'gelu*' matches no layer",),
    ),
    "a long name": (
        infer(ZEROS, "layer:" + "*?" * 600),
        Code.INVALID_ARGUMENT,
        "outputs[0].name",
        ("1,206 characters", "at most 1,000"),
    ),
    "unknown method": (infer(ZEROS, "cam:gradcam"), Code.INVALID_ARGUMENT, "outputs[0].name", ("'gradcam'", "grad-cam")),
    "no method": (infer(ZEROS, "cam:@conv1"), Code.INVALID_ARGUMENT, "outputs[0].name", ("''", "grad-cam")),
    "no layer after the at": (infer(ZEROS, "cam:grad-cam@"), Code.INVALID_ARGUMENT, "outputs[0].name", ("cam:grad-cam@", "no @")),
    "unknown layer of a map": (
        infer(ZEROS, "layer:conv1", "cam:grad-cam@conv9"),
        Code.INVALID_ARGUMENT,
        "outputs[1].name",
        ("no layer 'conv9'", "'conv1'"),
    ),
    "class past the last": (
        infer(ZEROS, "cam:grad-cam?class=10"),
        Code.INVALID_ARGUMENT,
        "outputs[0].name",
        ("class 10", "0 to 9"),
    ),
    "no class": (infer(ZEROS, "cam:grad-cam?class="), Code.INVALID_ARGUMENT, "outputs[0].name", ("?class=", "?class=K")),
    "class by name": (
        infer(ZEROS, "cam:grad-cam?class=seven"),
        Code.INVALID_ARGUMENT,
        "outputs[0].name",
        ("?class=seven", "index"),
    ),
    "unknown setting": (infer(ZEROS, "cam:grad-cam?klass=1"), Code.INVALID_ARGUMENT, "outputs[0].name", ("?klass=1", "?class=K")),
    "a map that cannot be": (
        infer(ZEROS, "cam:cam"),
        Code.FAILED_PRECONDITION,
        "MODEL",
        ("outputs[0].name", "global average", "'grad-cam'"),
    ),
    "no number of classes": (
        infer(ZEROS, best(string_param="3")),
        Code.INVALID_ARGUMENT,
        "outputs[0].parameters[classification]",
        ("a string_param", "an int64_param"),
    ),
    "classes below zero": (
        infer(ZEROS, best(int64_param=-1)),
        Code.INVALID_ARGUMENT,
        "outputs[0].parameters[classification]",
        ("-1", "how many classes"),
    ),
    "classes of a layer": (
        infer(ZEROS, Wanted(name="layer:conv1", parameters={"classification": messages.InferParameter(int64_param=1)})),
        Code.INVALID_ARGUMENT,
        "outputs[0].parameters[classification]",
        ("'layer:conv1'", "'scores' only"),
    ),
    # parameters
    "a timeout in words": (
        infer(ZEROS, parameters={"timeout": text("soon")}),
        Code.INVALID_ARGUMENT,
        "parameters[timeout]",
        ("a string_param", "microseconds"),
    ),
    "a timeout before now": (
        infer(ZEROS, parameters={"timeout": messages.InferParameter(int64_param=-5)}),
        Code.INVALID_ARGUMENT,
        "parameters[timeout]",
        ("-5", "microseconds"),
    ),
}


def named_by(error: grpc.RpcError) -> set[str]:
    """Fields and resources that the details name."""
    named = set()
    for detail in rpc_status.from_call(error).details:
        bad, gone, broken = (
            error_details_pb2.BadRequest(),
            error_details_pb2.ResourceInfo(),
            error_details_pb2.PreconditionFailure(),
        )
        if detail.Unpack(bad):
            named |= {violation.field for violation in bad.field_violations}
        if detail.Unpack(gone):
            named.add(gone.resource_name)
        if detail.Unpack(broken):
            named |= {violation.type for violation in broken.violations}
    return named


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, live_server: ServerProcess):
    request, code, field, words = CASES[case]
    with pytest.raises(grpc.RpcError) as caught:
        call(live_server.address, "ModelInfer", request)
    said = caught.value.details()
    assert caught.value.code() is code, said
    assert all(word in said for word in words), said
    assert not INTERNAL_WORDS.search(said)
    assert field in named_by(caught.value)


def test_the_same_in_a_stream_which_goes_on(live_server: ServerProcess):
    requests = [request for request, *_ in CASES.values()]
    for place, request in enumerate(requests):
        request.id = str(place)
    *told, fine = answers(live_server.address, *requests, infer(ZEROS, id="fine"))
    assert [answer.infer_response.id for answer in told] == [request.id for request in requests]
    for (case, (*_, words)), answer in zip(CASES.items(), told, strict=True):
        assert all(word in answer.error_message for word in words), case
        assert not answer.infer_response.outputs
    assert (fine.error_message, fine.infer_response.id) == ("", "fine")


class Small(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def test_elements_that_their_datatype_does_not_hold():
    request = typed(1, 2, datatype="INT8", int_contents=[5, 300])
    request.model_name = "small"
    example = torch.zeros(1, 2, dtype=torch.int8)
    with (
        cutaway_server.serve(Small(), example, name="small", log_level="error") as server,
        pytest.raises(grpc.RpcError, match=r"elements that are no INT8; expected a INT8 tensor \[N, 2\]"),
    ):
        call(server.address, "ModelInfer", request)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig"])
def test_bytes_that_are_no_message(method: str, live_server: ServerProcess):
    with grpc.insecure_channel(live_server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/{method}")(b"\xff\xff\xff", timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "no message of this method" in caught.value.details()


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig"])
def test_no_name(method: str, live_server: ServerProcess):
    with pytest.raises(grpc.RpcError, match="name: got an empty name; expected one of mnist, mnist-gap"):
        call(live_server.address, method, getattr(messages, f"{method}Request")())


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_an_unknown_name(method: str, live_server: ServerProcess):
    with pytest.raises(grpc.RpcError) as caught:
        call(live_server.address, method, getattr(messages, f"{method}Request")(name="resnet"))
    assert caught.value.code() is Code.NOT_FOUND


NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
SOME = st.sampled_from(
    ["x", "y", "scores", "layer:conv1", "layer:*", "cam:grad-cam", "cam:@?", "", "FP32", "BYTES", "INT64", "mnist"]
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["timeout", "classification", "priority", "z"]),
    st.one_of(
        st.builds(messages.InferParameter, int64_param=NUMBERS),
        st.builds(messages.InferParameter, string_param=SOME),
        st.just(messages.InferParameter()),
    ),
    max_size=2,
)
REQUESTS = st.builds(
    messages.ModelInferRequest,
    model_name=st.sampled_from(["mnist", "mnist-gap", "", "x"]),
    model_version=st.sampled_from(["", "1", "2"]),
    parameters=PARAMETERS,
    inputs=st.lists(
        st.builds(
            Tensor,
            name=SOME,
            datatype=SOME,
            shape=st.lists(st.one_of(st.sampled_from([0, 1, 28]), NUMBERS), max_size=5),
            contents=st.one_of(
                st.none(),
                st.builds(
                    messages.InferTensorContents,
                    fp32_contents=st.lists(st.just(0.5), max_size=3),
                    bytes_contents=st.lists(st.binary(max_size=8), max_size=2),
                ),
            ),
        ),
        max_size=2,
    ),
    outputs=st.lists(st.builds(Wanted, name=SOME, parameters=PARAMETERS), max_size=3),
    raw_input_contents=st.lists(st.one_of(st.binary(max_size=16), st.just(bytes(3136))), max_size=2),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS)
def test_any_request_has_an_answer_or_a_reason(request: Any, live_server: ServerProcess):
    (answer, *_) = answers(live_server.address, request)
    assert not INTERNAL_WORDS.search(answer.error_message)
    assert "the server failed" not in answer.error_message
