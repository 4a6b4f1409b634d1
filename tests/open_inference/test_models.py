"""What the protocol tells of server and models, and what the operator lets callers do to them."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from torch import nn

import cutaway_server
from cutaway_server.rpc.open_inference import messages
from open_inference_calls import SERVICE, answers, call, infer, value_of
from server_process import ServerProcess, run_server

Code = grpc.StatusCode


def ask(server: Any, method: str, **fields: Any) -> Any:
    return call(server.address, method, getattr(messages, f"{method}Request")(**fields))


def test_live_and_ready(live_server: ServerProcess):
    assert ask(live_server, "ServerLive").live
    assert ask(live_server, "ServerReady").ready
    assert ask(live_server, "ModelReady", name="mnist").ready
    assert ask(live_server, "ModelReady", name="mnist-gap", version="1").ready
    assert not ask(live_server, "ModelReady", name="mnist", version="2").ready
    assert not ask(live_server, "ModelReady", name="resnet").ready


def test_reflection_tells_the_methods(live_server: ServerProcess):
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="cutaway.v1.InferenceService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="nobody.has.This"),
    ]
    with grpc.insecure_channel(live_server.address) as channel:
        listed, ours, cutaways, none = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter(asked), timeout=10
        )
    assert {SERVICE, "cutaway.v1.InferenceService"} <= {one.name for one in listed.list_services_response.service}
    file = descriptor_pb2.FileDescriptorProto.FromString(ours.file_descriptor_response.file_descriptor_proto[0])
    assert "ModelStreamInfer" in [method.name for method in file.service[0].method]
    assert cutaways.file_descriptor_response.file_descriptor_proto
    assert none.error_response.error_code == Code.NOT_FOUND.value[0]


def test_the_server_names_only_what_it_has(live_server: ServerProcess):
    told = ask(live_server, "ServerMetadata")
    assert told.name == "cutaway"
    assert told.version == version("cutaway")
    assert set(told.extensions) == {"classification", "model_configuration", "statistics"}


def test_metadata_lists_the_declared_outputs_only(live_server: ServerProcess):
    told = ask(live_server, "ModelMetadata", name="mnist")
    assert (told.name, list(told.versions), told.platform) == ("mnist", ["1"], "pytorch")
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [("x", "FP32", [-1, 1, 28, 28])]
    assert [(one.name, one.datatype, list(one.shape)) for one in told.outputs] == [("scores", "FP32", [-1, 10])]


def test_the_configuration_agrees_with_the_metadata(live_server: ServerProcess):
    config = ask(live_server, "ModelConfig", name="mnist").config
    assert (config.name, config.platform) == ("mnist", "pytorch")
    assert config.max_batch_size > 0  # so readers put the batch's -1 before the sizes here
    assert [list(one.dims) for one in config.input] == [[1, 28, 28]]
    assert [list(one.dims) for one in config.output] == [[10]]
    assert not config.HasField("dynamic_batching")  # this server joins none


def test_the_largest_batch_that_is_told_is_taken():
    with run_server("--max-message-mib", "2", "--threads", "1") as server:
        config = ask(server, "ModelConfig", name="mnist").config
        assert config.HasField("dynamic_batching")
        most = np.zeros((config.max_batch_size, 1, 28, 28), np.float32)
        assert list(call(server.address, "ModelInfer", infer(most)).outputs[0].shape) == [len(most), 10]


class Scene(nn.Module):
    """Scores for each cell, of pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_scores_with_more_axes():
    example = torch.rand(2, 3, 8, 9)
    network = Scene()
    with cutaway_server.serve(network, example, name="scene", log_level="error", threads=1) as server:
        (output,) = ask(server, "ModelMetadata", name="scene").outputs
        assert list(output.shape) == [-1, 5, 8, 9]
        answer = call(server.address, "ModelInfer", infer(example.numpy(), model="scene"))
        torch.testing.assert_close(torch.from_numpy(value_of(answer, "scores").copy()), network(example).detach())
        request = infer(example.numpy(), "scores", model="scene")
        request.outputs[0].parameters["classification"].int64_param = 1
        with pytest.raises(grpc.RpcError, match=r"the scores are not \[N, classes\]"):
            call(server.address, "ModelInfer", request)


def test_statistics_count_what_was_done(live_server: ServerProcess, x: np.ndarray):
    def told() -> Any:
        (one,) = ask(live_server, "ModelStatistics", name="mnist-gap").model_stats
        assert (one.name, one.version) == ("mnist-gap", "1")
        return one

    before = told()
    for request in (infer(x[:3], model="mnist-gap"), infer(x[:2], model="mnist-gap")):
        call(live_server.address, "ModelInfer", request)
    answers(live_server.address, infer(x[:1], model="mnist-gap"))
    with pytest.raises(grpc.RpcError):
        call(live_server.address, "ModelInfer", infer(x[:1], "nothing", model="mnist-gap"))
    after = told()
    assert after.inference_count - before.inference_count == 6
    assert after.execution_count - before.execution_count == 3
    stats, were = after.inference_stats, before.inference_stats
    assert stats.success.count - were.success.count == 3
    assert stats.fail.count - were.fail.count == 1
    assert stats.queue.count - were.queue.count == stats.compute_infer.count - were.compute_infer.count == 3
    assert stats.success.ns - were.success.ns >= stats.compute_infer.ns - were.compute_infer.ns > 0
    assert {one.name for one in ask(live_server, "ModelStatistics").model_stats} == {"mnist", "mnist-gap"}


def test_the_index(live_server: ServerProcess):
    told = ask(live_server, "RepositoryIndex")
    assert [(one.name, one.version, one.state) for one in told.models] == [("mnist", "1", "READY"), ("mnist-gap", "1", "READY")]


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_loading_is_off_unless_the_operator_allows_it(method: str, live_server: ServerProcess):
    with pytest.raises(grpc.RpcError) as caught:
        ask(live_server, method, model_name="mnist")
    assert caught.value.code() is Code.UNIMPLEMENTED


MODEL = """\
network: {module: module.py}
inputs: [{shape: [4]}]
"""
MODULE = """\
from torch import nn

def build():
    return nn.AdaptiveAvgPool1d(CLASSES)
"""


def write(models: Path, name: str, version: int, classes: int) -> None:
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(MODEL)
    (folder / "module.py").write_text(MODULE.replace("CLASSES", str(classes)))


def states(server: ServerProcess, **fields: Any) -> dict[str, str]:
    return {f"{one.name} {one.version}": one.state for one in ask(server, "RepositoryIndex", **fields).models}


FOUR = np.ones((1, 4), np.float32)


def test_load_and_unload(tmp_path: Path):
    write(tmp_path, "one", 1, classes=2)
    with run_server("--models", str(tmp_path), "--allow-code", "--admin", "--threads", "1") as server:
        assert "model_repository" in ask(server, "ServerMetadata").extensions
        assert states(server) == {"one 1": "READY"}

        write(tmp_path, "two", 1, classes=3)
        assert not ask(server, "ModelReady", name="two").ready
        ask(server, "RepositoryModelLoad", model_name="two")
        assert states(server) == {"one 1": "READY", "two 1": "READY"}

        ask(server, "RepositoryModelUnload", model_name="one")
        assert states(server) == {"one 1": "UNAVAILABLE", "two 1": "READY"}
        assert states(server, ready=True) == {"two 1": "READY"}
        assert server.metric("cutaway_models", state="parked") == 1
        assert ask(server, "ModelReady", name="one").ready  # a call brings it back
        assert list(call(server.address, "ModelInfer", infer(FOUR, model="one", name="input")).outputs[0].shape) == [1, 2]
        assert states(server) == {"one 1": "READY", "two 1": "READY"}

        ask(server, "RepositoryModelUnload", model_name="one")
        ask(server, "RepositoryModelLoad", model_name="one")
        assert states(server) == {"one 1": "READY", "two 1": "READY"}

        with pytest.raises(grpc.RpcError) as caught:
            ask(server, "RepositoryModelLoad", model_name="three")
        assert caught.value.code() is Code.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            ask(server, "RepositoryModelUnload", model_name="three")
        assert caught.value.code() is Code.NOT_FOUND
        sent = {"file:1/model.onnx": messages.ModelRepositoryParameter(bytes_param=b"...")}
        with pytest.raises(grpc.RpcError, match=r"got file:1/model\.onnx; expected none"):
            ask(server, "RepositoryModelLoad", model_name="one", parameters=sent)
        with pytest.raises(grpc.RpcError, match="model_name: got an empty name"):
            ask(server, "RepositoryModelUnload")

        shutil.rmtree(tmp_path / "two")
        with pytest.raises(grpc.RpcError) as caught:
            ask(server, "RepositoryModelLoad", model_name="two")
        assert caught.value.code() is Code.NOT_FOUND

        write(tmp_path, "four", 1, classes=2)
        (tmp_path / "four" / "1" / "module.py").write_text("nothing = 1")
        with pytest.raises(grpc.RpcError) as caught:
            ask(server, "RepositoryModelLoad", model_name="four")
        assert caught.value.code() is Code.FAILED_PRECONDITION
        assert states(server) == {"four 1": "UNAVAILABLE", "one 1": "READY"}
        assert not ask(server, "ModelReady", name="four").ready


def test_a_built_in_model_is_parked_and_comes_back(x: np.ndarray):
    with run_server("--admin", "--threads", "1", "--max-batch", "1") as server:
        before = value_of(call(server.address, "ModelInfer", infer(x[:2])), "scores")
        ask(server, "RepositoryModelUnload", model_name="mnist")
        assert states(server)["mnist 1"] == "UNAVAILABLE"
        ask(server, "RepositoryModelLoad", model_name="mnist")
        np.testing.assert_array_equal(value_of(call(server.address, "ModelInfer", infer(x[:2])), "scores"), before)
