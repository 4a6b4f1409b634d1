"""ModelStreamInfer: one answer after the other, one stream never in another's way, and none that outlives the server."""

import queue
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from torch import nn

import cutaway
import cutaway_server
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.streams import MAX_STREAMS
from cutaway_server.rpc.served import State
from leftovers import assert_nothing_beyond, census, only_what_is_new
from open_inference_calls import answers, call, infer, stream, value_of
from server_process import ServerProcess, run_server, wait_until

Code = grpc.StatusCode
END = None


class Open:
    """A stream that stays open: requests are put into it, answers are taken out of it."""

    def __init__(self, channel: grpc.Channel, timeout: float | None = 30) -> None:
        self._requests: queue.Queue[Any] = queue.Queue()
        self.rpc = stream(channel, iter(self._requests.get, END), timeout)

    def ask(self, request: Any) -> Any:
        self._requests.put(request)
        return next(self.rpc)

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def end(self) -> None:
        self._requests.put(END)


@pytest.fixture
def channel(live_server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(live_server.address) as connected:
        yield connected


def test_answers_come_in_the_order_of_the_requests(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    told = answers(live_server.address, *(infer(x[place : place + 1], id=str(place)) for place in range(20)))
    assert [answer.infer_response.id for answer in told] == [str(place) for place in range(20)]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in told)
    for place, answer in enumerate(told):
        expected = live.predict("mnist", x[place : place + 1]).scores
        np.testing.assert_array_equal(value_of(answer.infer_response, "scores"), expected)


def test_a_stream_without_requests(live_server: ServerProcess):
    assert answers(live_server.address) == []


def test_a_stream_may_pause_longer_than_a_call_may_take(x: np.ndarray):
    with run_server("--call-timeout", "0.5", "--threads", "1") as server, grpc.insecure_channel(server.address) as channel:
        opened = Open(channel)
        assert opened.ask(infer(x[:1])).error_message == ""
        threading.Event().wait(1)
        assert opened.ask(infer(x[:1])).error_message == ""
        opened.end()


def test_bytes_that_are_no_message_are_an_answer_too(live_server: ServerProcess, x: np.ndarray):
    with grpc.insecure_channel(live_server.address) as channel:
        rpc = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        told = list(map(messages.ModelStreamInferResponse.FromString, rpc(iter([b"\xff\xff", infer(x[:1]).SerializeToString()]))))
    assert "no message of this method" in told[0].error_message
    assert told[1].infer_response.outputs[0].name == "scores"


def test_calls_are_counted_each(live_server: ServerProcess, x: np.ndarray):
    def counted(code: str) -> float:
        return live_server.metric("cutaway_requests_total", method="ModelStreamInfer", model="mnist", code=code)

    before = counted("OK"), counted("INVALID_ARGUMENT")
    answers(live_server.address, infer(x[:1]), infer(x[:1], "nothing"), infer(x[:1], "layer:conv1"))
    assert (counted("OK"), counted("INVALID_ARGUMENT")) == (before[0] + 2, before[1] + 1)


def test_streams_past_the_most_are_refused_and_nothing_else_waits(live_server: ServerProcess, x: np.ndarray):
    channels = [grpc.insecure_channel(live_server.address) for _ in range(2)]
    try:
        opened = [Open(channels[place % 2]) for place in range(MAX_STREAMS)]
        for one in opened:
            assert one.ask(infer(x[:1])).error_message == ""
        with pytest.raises(grpc.RpcError) as caught:
            answers(live_server.address, infer(x[:1]))
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        assert f"{MAX_STREAMS} streams" in caught.value.details()
        assert call(live_server.address, "ModelInfer", infer(x[:1])).outputs[0].name == "scores"
        opened[0].end()
        assert list(opened[0].rpc) == []
        wait_until(lambda: open_again(live_server.address, x))
    finally:
        for connected in channels:
            connected.close()


def open_again(address: str, x: np.ndarray) -> bool:
    try:
        return answers(address, infer(x[:1]))[0].error_message == ""
    except grpc.RpcError:
        return False


class Gate(nn.Module):
    """Waits until it is opened, once it is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        if ARMED.is_set() and not OPEN.is_set():
            HELD.set()
            OPEN.wait(60)
        return x.relu()


ARMED, HELD, OPEN = threading.Event(), threading.Event(), threading.Event()


@contextmanager
def serve_gate(**settings: Any) -> Iterator[Any]:
    for event in (ARMED, HELD, OPEN):
        event.clear()
    quiet = {"log_level": "error", "threads": 1, "drain": 20, **settings}
    with cutaway_server.serve(Gate(), torch.rand(2, 2), name="gate", **quiet) as server:
        ARMED.set()
        yield server
        OPEN.set()


@pytest.fixture
def gate() -> Iterator[Any]:
    with serve_gate() as server:
        yield server


@pytest.fixture
def gate_with_admin() -> Iterator[Any]:
    with serve_gate(admin=True) as server:
        yield server


TWO = np.ones((1, 2), np.float32)


@pytest.mark.parametrize("output", ["scores", "layer:relu"])
def test_one_that_is_cancelled_ends_its_request(output: str, gate: Any):
    with grpc.insecure_channel(gate.address) as channel:
        opened = Open(channel)
        opened.send(infer(TWO, output, model="gate"))
        assert HELD.wait(20)
        opened.rpc.cancel()
        OPEN.set()
        assert call(gate.address, "ModelInfer", infer(TWO, output, model="gate")).outputs[0].name == output


@pytest.mark.parametrize("output", ["scores", "layer:relu"])
def test_a_unary_call_that_is_cancelled_ends_too(output: str, gate: Any):
    with grpc.insecure_channel(gate.address) as channel:
        rpc = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        pending = rpc.future(infer(TWO, output, model="gate").SerializeToString(), timeout=30)
        assert HELD.wait(20)
        pending.cancel()
        OPEN.set()
        assert call(gate.address, "ModelInfer", infer(TWO, output, model="gate")).outputs[0].name == output


@pytest.mark.parametrize("outputs", [["scores"], ["layer:relu", "layer:fc"]])
def test_a_stream_keeps_nothing_of_what_it_answered(outputs: list[str], gate: Any):
    OPEN.set()
    with grpc.insecure_channel(gate.address) as channel, only_what_is_new():
        opened = Open(channel)

        def ask(times: int) -> None:
            for _ in range(times):
                for answer in [opened.ask(infer(TWO, *outputs, model="gate")), *(next(opened.rpc) for _ in outputs[1:])]:
                    assert answer.error_message == ""

        ask(2)
        before = census()
        ask(20)
        assert_nothing_beyond(before)
        assert not any(lanes.live_hooks() for lanes in [one.served.lanes for one in gate.all()])
        opened.end()


def test_everyone_gets_their_own_answer(live: cutaway.Client, x: np.ndarray):
    """Single calls, streams, layers and Predict at the same time, all batched as they come."""
    with run_server("--threads", "1") as server, ThreadPoolExecutor(8) as callers, cutaway.Client(server.address) as client:

        def by_infer(place: int) -> np.ndarray:
            return value_of(call(server.address, "ModelInfer", infer(x[place : place + 1])), "scores")

        def by_stream(place: int) -> np.ndarray:
            return value_of(answers(server.address, infer(x[place : place + 1]))[0].infer_response, "scores")

        def by_look(place: int) -> np.ndarray:
            return value_of(call(server.address, "ModelInfer", infer(x[place : place + 1], "scores", "layer:conv1")), "scores")

        def by_predict(place: int) -> np.ndarray:
            return client.predict("mnist", x[place : place + 1]).scores

        ways = [by_infer, by_stream, by_look, by_predict]
        expected = live.predict("mnist", x).scores
        told = list(callers.map(lambda place: ways[place % len(ways)](place % len(x)), range(240)))
    for place, scores in enumerate(told):
        np.testing.assert_allclose(scores[0], expected[place % len(x)], rtol=1e-4, atol=1e-4)


def test_the_end_of_the_server_waits_for_no_idle_stream(x: np.ndarray):
    with run_server("--drain", "25", "--threads", "1") as server, grpc.insecure_channel(server.address) as channel:
        opened = [Open(channel, timeout=None) for _ in range(3)]
        for one in opened:
            one.ask(infer(x[:1]))
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 20
        for one in opened:
            with pytest.raises(grpc.RpcError):
                next(one.rpc)


def test_the_end_of_the_server_lets_a_request_finish(gate: Any):
    with grpc.insecure_channel(gate.address) as channel:
        opened = Open(channel)
        opened.send(infer(TWO, model="gate"))
        assert HELD.wait(20)
        ending = threading.Thread(target=gate.__exit__, args=(None, None, None))
        ending.start()
        OPEN.set()
        assert next(opened.rpc).infer_response.outputs[0].name == "scores"
        with pytest.raises(grpc.RpcError) as caught:
            next(opened.rpc)
        assert caught.value.code() in (Code.UNAVAILABLE, Code.CANCELLED)
        ending.join(20)
        assert not ending.is_alive()


def test_a_reader_that_stands_still_is_given_up(x: np.ndarray):
    """It reads nothing: what is sent fills what gRPC holds for it, and the watch ends the stream."""
    many = np.concatenate([x] * 4)
    unlimited = [("grpc.max_receive_message_length", -1)]
    with (
        run_server("--stall-timeout", "1", "--threads", "1") as server,
        grpc.insecure_channel(server.address, unlimited) as channel,
    ):
        opened = Open(channel, timeout=60)
        opened.send(infer(many, *(f"layer:{name}" for name in ("conv1", "conv2", "relu", "max_pool2d"))))
        wait_until(lambda: server.metric("cutaway_mirrors_in_use", model="mnist") == 0 and refused_any(server), 30)
        with pytest.raises(grpc.RpcError) as caught:
            list(opened.rpc)
        assert caught.value.code() in (Code.CANCELLED, Code.ABORTED)


def refused_any(server: ServerProcess) -> bool:
    return any(server.metric("cutaway_requests_total", method="ModelStreamInfer", code=code) for code in ("ABORTED", "CANCELLED"))


def test_unloading_lets_the_call_that_runs_finish(gate_with_admin: Any):
    with ThreadPoolExecutor(2) as callers:
        running = callers.submit(call, gate_with_admin.address, "ModelInfer", infer(TWO, model="gate"))
        assert HELD.wait(20)
        request = messages.RepositoryModelUnloadRequest(model_name="gate")
        unloading = callers.submit(call, gate_with_admin.address, "RepositoryModelUnload", request)
        wait_until(lambda: gate_with_admin.all()[0].state is State.PARKED)
        assert not running.done()
        OPEN.set()
        assert running.result(20).outputs[0].name == "scores"
        unloading.result(20)
