"""Predict and ModelInfer keep the same promises on the serving thread, on a model's own thread, and by ordinary handlers."""

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

import cutaway
from cutaway_server.models.model import Model
from cutaway_server.models.threads import use_cpu_threads
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from raw_calls import INFER, PREDICT, REQUESTS, infer, predict, scores
from server_process import ServerProcess, run_server, wait_until

FORMS = {
    "serving thread": ("--engine", "onnxruntime"),
    "own thread": ("--engine", "eager"),
    "ordinary": ("--engine", "onnxruntime", "--fast-path", "off"),
}
LIMITS = ("--threads", "1", "--max-message-mib", "2", "--call-timeout", "20", "--log-requests", "--log-format", "json")


@pytest.fixture(scope="module", params=FORMS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with run_server(*FORMS[request.param], *LIMITS) as running:
        assert running.metric("cutaway_fast_path") == (request.param != "ordinary")
        yield running


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.mark.parametrize("path", REQUESTS)
def test_many_callers_each_get_their_own(
    channel: grpc.Channel, server: ServerProcess, x: np.ndarray, models: dict[str, Model], path: str
) -> None:
    """Of all sizes, so that batches are joined and split in every way."""
    with torch.inference_mode():
        expected = models["mnist"].network(torch.from_numpy(x)).numpy()
    ask = channel.unary_unary(path)
    draw = np.random.default_rng(0)
    parts = [sorted(draw.integers(0, 60, 2)) for _ in range(300)]
    answered = server.metric("cutaway_requests_total", code="OK")

    def call(part: list[int]) -> None:
        begin, end = part[0], part[1] + 1
        answer = ask(REQUESTS[path](x[begin:end]), timeout=20)
        np.testing.assert_allclose(scores(path, answer), expected[begin:end], rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(call, part) for part in parts]:
            done.result(60)
    assert server.metric("cutaway_requests_total", code="OK") == answered + len(parts)


def refusal(channel: grpc.Channel, path: str, data: bytes, **more: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(path)(data, timeout=20, **more)
    return refused.value


def test_refusals_have_their_code_sentence_and_details(channel: grpc.Channel, x: np.ndarray) -> None:
    wrong = refusal(channel, PREDICT, predict(x[0]))
    assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[0].tensor.shape: got [1, 28, 28]; expected FLOAT32 tensor [N, 1, 28, 28]" in wrong.details()
    found = error_details_pb2.BadRequest()
    assert rpc_status.from_call(wrong).details[0].Unpack(found)
    assert found.field_violations[0].field == "inputs[0].tensor.shape"
    bad = x[:1].copy()
    bad[0, 0, 3, 3] = np.nan
    for path, data, code in (
        (PREDICT, predict(bad), grpc.StatusCode.INVALID_ARGUMENT),
        (INFER, infer(bad), grpc.StatusCode.INVALID_ARGUMENT),
        (PREDICT, b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (INFER, b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (PREDICT, b"", grpc.StatusCode.INVALID_ARGUMENT),
        (PREDICT, predict(x[:1], "none"), grpc.StatusCode.NOT_FOUND),
        (INFER, infer(x[:1], "none"), grpc.StatusCode.NOT_FOUND),
        (PREDICT, predict(np.zeros((800, 1, 28, 28), np.float32)), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        assert refusal(channel, path, data).code() is code
    assert scores(PREDICT, channel.unary_unary(PREDICT)(predict(x[:1]), timeout=20)).shape == (1, 10)


@pytest.mark.parametrize("path", REQUESTS)
def test_one_callers_nan_spoils_no_batch(channel: grpc.Channel, x: np.ndarray, path: str) -> None:
    ask = channel.unary_unary(path)
    bad = np.full((1, 1, 28, 28), np.nan, np.float32)
    alone = scores(path, ask(REQUESTS[path](x[:1]), timeout=20))
    for _ in range(10):
        calls = [ask.future(REQUESTS[path](bad if turn % 3 == 1 else x[:1]), timeout=20) for turn in range(12)]
        for turn, call in enumerate(calls):
            if turn % 3 == 1:
                assert call.exception(30).code() is grpc.StatusCode.INVALID_ARGUMENT
            else:
                np.testing.assert_allclose(scores(path, call.result(30)), alone, rtol=1e-4, atol=1e-5)


def test_a_deadline_that_has_passed_costs_nobody_else(channel: grpc.Channel, server: ServerProcess, x: np.ndarray) -> None:
    ask = channel.unary_unary(PREDICT)
    late = [ask.future(predict(x[:1]), timeout=1e-6) for _ in range(20)]
    assert scores(PREDICT, ask(predict(x[:1]), timeout=20)).shape == (1, 10)
    ends = [call.exception(20) for call in late]  # some may be answered even so
    assert {error.code() for error in ends if error} == {grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.mark.parametrize("path", REQUESTS)
def test_a_call_without_a_message(channel: grpc.Channel, x: np.ndarray, path: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.stream_unary(path)(iter(()), timeout=20)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "one" in refused.value.details()
    assert scores(path, channel.unary_unary(path)(REQUESTS[path](x[:1]), timeout=20)).shape == (1, 10)


def test_request_ids_logs_and_metrics(channel: grpc.Channel, server: ServerProcess, x: np.ndarray) -> None:
    before = server.metric("cutaway_request_seconds_count", method="Predict", model="mnist")
    _, call = channel.unary_unary(PREDICT).with_call(predict(x[:1]), timeout=20, metadata=(("x-request-id", "mine-1"),))
    assert ("x-request-id", "mine-1") in [tuple(pair) for pair in call.trailing_metadata()]
    _, other = channel.unary_unary(PREDICT).with_call(predict(x[:1]), timeout=20)
    assert len(dict(other.trailing_metadata())["x-request-id"]) == 32
    refused = refusal(channel, PREDICT, predict(x[:1], "none"), metadata=(("x-request-id", "mine-2"),))
    assert ("x-request-id", "mine-2") in [tuple(pair) for pair in refused.trailing_metadata()]
    assert server.metric("cutaway_request_seconds_count", method="Predict", model="mnist") == before + 2
    assert server.metric("cutaway_requests_total", method="Predict", code="NOT_FOUND") >= 1

    def line(request_id: str) -> dict[str, object]:
        found = [one for one in map(json.loads, server.log().splitlines()) if one.get("request_id") == request_id]
        return found[0] if found else {}

    wait_until(lambda: bool(line("mine-1")) and bool(line("mine-2")))
    assert line("mine-1")["event"] == "answered"
    assert (line("mine-1")["method"], line("mine-1")["model"]) == ("Predict", "mnist")
    assert (line("mine-2")["event"], line("mine-2")["code"]) == ("refused", "NOT_FOUND")


def test_compressed_requests(server: ServerProcess, x: np.ndarray) -> None:
    with grpc.insecure_channel(server.address, compression=grpc.Compression.Gzip) as channel:
        assert scores(PREDICT, channel.unary_unary(PREDICT)(predict(x), timeout=20)).shape == (60, 10)


def test_photographs_and_pixels_too(server: ServerProcess, digits: np.ndarray) -> None:
    with cutaway.Client(server.address, timeout=20) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.predict("mnist", digits[:20], top_k=1).top[7][0].label, range(16)))
    assert len(set(answers)) == 1


def test_others_are_answered_beside_a_flood(server: ServerProcess, x: np.ndarray) -> None:
    stop = threading.Event()

    def flood() -> int:
        with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as own:
            ask, count = own.unary_unary(PREDICT), 0
            while not stop.is_set() and count < 3000:
                for call in [ask.future(predict(x[:4]), timeout=20) for _ in range(16)]:
                    call.exception(20)
                count += 16
            return count

    with ThreadPoolExecutor(4) as threads, grpc.insecure_channel(server.address) as channel:
        floods = [threads.submit(flood) for _ in range(4)]
        health = health_pb2_grpc.HealthStub(channel)
        with cutaway.Client(server.address, timeout=20) as client:
            for _ in range(5):
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == health_pb2.HealthCheckResponse.SERVING
                seen = client.introspect("mnist", x[:1], layers=["conv1"])
                assert seen.activations["conv1"].shape == (1, 10, 24, 24)
        stop.set()
        assert all(done.result(60) > 0 for done in floods)


@pytest.mark.parametrize(("fast_path", "threads"), [("auto", 1), ("off", 1), ("auto", 2)])
def test_with_batching_off_scores_are_the_networks_own_to_the_bit(
    models: dict[str, Model], x: np.ndarray, fast_path: str, threads: int
) -> None:
    given = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "lanes": 1, "log_level": "error"}
    settings = load_settings({**given, "engine": "eager", "max_batch": 1, "threads": threads, "fast_path": fast_path})
    draw = np.random.default_rng(threads)
    parts = [x[draw.integers(0, 60, draw.integers(1, 20))] for _ in range(40)]

    def alone() -> list[np.ndarray]:
        use_cpu_threads(threads)
        with torch.inference_mode():
            return [models["mnist"].network(torch.from_numpy(part)).numpy() for part in parts]

    with ThreadPoolExecutor(1) as own_thread:
        expected = own_thread.submit(alone).result()
    with (
        Server([models["mnist"]], settings) as running,
        grpc.insecure_channel(running.address) as channel,
        ThreadPoolExecutor(16) as callers,
    ):

        def ask(turn: int) -> np.ndarray:
            path = (PREDICT, INFER)[turn % 2]
            return scores(path, channel.unary_unary(path)(REQUESTS[path](parts[turn]), timeout=20))

        for given_scores, own in zip(callers.map(ask, range(len(parts))), expected, strict=True):
            np.testing.assert_array_equal(given_scores, own)


def test_a_drain_answers_what_came(channel: grpc.Channel, server: ServerProcess, x: np.ndarray) -> None:
    """The last test of this server. All that it took before SIGTERM is answered; what comes later is refused; it ends with 0."""
    ask = channel.unary_unary(PREDICT)
    ask(predict(x[:1]), timeout=20)
    calls = [ask.future(predict(x), timeout=20) for _ in range(64)]
    wait_until(lambda: any(call.done() for call in calls))
    server.process.send_signal(signal.SIGTERM)
    ends = [call.exception(30) for call in calls]
    assert {error.code() for error in ends if error} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert sum(error is None for error in ends) > 0
    assert server.process.wait(20) == 0
