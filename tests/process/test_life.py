"""Manners of the process: start, settings, health, reflection, logs, limits, drain, end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import cutaway
from cutaway.v1 import inference_pb2_grpc, introspect_pb2, predict_pb2
from cutaway_server.process.settings import load_settings
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.server import RpcServer
from server_process import ServerProcess, run_server, wait_until

SERVICE = "cutaway.v1.InferenceService"
OPEN_INFERENCE = "inference.GRPCInferenceService"
NAMES = ("", SERVICE, OPEN_INFERENCE)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.contextmanager
def connected(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(10)
        yield channel


@pytest.fixture(scope="module")
def channel(live_server: ServerProcess) -> Iterator[grpc.Channel]:
    with connected(live_server.address) as opened:
        yield opened


def image(batch: int = 1) -> np.ndarray:
    return np.zeros((batch, 1, 28, 28), np.float32)


def predict_request(model: str = "mnist") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest(model=model)
    request.inputs.add().tensor.MergeFrom(_tensor(image()))
    return request


def introspect_request(batch: int, layer: str = "*") -> introspect_pb2.IntrospectRequest:
    request = introspect_pb2.IntrospectRequest(model="mnist", captures=[introspect_pb2.Capture(layer=layer)])
    request.inputs.add().tensor.MergeFrom(_tensor(image(batch)))
    return request


def _tensor(array: np.ndarray) -> cutaway.v1.tensor_pb2.Tensor:
    return cutaway.v1.tensor_pb2.Tensor(dtype="DATA_TYPE_FLOAT32", shape=array.shape, data=array.tobytes())


def log_lines(server: ServerProcess) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log().splitlines()]


# Health and reflection


@pytest.mark.parametrize("name", NAMES)
def test_health(channel: grpc.Channel, name: str):
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert next(watch).status == SERVING
    watch.cancel()


def test_health_of_an_unknown_service(channel: grpc.Channel):
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


class _NoMethods:
    is_ready = False

    def __init__(self, service: str) -> None:
        self._service = service

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(self._service, {})

    def close(self) -> None:
        """It has nothing open."""


def test_health_is_not_serving_until_ready_and_while_draining():
    limits = Limits(
        message_bytes=1 << 20,
        pixels=1,
        input_bytes=1,
        call_seconds=1,
        stall_seconds=1,
        passes=1,
        buffer_bytes=1,
        all_buffers_bytes=1,
    )
    ours, open_inference = map(_NoMethods, (SERVICE, OPEN_INFERENCE))
    server = RpcServer(ours, open_inference, None, "127.0.0.1:0", limits=limits, waiting=1, with_reflection=False)
    server.start()
    try:
        with connected(server.address) as opened:
            stub = health_pb2_grpc.HealthStub(opened)
            seen = {name: stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=30) for name in NAMES}
            assert [next(watch).status for watch in seen.values()] == [NOT_SERVING] * 3
            server.ready(True)
            assert [next(watch).status for watch in seen.values()] == [SERVING] * 3
            assert open_inference.is_ready
            server.drain(0)
            assert [next(watch).status for watch in seen.values()] == [NOT_SERVING] * 3
            assert not open_inference.is_ready
    finally:
        server.drain(0)


def services(opened: grpc.Channel) -> set[str]:
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    answers = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo(asked, timeout=10)
    return {service.name for service in next(answers).list_services_response.service}


def test_reflection(channel: grpc.Channel):
    assert services(channel) == {SERVICE, OPEN_INFERENCE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


# Start lines and settings


def test_readable_start_lines(live_server: ServerProcess):
    first, second, metrics, listening = live_server.said.strip().splitlines()
    assert first.startswith("serving mnist version 1 on cpu: ")
    assert second.startswith("serving mnist-gap version 1 on cpu: ")
    assert metrics == f"metrics at http://{live_server.metrics_address}/metrics"
    assert listening == f"listening on {live_server.address}"
    assert live_server.address.startswith("127.0.0.1:")


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """From a file, with some of it overruled by the environment, and some of that by flags."""
    file = tmp_path_factory.mktemp("config") / "cutaway.toml"
    in_file = {"lanes": 3, "max_message_mib": 3, "call_timeout": 2, "stream_buffer_mib": 1, "threads": 1}
    file.write_text("log_requests = true\nreflection = true\n" + "".join(f"{name} = {value}\n" for name, value in in_file.items()))
    with contextlib.ExitStack() as running:
        with pytest.MonkeyPatch.context() as patch:  # for the start alone: other servers of these tests inherit it otherwise
            patch.setenv("CUTAWAY_LANES", "4")
            patch.setenv("CUTAWAY_MAX_MESSAGE_MIB", "2")
            server = running.enter_context(run_server("--config", str(file), "--lanes", "5", "--no-reflection"))
        yield server


@pytest.fixture(scope="module")
def configured_channel(configured: ServerProcess) -> Iterator[grpc.Channel]:
    with connected(configured.address) as opened:
        yield opened


def test_a_flag_wins_over_the_environment_and_that_over_the_file(configured: ServerProcess):
    with cutaway.Client(configured.address) as client:
        assert client.model("mnist").introspection.lanes == 5
        with pytest.raises(cutaway.ResourceExhausted, match=str(2 << 20)):
            client.predict("mnist", image(1000))


def test_several_of_a_setting_in_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUTAWAY_MODELS", os.pathsep.join(["/one", "/two"]))
    monkeypatch.setenv("CUTAWAY_ALLOW_FACTORY", "nets:Small.build,nets.large:build")
    settings = load_settings({})
    assert settings.models == (Path("/one"), Path("/two"))
    assert settings.allow_factory == ("nets:Small.build", "nets.large:build")


def test_no_reflection(configured_channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as refused:
        services(configured_channel)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_without_a_deadline_gets_the_servers_own(configured_channel: grpc.Channel, configured: ServerProcess):
    stream = inference_pb2_grpc.InferenceServiceStub(configured_channel).Introspect(introspect_request(batch=500))
    assert next(stream).HasField("started")
    # Nothing is read: what flow control lets through comes, then the server waits until the call's time is over.
    wait_until(lambda: configured.metric("cutaway_requests_total", method="Introspect", code="DEADLINE_EXCEEDED") == 1)
    with pytest.raises(grpc.RpcError) as ended:
        list(stream)
    assert ended.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    assert configured.metric("cutaway_live_hooks") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-batsh", "1"], "max-batsh"),
        (["--max-batch", "many"], "'many' is not a valid integer"),
        (["--max-batch", "0"], "max_batch: Input should be greater than or equal to 1"),
        (["--listen", "localhost"], "listen: Value error, must be HOST:PORT"),
        (["--log-level", "loud"], "'loud' is not one of"),
        (["--device", "tpu"], "device: String should match pattern"),
        (["--device", "cuda:99"], "device cuda:99: th"),  # no machine has so many: there are N, or this PyTorch sees none
        (["--config", "missing.toml"], "missing.toml: [Errno 2] No such file"),
        (["--config", "broken.toml"], "broken.toml: "),
        (["--config", "unknown.toml"], "max_bach: Extra inputs are not permitted"),
        (["--config", "wrong.toml"], "lanes: Input should be a valid integer"),
    ],
)
def test_what_is_wrong_with_the_settings(tmp_path: Path, arguments: list[str], says: str):
    (tmp_path / "broken.toml").write_text("lanes = = 3")
    (tmp_path / "unknown.toml").write_text("max_bach = 3")
    (tmp_path / "wrong.toml").write_text("lanes = 'two'")
    ended = _serve(tmp_path, *arguments)
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert [line for line in ended.stderr.splitlines() if says in line] == [ended.stderr.splitlines()[-1]]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("flag", ["--listen", "--metrics"])
def test_an_address_that_is_taken(tmp_path: Path, flag: str):
    addresses = {"--listen": "127.0.0.1:0", "--metrics": "127.0.0.1:0"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addresses[flag] = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = _serve(tmp_path, *(word for pair in addresses.items() for word in pair))
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert addresses[flag] in line
    assert "Traceback" not in ended.stderr


def _serve(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cutaway", "serve", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


# Logs


def test_a_refused_call_is_logged_under_the_callers_request_id(channel: grpc.Channel, live_server: ServerProcess):
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Predict(predict_request("nothing"), metadata=[("x-request-id", "caller-7/a")], timeout=10)
    assert dict(refused.value.trailing_metadata())["x-request-id"] == "caller-7/a"
    (line,) = [line for line in log_lines(live_server) if line.get("request_id") == "caller-7/a"]
    assert (line["event"], line["code"], line["method"], line["model"]) == ("refused", "NOT_FOUND", "Predict", "nothing")
    assert (line["level"], line["reason"]) == ("info", refused.value.details())


def test_an_answer_carries_the_request_id_and_is_not_logged(channel: grpc.Channel, live_server: ServerProcess):
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    _, call = stub.Predict.with_call(predict_request(), metadata=[("x-request-id", "quiet-1")], timeout=10)
    assert dict(call.trailing_metadata())["x-request-id"] == "quiet-1"
    stream = stub.Introspect(introspect_request(1, "fc2"), metadata=[("x-request-id", "quiet-2")], timeout=10)
    assert next(stream).started.request_id == "quiet-2"
    assert list(stream)[-1].HasField("finished")
    assert "quiet-" not in live_server.log()


@pytest.mark.parametrize("theirs", [None, "no spaces please", "x" * 129])
def test_a_request_id_is_made_up_where_there_is_no_good_one(channel: grpc.Channel, theirs: str | None):
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    metadata = [("x-request-id", theirs)] if theirs else []
    _, call = stub.Predict.with_call(predict_request(), metadata=metadata, timeout=10)
    made_up = dict(call.trailing_metadata())["x-request-id"]
    assert len(made_up) == 32
    assert int(made_up, 16)


def test_log_requests(configured_channel: grpc.Channel, configured: ServerProcess):
    stub = inference_pb2_grpc.InferenceServiceStub(configured_channel)
    stub.Predict(predict_request(), metadata=[("x-request-id", "loud-1")], timeout=10)

    def lines() -> list[dict[str, object]]:
        return [line for line in log_lines(configured) if line.get("request_id") == "loud-1"]

    wait_until(lambda: lines() != [])  # written just after the answer
    (line,) = lines()
    assert (line["event"], line["method"], line["model"], line["level"]) == ("answered", "Predict", "mnist", "info")
    assert line["seconds"] > 0


# The end


def unavailable(address: str) -> bool:
    with cutaway.Client(address, timeout=10) as client:
        try:
            client.models()
        except cutaway.Unavailable:
            return True
        except cutaway.Cancelled:  # taken in the very moment in which the server stopped listening
            return False
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_that_is_read_finishes_while_the_server_drains(number: signal.Signals):
    with (
        run_server("--threads", "1", "--stream-buffer-mib", "1", "--drain", "60") as server,
        connected(server.address) as opened,
        connected(server.address) as other,
    ):
        watch = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=50)
        assert next(watch).status == SERVING
        stream = inference_pb2_grpc.InferenceServiceStub(opened).Introspect(introspect_request(batch=500), timeout=60)
        started = next(stream).started

        server.process.send_signal(number)

        assert next(watch).status == NOT_SERVING
        wait_until(lambda: unavailable(server.address))
        assert server.process.poll() is None
        assert list(watch) == []  # it was ended: open, it would hold the server for the whole grace
        events = list(stream)
        assert events[-1].HasField("finished")
        assert sum(len(event.chunk.data) for event in events) == started.total_bytes + 500 * 10 * 4
        assert server.process.wait(30) == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == "stopping: running calls have 60 s\n"
        assert server.log() == ""


def test_a_stream_that_stands_still_is_ended_after_the_grace():
    with (
        run_server("--threads", "1", "--stream-buffer-mib", "1", "--drain", "0.5") as server,
        connected(server.address) as opened,
    ):
        stream = inference_pb2_grpc.InferenceServiceStub(opened).Introspect(introspect_request(batch=500))
        assert next(stream).HasField("started")
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError) as ended:
            list(stream)
        assert ended.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert all(line["level"] == "info" for line in log_lines(server))


@pytest.mark.parametrize("after", [0, 0.4, 1.2])
def test_sigterm_while_it_starts(tmp_path: Path, after: float):
    """Whatever it does at that moment: before it minds signals it just ends, after that it drains; it never complains."""
    addresses = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    command = [sys.executable, "-m", "cutaway", "serve", "--models", str(tmp_path), *addresses]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after)
        process.terminate()
        said, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) in [(0, ""), (-signal.SIGTERM, "")]
    assert process.returncode or said.endswith("stopping: running calls have 10 s\n")


def test_an_idle_server_ends_at_once_and_says_nothing(configured: ServerProcess):
    """The last test of this server."""
    assert all(line["level"] == "info" for line in log_lines(configured))
    assert configured.stop(signal.SIGINT) == 0
