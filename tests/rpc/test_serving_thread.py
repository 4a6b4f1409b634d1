"""Nothing that goes wrong on the serving thread makes the server deaf; where grpcio is another, the ordinary form serves."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import _server

import cutaway
from certificate import make_certificate
from cutaway_server.models.model import Model
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from cutaway_server.rpc import serving_thread
from cutaway_server.rpc.serving_thread import RawCall, ServingThread
from server_process import metric_at

QUIET = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "threads": 1, "lanes": 1, "log_level": "error"}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@contextmanager
def serving(
    received: Callable[[RawCall], None],
    between: Callable[[], None] = lambda: None,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[tuple[str, ServingThread, grpc.Server]]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        thread = ServingThread(server, ["/t/Ask"], received=received, between=between, most=8)
        other = grpc.unary_unary_rpc_method_handler(lambda data, context: data)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("o", {"Other": other}),))
        port = server.add_secure_port("localhost:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"{'localhost' if credentials else '127.0.0.1'}:{port}", thread, server
        finally:
            server.stop(1).wait(3)
            thread.given_up = True  # a call that a fault made it lose keeps it from stopping


def reply(call: RawCall) -> None:
    call.reply(call.data, ())


class Faults:
    """Raises at every third call of what it wraps."""

    def __init__(self, inner: Callable[..., object]) -> None:
        self.inner = inner
        self.count = 0
        self.raised = 0

    def __call__(self, *arguments: object) -> object:
        self.count += 1
        if self.count % 3 == 0:
            self.raised += 1
            raise RuntimeError("injected")
        return self.inner(*arguments)


def still_hears(address: str) -> None:
    """Within three calls, for every third one fails."""
    with grpc.insecure_channel(address) as channel:
        assert channel.unary_unary("/o/Other")(b"x", timeout=10) == b"x"
        answers = []
        for _ in range(3):
            try:
                answers.append(channel.unary_unary("/t/Ask")(b"y", timeout=2))
            except grpc.RpcError:
                answers.append(None)
        assert b"y" in answers


def flood(address: str, count: int = 60) -> int:
    """How many are answered."""
    with grpc.insecure_channel(address) as channel:
        calls = [channel.unary_unary("/t/Ask").future(b"%d" % number, timeout=2) for number in range(count)]
        return sum(call.exception(20) is None for call in calls)


def test_what_takes_calls_may_raise() -> None:
    faulty = Faults(reply)
    with serving(faulty) as (address, _, _):
        assert flood(address) > 0
        assert faulty.raised
        still_hears(address)


def test_what_runs_between_may_raise() -> None:
    waiting: list[RawCall] = []

    def run() -> None:
        while waiting:
            reply(waiting.pop())

    faulty = Faults(run)
    with serving(waiting.append, faulty) as (address, _, _):
        assert flood(address) == 60  # what was not answered is answered the next time
        assert faulty.raised
        still_hears(address)


@pytest.mark.parametrize("name", ["__init__", "_done", "_start", "reply"])
def test_any_step_of_a_call_may_raise(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    original = getattr(RawCall, name)
    faulty = Faults(original)
    monkeypatch.setattr(RawCall, name, lambda self, *arguments: faulty(self, *arguments))
    with serving(reply) as (address, _, _):
        assert flood(address) > 0
        assert faulty.raised
        monkeypatch.setattr(RawCall, name, original)
        still_hears(address)


@pytest.mark.parametrize("name", ["_process_event_and_continue"])
def test_grpcios_own_steps_may_raise(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with serving(reply) as (address, _, _):
        original = getattr(_server, name)
        state = {"left": 2}

        def raises(*arguments: object) -> object:
            handled = original(*arguments)
            if state["left"]:
                state["left"] -= 1
                raise RuntimeError("injected")
            return handled

        monkeypatch.setattr(_server, name, raises)
        flood(address, 10)
        assert not state["left"]
        still_hears(address)


def test_a_pool_that_takes_no_more_makes_no_other_method_deaf() -> None:
    """grpcio asks for the next call only after it has handed one to the pool."""
    with serving(reply) as (address, _, server), grpc.insecure_channel(address) as channel:
        pool = server._state.thread_pool
        faulty = Faults(pool.submit)
        faulty.count = 2
        server._state.thread_pool = type("Pool", (), {"submit": faulty, "_max_workers": 2})()
        other = channel.unary_unary("/o/Other")
        with pytest.raises(grpc.RpcError):
            other(b"lost", timeout=1)
        assert faulty.raised
        server._state.thread_pool = pool
        assert other(b"x", timeout=10) == b"x"


def test_a_method_that_could_not_be_asked_for_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(reply) as (address, thread, _), grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/t/Ask")
        assert ask(b"x", timeout=10) == b"x"
        (asking,) = thread._asking.values()
        faulty = Faults(type(asking).ask)
        faulty.count = 2
        monkeypatch.setattr(type(asking), "ask", lambda self: faulty(self))
        with pytest.raises(grpc.RpcError):
            ask(b"lost", timeout=1)
        assert faulty.raised
        assert ask(b"y", timeout=10) == b"y"


def test_answers_may_come_from_any_thread_and_calls_leave_nothing() -> None:
    with ThreadPoolExecutor(8) as others, serving(lambda call: others.submit(reply, call)) as (address, thread, _):
        assert flood(address, 200) == 200
        ended = threading.Event()
        for _ in range(500):
            if not thread.open_calls:
                ended.set()
                break
            ended.wait(0.01)
        assert ended.is_set()


def test_who_gives_up_is_noticed_where_that_is_asked_for() -> None:
    gone, came = threading.Event(), threading.Event()
    kept: list[RawCall] = []

    def take(call: RawCall) -> None:
        call.watch(gone.set)
        kept.append(call)
        came.set()

    with serving(take) as (address, _, _), grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/t/Ask").future(b"x")
        assert came.wait(20)
        call.cancel()
        assert gone.wait(20)
        reply(kept.pop())  # nobody reads it, and it does no harm
        came.clear()
        answered = channel.unary_unary("/t/Ask").future(b"y", timeout=20)
        assert came.wait(20)
        reply(kept.pop())
        assert answered.result(20) == b"y"


def test_a_stop_waits_for_open_calls_and_ends_them_after_its_grace() -> None:
    kept: list[RawCall] = []
    came = threading.Event()

    def take(call: RawCall) -> None:
        call.watch(lambda: call.refuse(grpc.StatusCode.CANCELLED, "", ()))
        kept.append(call)
        came.set()

    with serving(take) as (address, _, server), grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/t/Ask").future(b"x")
        assert came.wait(20)
        assert server.stop(0.2).wait(20)
        assert call.exception(20) is not None


def test_tls(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with (
        serving(reply, credentials=certificate.server) as (address, _, _),
        grpc.secure_channel(address, certificate.trusted) as channel,
    ):
        calls = [channel.unary_unary("/t/Ask").future(b"%d" % number, timeout=20) for number in range(50)]
        assert [call.result(20) for call in calls] == [b"%d" % number for number in range(50)]


def test_the_check_passes_here() -> None:
    assert serving_thread.check() == ""


class Without:
    """grpcio's module, but for one name."""

    def __init__(self, module: object, name: str) -> None:
        self._module, self._name = module, name

    def __getattr__(self, name: str) -> object:
        if name == self._name:
            raise AttributeError(f"no {name}")
        return getattr(self._module, name)


@pytest.mark.parametrize("name", ["_serve", "_ServerStage", "SendStatusFromServerOperation", "CompletionType"])
def test_another_grpcio_is_served_by_ordinary_handlers(
    monkeypatch: pytest.MonkeyPatch, name: str, models: dict[str, Model], x: np.ndarray
) -> None:
    names = serving_thread._names
    monkeypatch.setattr(serving_thread, "_names", lambda: tuple(Without(module, name) for module in names()))
    monkeypatch.setattr(serving_thread, "_TRY_SECONDS", 0.5)
    assert serving_thread.check()
    with Server([models["mnist"]], load_settings(QUIET)) as server, cutaway.Client(server.address, timeout=20) as client:
        assert metric_at(server.metrics_address, "cutaway_fast_path") == 0
        assert client.predict("mnist", x[:2]).scores.shape == (2, 10)


def test_two_servers_in_one_process(models: dict[str, Model], x: np.ndarray) -> None:
    """One in each form, beside each other: grpcio's own loop goes on for whoever wants it."""
    with (
        Server([models["mnist"]], load_settings(QUIET)) as fast,
        Server([models["mnist"]], load_settings({**QUIET, "fast_path": "off"})) as ordinary,
        cutaway.Client(fast.address, timeout=20) as one,
        cutaway.Client(ordinary.address, timeout=20) as other,
    ):
        for _ in range(3):
            np.testing.assert_allclose(one.predict("mnist", x[:3]).scores, other.predict("mnist", x[:3]).scores, atol=1e-5)
        assert [metric_at(server.metrics_address, "cutaway_fast_path") for server in (fast, ordinary)] == [1, 0]
