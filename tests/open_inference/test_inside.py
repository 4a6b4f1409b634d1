"""Layers and maps as outputs: the tensors that Introspect gives, in whichever form they are asked for."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from torch import nn

import cutaway
import cutaway_server
from cutaway_server.rpc.open_inference import messages
from open_inference_calls import Wanted, answers, call, infer, value_of
from server_process import ServerProcess, run_server

MIB = 1 << 20


def names(answer: Any) -> list[str]:
    return [output.name for output in answer.outputs]


def test_layers(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    answer = call(live_server.address, "ModelInfer", infer(x[:2], "layer:relu*", "scores", "layer:conv1"))
    assert names(answer) == ["layer:relu", "layer:relu_1", "layer:relu_2", "scores", "layer:conv1"]
    seen = live.introspect("mnist", x[:2], layers=["relu*", "conv1"])
    for layer, activation in seen.activations.items():
        np.testing.assert_array_equal(value_of(answer, f"layer:{layer}"), activation)
    np.testing.assert_array_equal(value_of(answer, "scores"), seen.prediction.scores)


def test_layers_alone_end_the_network_early(live_server: ServerProcess, x: np.ndarray):
    stops = "cutaway_early_stops_total"
    before = live_server.metric(stops, model="mnist")
    assert names(call(live_server.address, "ModelInfer", infer(x[:1], "layer:conv1"))) == ["layer:conv1"]
    assert live_server.metric(stops, model="mnist") == before + 1


@pytest.mark.parametrize(
    ("name", "cam"),
    [
        ("cam:grad-cam@conv2?class=3", cutaway.Cam("grad-cam", "conv2", class_index=3)),
        ("cam:grad-cam@conv2", cutaway.Cam("grad-cam", "conv2")),
        ("cam:grad-cam", cutaway.Cam("grad-cam")),
        ("cam:saliency?class=0", cutaway.Cam("saliency", class_index=0)),
    ],
)
def test_maps(name: str, cam: cutaway.Cam, live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    answer = call(live_server.address, "ModelInfer", infer(x[:2], name))
    (expected,) = live.introspect("mnist", x[:2], cams=[cam]).cams
    np.testing.assert_array_equal(value_of(answer, name), expected.map)
    said = answer.outputs[0].parameters
    assert said["classes"].string_param == ",".join(map(str, expected.classes))
    assert said["layer"].string_param == ",".join(expected.layers)


def test_maps_keep_their_order(live_server: ServerProcess, x: np.ndarray):
    wanted = ["cam:saliency", "layer:fc1", "cam:grad-cam@conv1", "layer:conv1"]
    assert names(call(live_server.address, "ModelInfer", infer(x[:1], *wanted))) == wanted


def test_a_map_that_says_nothing_says_why(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    blank = np.zeros_like(x[:1])
    (expected,) = live.introspect("mnist", blank, cams=[cutaway.Cam("grad-cam")]).cams
    (output,) = call(live_server.address, "ModelInfer", infer(blank, "cam:grad-cam")).outputs
    assert expected.notes
    assert [f"sample {note.sample}: {note.message}" for note in expected.notes] == [output.parameters["note"].string_param]


def test_typed_requests_get_typed_layers(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    request = infer(x[:1], "layer:conv1")
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(x[:1].ravel())
    (output,) = call(live_server.address, "ModelInfer", request).outputs
    layer = np.array(output.contents.fp32_contents, np.float32).reshape(output.shape)
    np.testing.assert_array_equal(layer, live.introspect("mnist", x[:1], layers=["conv1"]).activations["conv1"])


def test_streamed_one_answer_a_tensor(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    request = infer(x[:2], "cam:grad-cam@conv2", "layer:conv1", "layer:relu", "scores", id="all")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    *parts, last = answers(live_server.address, request)
    assert not last.infer_response.outputs
    flags = [part.infer_response.parameters["triton_final_response"].bool_param for part in (*parts, last)]
    assert flags == [False] * 4 + [True]
    assert {part.infer_response.id for part in (*parts, last)} == {"all"}
    assert all(len(part.infer_response.outputs) == 1 for part in parts)
    seen = live.introspect("mnist", x[:2], layers=["conv1", "relu"], cams=[cutaway.Cam("grad-cam", "conv2")])
    expected = {f"layer:{layer}": activation for layer, activation in seen.activations.items()}
    expected |= {"scores": seen.prediction.scores, "cam:grad-cam@conv2": seen.cams[0].map}
    assert {part.infer_response.outputs[0].name for part in parts} == expected.keys()
    for part in parts:
        name = part.infer_response.outputs[0].name
        np.testing.assert_array_equal(value_of(part.infer_response, name), expected[name])


def test_without_the_empty_answer_there_is_none(live_server: ServerProcess, x: np.ndarray):
    told = answers(live_server.address, infer(x[:1], "layer:conv1", "layer:conv2"))
    assert [names(answer.infer_response) for answer in told] == [["layer:conv1"], ["layer:conv2"]]


class Parts(nn.Module):
    """A layer with a nested output, one that runs for one sample only, and one of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.pair = Pair()
        self.sometimes = nn.Identity()
        self.waves = Waves()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        one, two = self.pair(x)
        if len(x) > 1:
            one = self.sometimes(one)
        return one + two + self.waves(x).abs()


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x.half().float()


class Waves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x)


@pytest.fixture(scope="module")
def parts() -> Iterator[str]:
    example = torch.rand(2, 4)
    with cutaway_server.serve(Parts(), example, name="parts", log_level="error", threads=1) as server:
        yield server.address


FOUR = np.ones((1, 4), np.float32)


def test_nested_outputs_have_their_place_behind_the_name(parts: str):
    answer = call(parts, "ModelInfer", infer(FOUR, "layer:body", "layer:pair", model="parts"))
    assert names(answer) == ["layer:body", "layer:pair/0", "layer:pair/1"]
    np.testing.assert_array_equal(value_of(answer, "layer:pair/0"), value_of(answer, "layer:body") * 2)


def test_a_layer_that_did_not_run(parts: str):
    with pytest.raises(grpc.RpcError) as caught:
        call(parts, "ModelInfer", infer(FOUR, "layer:body", "layer:sometimes", model="parts"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "outputs[1].name: layer 'sometimes' cannot be captured: it did not run" in caught.value.details()


def test_in_a_stream_the_others_come_all_the_same(parts: str):
    told = answers(parts, infer(FOUR, "scores", "layer:sometimes", "layer:waves", "layer:body", model="parts", id="some"))
    assert {answer.infer_response.id for answer in told} == {"some"}
    refused = sorted(answer.error_message for answer in told if answer.error_message)
    assert [message.partition(":")[0] for message in refused] == ["outputs[1].name", "outputs[2].name"]
    assert sorted(name for answer in told for name in names(answer.infer_response)) == ["layer:body", "scores"]


class Closed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = torch.jit.script(nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_network_that_cannot_be_looked_into():
    with cutaway_server.serve(Closed(), torch.rand(2, 4), name="closed", log_level="error") as server:
        with pytest.raises(grpc.RpcError, match="cannot be introspected"):
            call(server.address, "ModelInfer", infer(FOUR, "layer:inside", model="closed"))
        assert names(call(server.address, "ModelInfer", infer(FOUR, model="closed"))) == ["scores"]


@pytest.fixture(scope="module")
def small_messages() -> Iterator[str]:
    with run_server("--max-message-mib", "2", "--threads", "1") as server:
        yield server.address


def test_an_answer_past_the_message_limit_names_the_stream(small_messages: str, x: np.ndarray):
    many = np.concatenate([x, x])[:64]
    with pytest.raises(grpc.RpcError) as caught:
        call(small_messages, "ModelInfer", infer(many, "layer:*"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "ModelStreamInfer" in caught.value.details()
    assert f"{2 * MIB:,}" in caught.value.details()
    (detail,) = rpc_status.from_call(caught.value).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.reason, info.metadata["limit"]) == ("LIMIT", str(2 * MIB))
    assert int(info.metadata["asked"]) > 2 * MIB
    told = answers(small_messages, infer(many, "layer:*"))
    assert not any(answer.error_message for answer in told)
    assert sum(len(answer.infer_response.raw_output_contents[0]) for answer in told) == int(info.metadata["asked"])


def test_one_tensor_past_it_is_for_chunks(small_messages: str, x: np.ndarray):
    many = np.concatenate([x] * 2)  # conv1: 120 x 10 x 24 x 24 x 4 bytes
    for told in (answers(small_messages, infer(many, "layer:conv1"))[0].error_message, refused(small_messages, many)):
        assert f"{120 * 10 * 24 * 24 * 4:,} bytes" in told
    assert "cutaway.v1.InferenceService/Introspect" in answers(small_messages, infer(many, "layer:conv1"))[0].error_message
    assert names(call(small_messages, "ModelInfer", infer(many))) == ["scores"]


def refused(address: str, many: np.ndarray) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(address, "ModelInfer", infer(many, "layer:conv1"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.details()


def test_the_best_classes_beside_layers_come_from_the_same_run(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    best = Wanted(name="scores", parameters={"classification": messages.InferParameter(int64_param=1)})
    answer = call(live_server.address, "ModelInfer", infer(x[:1], best, "layer:conv1"))
    assert names(answer) == ["scores", "layer:conv1"]
    assert answer.outputs[0].datatype == "BYTES"
    top = live.predict("mnist", x[:1], top_k=1).top[0][0]
    assert answer.raw_output_contents[0].endswith(f":{top.index}:{top.label}".encode())
