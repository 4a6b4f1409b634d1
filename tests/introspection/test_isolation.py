"""Many callers at once, readers that stand still, calls that are given up: nobody else notices, and no hook stays."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import cutaway
from cutaway.v1 import input_pb2, introspect_pb2, tensor_pb2
from cutaway.v1.inference_pb2_grpc import InferenceServiceStub
from server_process import ServerProcess, run_server, wait_until
from stopping_reader import reader_that_stops

MANY = 2000  # samples whose captures are far more than a call's buffer and what gRPC takes on the way


@pytest.fixture(scope="module")
def batching_server() -> Iterator[ServerProcess]:
    with run_server("--threads", "1", "--lanes", "2", "--max-batch", "32", "--stream-buffer-mib", "4") as running:
        yield running


@pytest.fixture
def many() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((MANY, 1, 28, 28), np.float32)


def idle(server: ServerProcess) -> bool:
    return server.metric("cutaway_live_hooks") == 0 and server.metric("cutaway_mirrors_in_use") == 0


LAYERS = {
    "mnist": ["conv1", "relu", "conv2", "fc1", "relu_2", "fc2"],
    "mnist-gap": ["features.conv1", "features.bn2", "pool", "fc"],
}


@pytest.mark.parametrize("batching", [False, True])
def test_24_threads_see_their_own_tensors_only(
    live_server: ServerProcess, batching_server: ServerProcess, x: np.ndarray, batching: bool
) -> None:
    server = batching_server if batching else live_server
    plans = [(model, layer) for model, layers in LAYERS.items() for layer in layers]

    with cutaway.Client(live_server.address) as quiet:
        wanted = {}
        for caller in range(24):
            model, layer = plans[caller % len(plans)]
            sample = x[caller : caller + 1]
            seen = quiet.introspect(model, sample, layers=[layer], cams=[cutaway.Cam("grad-cam")])
            wanted[caller] = (seen.activations[layer], seen.cams[0].map, seen.scores, quiet.predict(model, sample).scores)

    start = threading.Barrier(24)

    def call(caller: int) -> None:
        model, layer = plans[caller % len(plans)]
        sample = x[caller : caller + 1]
        activation, map_, scores, answer = wanted[caller]
        with cutaway.Client(server.address, timeout=60) as client:
            start.wait(30)
            for _ in range(5):
                seen = client.introspect(model, sample, layers=[layer], cams=[cutaway.Cam("grad-cam")])
                assert list(seen.activations) == [layer]
                np.testing.assert_array_equal(seen.activations[layer], activation)
                np.testing.assert_array_equal(seen.cams[0].map, map_)
                np.testing.assert_array_equal(seen.scores, scores)  # a mirror runs a call alone, batching or not
                predicted = client.predict(model, sample).scores
                if batching:
                    np.testing.assert_allclose(predicted, answer, atol=2e-5)
                else:
                    np.testing.assert_array_equal(predicted, answer)
                np.testing.assert_allclose(predicted, scores, rtol=0, atol=1e-4 * np.abs(scores).max())

    with ThreadPoolExecutor(24) as threads:
        for done in [threads.submit(call, caller) for caller in range(24)]:
            done.result()
    wait_until(lambda: idle(server))
    assert server.metric("cutaway_mirrors_dropped_total") == 0


def test_as_many_stalled_readers_as_lanes_hold_up_nobody_else(
    batching_server: ServerProcess, many: np.ndarray, x: np.ndarray
) -> None:
    server = batching_server
    with (
        ExitStack() as stalled,
        cutaway.Client(server.address, timeout=20) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        before = client.predict("mnist", x[:1]).scores
        for _ in range(2):
            events = stalled.enter_context(client.introspect_stream("mnist", many, layers=["*"], timeout=60))
            next(iter(events))
        wait_until(lambda: server.metric("cutaway_mirrors_in_use", model="mnist") == 2)
        assert server.metric("cutaway_live_hooks", model="mnist") > 0
        for _ in range(20):
            np.testing.assert_allclose(client.predict("mnist", x[:1]).scores, before, atol=1e-5)
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        assert client.model("mnist").layers
        assert client.introspect("mnist-gap", x[:1], layers=["fc"]).activations["fc"].shape == (1, 10)  # another model's lanes
    wait_until(lambda: idle(server))


def test_the_first_chunk_leaves_while_the_network_still_runs(batching_server: ServerProcess, many: np.ndarray) -> None:
    server = batching_server
    captured = server.metric("cutaway_captured_bytes_total", model="mnist")
    with cutaway.Client(server.address) as client:
        table = client.model("mnist").layers
        everything = MANY * sum(layer.bytes for layer in table)
        with client.introspect_stream("mnist", many, layers=["*"], timeout=60) as events:
            started = next(iter(events))
            assert isinstance(started, cutaway.Started)
            assert started.total_bytes == everything
            first = next(iter(events))
            assert (first.layer, first.array.shape) == ("conv1", (MANY, 10, 24, 24))
            # It waits for this reader within its first layers: what is captured and not read is bounded.
            wait_until(lambda: server.metric("cutaway_captured_bytes_total", model="mnist") > captured)
            assert server.metric("cutaway_live_hooks", model="mnist") > 0
        wait_until(lambda: idle(server))
        assert server.metric("cutaway_captured_bytes_total", model="mnist") - captured < everything
        wait_until(lambda: started.request_id in server.log())
        (stopped,) = (json.loads(line) for line in server.log().splitlines() if started.request_id in line and "stopped" in line)
        ran = [layer.name for layer in table].index(stopped["last_layer"]) + 1
        assert ran < len(table) / 2
        assert client.introspect("mnist", many[:1], layers=["*"]).activations["fc2"].shape == (1, 10)


def test_a_lane_that_waits_for_its_reader_shows_in_the_gauges(live_server: ServerProcess, many: np.ndarray) -> None:
    """Also where all that was captured fits into the stream's buffer, and the network is done."""
    with grpc.insecure_channel(live_server.address) as channel:
        stalled = InferenceServiceStub(channel).Introspect(request(many[:200]), timeout=60)
        next(stalled)
        wait_until(lambda: live_server.metric("cutaway_captured_bytes_total", model="mnist") > 0)
        assert live_server.metric("cutaway_mirrors_in_use", model="mnist") == 1
        assert live_server.metric("cutaway_live_hooks", model="mnist") > 0
        stalled.cancel()
    wait_until(lambda: idle(live_server))


def test_a_cancelled_call_is_stopped_and_leaves_no_hook(batching_server: ServerProcess, many: np.ndarray) -> None:
    with cutaway.Client(batching_server.address) as client:
        for read in (0, 1):  # before and after the first event
            with client.introspect_stream("mnist", many, layers=["*"], timeout=60) as events:
                for _ in range(read):
                    next(iter(events))
            wait_until(lambda: idle(batching_server))


def test_an_expired_call_is_stopped_and_leaves_no_hook(batching_server: ServerProcess, many: np.ndarray) -> None:
    with cutaway.Client(batching_server.address) as client:
        with pytest.raises(cutaway.DeadlineExceeded):
            client.introspect("mnist-gap", many, layers=["*"], timeout=0.3)
        wait_until(lambda: idle(batching_server))
        assert client.predict("mnist", many[:1]).scores.shape == (1, 10)


def request(samples: np.ndarray) -> introspect_pb2.IntrospectRequest:
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=samples.shape, data=samples.tobytes())
    return introspect_pb2.IntrospectRequest(
        model="mnist", inputs=[input_pb2.Input(tensor=tensor)], captures=[introspect_pb2.Capture(layer="*")]
    )


def test_a_reader_that_stands_still_is_ended(many: np.ndarray, x: np.ndarray) -> None:
    flags = ("--threads", "1", "--lanes", "1", "--stream-buffer-mib", "1", "--stall-timeout", "0.5")
    with run_server(*flags) as server, grpc.insecure_channel(server.address) as channel:
        stalled = InferenceServiceStub(channel).Introspect(request(many), timeout=60)
        next(stalled)
        wait_until(lambda: server.metric("cutaway_live_hooks") > 0)
        wait_until(lambda: idle(server))
        with pytest.raises(grpc.RpcError):
            for _ in stalled:
                pass
        assert stalled.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED)
        wait_until(lambda: "the stream was not read for 0.5 s" in server.log())
        with cutaway.Client(server.address) as client:
            assert client.introspect("mnist", x[:1], layers=["fc2"]).activations["fc2"].shape == (1, 10)


def test_more_calls_than_may_wait_are_refused_at_once(many: np.ndarray) -> None:
    flags = ("--threads", "1", "--lanes", "1", "--max-waiting-introspections", "2", "--stream-buffer-mib", "1")
    with run_server(*flags) as server, grpc.insecure_channel(server.address) as channel, ExitStack() as ending:
        stub = InferenceServiceStub(channel)
        running = stub.Introspect(request(many), timeout=60)
        ending.callback(running.cancel)
        next(running)
        for waiting in (1, 2):
            call = stub.Introspect(request(many[:1]), timeout=60)
            ending.callback(call.cancel)
            wait_until(lambda waiting=waiting: server.metric("cutaway_introspections_waiting", model="mnist") == waiting)
        with (
            cutaway.Client(server.address) as client,
            pytest.raises(cutaway.ResourceExhausted, match="2 introspections wait") as caught,
        ):
            client.introspect("mnist", many[:1], layers=["fc2"])
        assert [type(detail).__name__ for detail in caught.value.details] == ["RetryInfo", "ErrorInfo"]


def test_a_client_that_is_killed_leaves_no_hook(batching_server: ServerProcess) -> None:
    with reader_that_stops(batching_server.address, "mnist", (MANY, 1, 28, 28), layers=["*"]) as reader:
        wait_until(lambda: batching_server.metric("cutaway_live_hooks") > 0)
        reader.kill()
    wait_until(lambda: idle(batching_server))
