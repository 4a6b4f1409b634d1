"""What calls are owed while a batch runs, on every form, plainly and by TLS: each test holds the network where it wants it."""

import itertools
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2
from grpc import _server
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from structlog.testing import capture_logs
from torch import nn

from certificate import Certificate, make_certificate
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare
from cutaway_server.prediction import batcher
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from cutaway_server.rpc.fast_path import QUICK_BYTES
from cutaway_server.rpc.open_inference import messages
from leftovers import assert_nothing_beyond, census, only_what_is_new
from raw_calls import INFER, PREDICT, REQUESTS, infer, scores
from server_process import metric_at, wait_until

FORMS = ("serving thread", "own thread", "ordinary")
JOINED, WAITING = 8, 6  # samples in a batch, and predictions that may wait, at most
SIZE = 64
PLAIN, HOLD, FAIL, EXIT = 0, 7, 8, 9  # how a sample begins
NUMBERS = itertools.count(1)  # of samples: no two calls send the same
TLS_ADDRESS = "localhost:0"
Code = grpc.StatusCode


class Gate:
    """Where batches wait that hold a sample to be held, each until the test lets it go."""

    def __init__(self) -> None:
        self._held: queue.Queue[list[int]] = queue.Queue()
        self._go: dict[int, threading.Event] = {}

    def enter(self, x: torch.Tensor) -> None:
        """A batch is here: waits if one of its samples says so, and has not been let go before."""
        kinds, numbers = x[:, 0, 0, 0].tolist(), [int(number) for number in x[:, 0, 0, 1].tolist()]
        holding = [self._event(number) for kind, number in zip(kinds, numbers, strict=True) if kind == HOLD]
        if not all(event.is_set() for event in holding):
            self._held.put(list(dict.fromkeys(numbers)))
            for event in holding:
                assert event.wait(60)
        if FAIL in kinds:
            raise ValueError("cannot")
        if EXIT in kinds:
            raise SystemExit("will not")

    def held(self) -> list[int]:
        """The numbers of the next batch that waits here."""
        return self._held.get(timeout=30)

    def let_go(self, number: int) -> None:
        """Of all batches that wait for this sample, now or later."""
        self._event(number).set()

    def let_all_go(self) -> None:
        """Whatever a test has left here."""
        for event in list(self._go.values()):
            event.set()
        while not self.is_empty:
            self._held.get()

    @property
    def is_empty(self) -> bool:
        """Whether every batch that waited was asked for."""
        return self._held.empty()

    def _event(self, number: int) -> threading.Event:
        return self._go.setdefault(number, threading.Event())


GATE = Gate()


class Network(nn.Module):
    """Goes through the gate, unless it is the free one."""

    def __init__(self, *, free: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 16, stride=16)
        self.fc = nn.Linear(64, 5)
        self.free = free

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.free:
            GATE.enter(x)
        return self.fc(torch.relu(self.conv(x)).flatten(1))


def sample(number: int, kind: int = PLAIN, count: int = 1) -> np.ndarray:
    """[count, 1, SIZE, SIZE] float32 that nobody else sends; the first says what is to be done with its batch."""
    x = np.random.default_rng(number).standard_normal((count, 1, SIZE, SIZE)).astype(np.float32)
    x[:, 0, 0, 0], x[0, 0, 0, 0], x[:, 0, 0, 1] = PLAIN, kind, number
    return x


@dataclass
class Call:
    """One that is on its way."""

    number: int
    x: np.ndarray
    path: str
    future: Any

    def fails_with(self) -> grpc.StatusCode:
        """Waits."""
        error = self.future.exception(30)
        assert error is not None
        return error.code()

    def is_cancelled(self) -> bool:
        """Waits, and says whether its client gave it up."""
        try:
            self.future.exception(30)
        except grpc.FutureCancelledError:
            return True
        return False

    def answer(self) -> np.ndarray:
        """Waits for the scores."""
        return scores(self.path, self.future.result(30))


@dataclass
class Serving:
    """A server of the models "held" and "free" in one form, and a client's channel to it."""

    form: str
    server: Server
    channel: grpc.Channel
    connect: Callable[[], grpc.Channel]
    networks: dict[str, nn.Module]

    @property
    def queues(self) -> int:
        """Samples of a call that waits for the model's own thread. What runs on the serving thread is at most a batch."""
        return JOINED + 1 if self.form == "serving thread" else 1

    def call(self, path: str, kind: int = PLAIN, count: int = 1, *, model: str = "held", timeout: float = 60) -> Call:
        """Sends one."""
        number = next(NUMBERS)
        return self.send(path, sample(number, kind, count), number, model=model, timeout=timeout)

    def send(self, path: str, x: np.ndarray, number: int = 0, *, model: str = "held", timeout: float = 60) -> Call:
        """Sends what may be anything."""
        return Call(number, x, path, self.channel.unary_unary(path).future(REQUESTS[path](x, model), timeout=timeout))

    def expected(self, call: Call) -> np.ndarray:
        """What the network itself gives."""
        with torch.inference_mode():
            GATE.let_go(call.number)
            return self.networks["held"](torch.from_numpy(call.x)).numpy()

    def check(self, *calls: Call) -> None:
        """Waits for their answers, which are right."""
        for call in calls:
            np.testing.assert_allclose(call.answer(), self.expected(call), rtol=1e-4, atol=1e-5)

    def hold(self, path: str, count: int = 1) -> Call:
        """A call whose batch waits in the network now, alone."""
        call = self.call(path, HOLD, count)
        assert GATE.held() == [call.number]
        return call

    def waiting(self, path: str, calls: int, kind: int = PLAIN) -> list[Call]:
        """Calls that wait for the model's own thread now, in the order of their numbers."""
        sent = []
        for _ in range(calls):
            had = self.queue()
            sent.append(self.call(path, kind, self.queues))
            wait_until(lambda had=had: self.queue() == had + 1)
        return sent

    def joined(self, send: Callable[[], Sequence[Call]], joining: Sequence[int]) -> list[Call]:
        """Calls of which those that stand at these places are in one batch, which waits in the network now. Another is let go.

        All arrive while another batch runs. Where nothing tells that they have, they are sent again until they came together.
        """
        for _ in range(100):
            first = self.hold(PREDICT)
            calls = list(send())
            if self.form != "serving thread":
                wait_until(lambda: self.queue() == len(joining))
            GATE.let_go(first.number)
            self.check(first)
            together = GATE.held()
            if together == [calls[place].number for place in joining]:
                return calls
            for call in calls:
                GATE.let_go(call.number)
            for call in calls:
                call.future.exception(30)
            while not GATE.is_empty:
                GATE.held()
        raise AssertionError("calls that wait at the same time are not joined")

    def settle(self) -> None:
        """What is measured when a model is loaded, as it is to be here."""
        for one in self.server.all():
            assert one.served is not None
            one.served.batcher.settle(JOINED, 0.0)
            assert one.served.batcher.runs_at_once == (self.form == "serving thread")

    def unload(self) -> None:
        """Takes "held" out of memory, once nobody uses it or the time to drain is over."""
        request = messages.RepositoryModelUnloadRequest(model_name="held").SerializeToString()
        self.channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")(request, timeout=20)

    def queue(self) -> float:
        """How many predictions wait."""
        return metric_at(self.server.metrics_address, "cutaway_predictions_waiting", model="held")

    def counted(self, **labels: str) -> float:
        """Calls that have ended."""
        return metric_at(self.server.metrics_address, "cutaway_requests_total", model="held", **labels)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def two() -> list[Model]:
    spec = (InputSpec("x", torch.float32, (-1, 1, SIZE, SIZE)),)
    return [prepare(Network(free=name == "free"), name=name, inputs=spec) for name in ("held", "free")]


@pytest.fixture(autouse=True)
def nothing_is_held() -> Iterator[None]:
    yield
    GATE.let_all_go()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


def secured(certificate: Certificate) -> Callable[[Any, str], int]:
    """Stands in for `add_insecure_port`: the server has no setting for TLS, and its fast path must not mind it."""
    plain = _server._Server.add_insecure_port

    def add_port(server: Any, address: str) -> int:
        return server.add_secure_port(address, certificate.server) if address == TLS_ADDRESS else plain(server, address)

    return add_port


@contextmanager
def serve(two: list[Model], form: str, certificate: Certificate | None, **settings: object) -> Iterator[Serving]:
    """Both models in one form; with a certificate by TLS."""
    given = {
        "listen": TLS_ADDRESS if certificate else "127.0.0.1:0",
        "metrics": "127.0.0.1:0",
        "fast_path": "off" if form == "ordinary" else "auto",
        "max_batch": JOINED,
        "max_waiting": WAITING,
        "threads": 1,
        "lanes": 1,
        "admin": True,
        "drain": 60,  # longer than any call here waits
        "log_level": "error",
        **settings,
    }
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(batcher, "_END_SECONDS", 0.2)
        # On the serving thread a network of ours, which can be held, stands in for an engine that runs no Python.
        patch.setattr(Eager, "runs_python", form != "serving thread")
        if certificate:
            patch.setattr(_server._Server, "add_insecure_port", secured(certificate))
        stack.enter_context(capture_logs())
        server = stack.enter_context(Server(two, load_settings(given)))
        assert metric_at(server.metrics_address, "cutaway_fast_path") == (form != "ordinary")

        def connect() -> grpc.Channel:
            options = [("grpc.use_local_subchannel_pool", 1)]
            if certificate:
                return grpc.secure_channel(server.address, certificate.trusted, options)
            return grpc.insecure_channel(server.address, options)

        running = Serving(form, server, stack.enter_context(connect()), connect, {model.name: model.network for model in two})
        running.settle()
        yield running


@pytest.fixture(scope="module", params=itertools.product(FORMS, ("plain", "TLS")), ids=", ".join)
def serving(request: pytest.FixtureRequest, two: list[Model], certificate: Certificate) -> Iterator[Serving]:
    form, transport = request.param
    with serve(two, form, certificate if transport == "TLS" else None) as running:
        yield running


# Who gives up


@pytest.mark.parametrize("path", REQUESTS)
def test_of_four_calls_in_one_batch_the_second_is_cancelled_while_it_runs(serving: Serving, path: str) -> None:
    four = serving.joined(lambda: [serving.call(path, HOLD) for _ in range(4)], range(4))
    before, cancelled = serving.counted(), serving.counted(code="CANCELLED")
    four[1].future.cancel()
    if serving.form != "serving thread":  # which is told of it later
        wait_until(lambda: serving.counted(code="CANCELLED") == cancelled + 1)
    for call in four:
        GATE.let_go(call.number)
    serving.check(*(four[place] for place in (0, 2, 3)))
    assert four[1].is_cancelled()
    serving.check(serving.call(path))
    wait_until(lambda: serving.counted() == before + 5)  # each once
    assert GATE.is_empty


@pytest.mark.parametrize("path", REQUESTS)
def test_of_four_calls_in_one_batch_the_seconds_deadline_passes_while_it_runs(serving: Serving, path: str) -> None:
    four = serving.joined(lambda: [serving.call(path, HOLD, timeout=0.4 if place == 1 else 60) for place in range(4)], range(4))
    before = serving.counted()
    assert four[1].fails_with() is Code.DEADLINE_EXCEEDED
    for call in four:
        GATE.let_go(call.number)
    serving.check(*(four[place] for place in (0, 2, 3)))
    serving.check(serving.call(path))
    wait_until(lambda: serving.counted() >= before + 4)
    assert GATE.is_empty


@pytest.mark.parametrize("path", REQUESTS)
def test_what_gave_up_while_it_waited_never_reaches_the_network(serving: Serving, path: str) -> None:
    running = serving.hold(path, serving.queues)
    cancelled, good = serving.waiting(path, 2, HOLD)

    def ended() -> tuple[float, float]:
        return serving.counted(code="CANCELLED"), serving.counted(code="DEADLINE_EXCEEDED")

    before = ended()
    late = serving.call(path, HOLD, serving.queues, timeout=1)
    cancelled.future.cancel()
    assert late.fails_with() is Code.DEADLINE_EXCEEDED
    wait_until(lambda: ended() == (before[0] + 1, before[1] + 1))
    GATE.let_go(running.number)
    assert GATE.held() == [good.number]
    GATE.let_go(good.number)
    serving.check(running, good)
    assert GATE.is_empty


def test_calls_that_gave_up_leave_nothing(serving: Serving) -> None:
    def some_give_up() -> None:
        for path in REQUESTS:
            for count in {1, serving.queues}:
                running = serving.hold(path, count)
                calls = [serving.call(path, count=serving.queues) for _ in range(4)]
                for call in calls[::2]:
                    call.future.cancel()
                GATE.let_go(running.number)
                serving.check(running, *calls[1::2])

    with only_what_is_new():
        some_give_up()
        before = census()
        for _ in range(3):
            some_give_up()
        assert_nothing_beyond(before)
    serving.unload()  # at once: nobody uses it any more
    serving.check(serving.call(PREDICT))
    serving.settle()


# What is wrong with one


@pytest.mark.parametrize("path", REQUESTS)
def test_what_is_wrong_never_joins(serving: Serving, path: str) -> None:
    nan, narrow = np.full((1, 1, SIZE, SIZE), np.nan, np.float32), np.zeros((1, 1, SIZE, 3), np.float32)

    def send() -> list[Call]:
        return [serving.call(path, HOLD), serving.send(path, nan), serving.send(path, narrow), serving.call(path)]

    good, *wrong, other = serving.joined(send, (0, 3))
    GATE.let_go(good.number)
    serving.check(good, other)
    assert [call.fails_with() for call in wrong] == [Code.INVALID_ARGUMENT] * 2


@pytest.mark.parametrize("kind", [FAIL, EXIT])
@pytest.mark.parametrize("path", REQUESTS)
def test_what_the_network_fails_on_costs_the_others_not_a_bit(serving: Serving, path: str, kind: int) -> None:
    """They run alone then."""
    calls = serving.joined(lambda: [serving.call(path, one) for one in (HOLD, kind, PLAIN)], range(3))
    GATE.let_go(calls[0].number)
    assert calls[1].fails_with() is Code.INTERNAL
    for call in (calls[0], calls[2]):
        np.testing.assert_array_equal(call.answer(), serving.expected(call))


# What is large


def test_large_and_small_ones_together(serving: Serving) -> None:
    """Also those that other threads read: each has its own answer, whole, in its order, and under its name."""
    large = QUICK_BYTES // (4 * SIZE * SIZE) + 1
    counts = [(large if turn % 8 == 0 else turn % 11 + 1) for turn in range(48)]

    def ask(turn: int) -> None:
        path = PREDICT if turn % 3 else INFER
        number = next(NUMBERS)
        x = sample(number, count=counts[turn])
        request = infer(x, "free", identity=str(number)) if path == INFER else REQUESTS[path](x, "free")
        answer = serving.channel.unary_unary(path)(request, timeout=60)
        with torch.inference_mode():
            expected = torch.cat([serving.networks["free"](torch.from_numpy(part)) for part in np.array_split(x, len(x))]).numpy()
        np.testing.assert_allclose(scores(path, answer), expected, rtol=1e-4, atol=1e-5)
        if path == INFER:
            assert messages.ModelInferResponse.FromString(answer).id == str(number)

    with ThreadPoolExecutor(WAITING) as callers:
        for done in [callers.submit(ask, turn) for turn in range(len(counts))]:
            done.result(60)


# The queue


@pytest.mark.parametrize("path", REQUESTS)
def test_a_full_queue_refuses_and_who_gives_up_makes_room(serving: Serving, path: str) -> None:
    running = serving.hold(path, serving.queues)
    waiting = serving.waiting(path, WAITING)
    refused = serving.call(path, count=serving.queues).future.exception(30)
    assert refused.code() is Code.RESOURCE_EXHAUSTED
    assert f"{WAITING} predictions wait already, which is the limit; try again in" in refused.details()
    info = error_details_pb2.RetryInfo()
    assert rpc_status.from_call(refused).details[0].Unpack(info)
    assert info.retry_delay.ToNanoseconds() > 0
    cancelled = serving.counted(code="CANCELLED")
    for call in waiting[1:3]:
        call.future.cancel()
    wait_until(lambda: serving.counted(code="CANCELLED") == cancelled + 2)
    room = [serving.call(path, count=serving.queues)]
    wait_until(lambda: serving.queue() == WAITING - 1)  # the two are out, and one is in
    room += serving.waiting(path, 1)
    assert serving.call(path, count=serving.queues).fails_with() is Code.RESOURCE_EXHAUSTED
    GATE.let_go(running.number)
    serving.check(running, waiting[0], *waiting[3:], *room)


def test_what_comes_at_once_to_the_serving_thread_is_bounded_too(two: list[Model]) -> None:
    with serve(two, "serving thread", None, max_waiting=2) as serving:
        for _ in range(100):
            running = serving.hold(PREDICT)
            calls = [serving.call(PREDICT) for _ in range(60)]
            GATE.let_go(running.number)
            refused = [error for error in (call.future.exception(30) for call in calls) if error]
            if refused:
                break
        assert {error.code() for error in refused} == {Code.RESOURCE_EXHAUSTED}
        assert "2 predictions wait already" in refused[0].details()
        assert rpc_status.from_call(refused[0]).details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        serving.check(*(call for call in calls if call.future.exception() is None), serving.call(PREDICT))


def test_of_very_many_at_once_each_is_answered_or_told_to_wait(serving: Serving) -> None:
    running = serving.hold(PREDICT)
    many = [serving.call(PREDICT) for _ in range(1500)]
    GATE.let_go(running.number)
    ended = Counter(call.future.code() for call in many)
    assert set(ended) == {Code.OK, Code.RESOURCE_EXHAUSTED}, ended
    serving.check(running, *(call for call in many[:50] if call.future.code() is Code.OK))


# Others, the end of a model, and the end of the server


@pytest.mark.parametrize("path", REQUESTS)
def test_beside_a_network_that_hangs_and_whose_queue_is_full(serving: Serving, path: str) -> None:
    running = serving.hold(path, serving.queues)
    waiting = serving.waiting(path, WAITING)
    with serving.connect() as other:
        health = health_pb2_grpc.HealthStub(other)
        for name in ("", "cutaway.v1.InferenceService", "inference.GRPCInferenceService"):
            assert (
                health.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status
                == health_pb2.HealthCheckResponse.SERVING
            )
    free = serving.call(path, model="free")
    assert free.answer().shape == (1, 5)
    assert serving.call(path, model="none").fails_with() is Code.NOT_FOUND
    assert not running.future.done()
    GATE.let_go(running.number)
    serving.check(running, *waiting)


def test_what_is_unloaded_while_it_hangs(two: list[Model], form: str) -> None:
    """What waits is refused when the time to drain is over, what runs is answered when it is done, and the next call loads it."""
    with serve(two, form, None, drain=0.2) as serving:
        running = serving.hold(PREDICT, serving.queues)
        waiting = [call for path in REQUESTS for call in serving.waiting(path, 2)]
        serving.unload()
        assert [call.fails_with() for call in waiting] == [Code.UNAVAILABLE] * 4
        assert not running.future.done()
        serving.check(*(serving.call(path) for path in REQUESTS))
        GATE.let_go(running.number)
        serving.check(running)


def draining(serving: Serving, stack: ExitStack) -> threading.Thread:
    """The server ends; returns when new calls are refused, as health said before."""
    watch = health_pb2_grpc.HealthStub(stack.enter_context(serving.connect())).Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    ending = threading.Thread(target=serving.server.__exit__, args=(None, None, None))
    ending.start()
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert list(watch) == []
    return ending


def test_a_drain_answers_what_runs_and_what_waits(two: list[Model], certificate: Certificate, form: str) -> None:
    with serve(two, form, certificate) as serving, ExitStack() as stack:
        running = serving.hold(PREDICT, serving.queues)
        waiting = [call for path in REQUESTS for call in serving.waiting(path, 2)]
        ending = draining(serving, stack)
        assert [serving.call(path).fails_with() for path in REQUESTS] == [Code.UNAVAILABLE] * 2
        assert not any(call.future.done() for call in (running, *waiting))
        GATE.let_go(running.number)
        serving.check(running, *waiting)
        ending.join(20)  # long before its time is over
        assert not ending.is_alive()


def test_a_drain_ends_what_hangs_when_its_time_is_over(two: list[Model], form: str) -> None:
    with serve(two, form, None, drain=0.2) as serving, ExitStack() as stack:
        running = serving.hold(PREDICT, serving.queues)
        waiting = [call for path in REQUESTS for call in serving.waiting(path, 2)]
        ending = draining(serving, stack)
        assert {call.fails_with() for call in (running, *waiting)} <= {Code.UNAVAILABLE, Code.CANCELLED}
        ending.join(20)
        assert not ending.is_alive()
        GATE.let_go(running.number)
