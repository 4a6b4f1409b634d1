"""However calls end, nothing of them stays: no hook, no tensor, no thread, no object. A server in this process, many clients."""

import dataclasses
import gc
import itertools
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor, nn

import cutaway
import cutaway_server
from cutaway import Cam, Capture
from cutaway_server.errors import ReaderStalled
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.lanes import Lanes
from cutaway_server.models.mirror import Mirror
from cutaway_server.process.life import Server
from leftovers import assert_nothing_beyond, census, hooks_of, only_what_is_new
from server_process import wait_until
from stopping_reader import reader_that_stops

LANES = 2
WIDE = 512  # samples: one capture of conv1, 16 MiB, is far more than a call's buffer and what gRPC takes on the way
FLAGS = {"threads": 1, "lanes": LANES, "max_batch": 1, "stream_buffer_mib": 1, "stall_timeout": 1.5, "drain": 0.1}
STOPPED = cutaway.Cancelled, cutaway.Unavailable  # what a client is told when the server stops


class Scene:
    """What one call meets inside the network, by the number that its input begins with."""

    def __init__(self, place: str, *, holds: bool, raises: bool) -> None:
        self.place = place
        self.raises = raises
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        if not holds:
            self.may_go_on.set()


SCENES: dict[int, Scene] = {}
PLACES = {"early": "max_pool2d", "middle": "relu_1", "late": "fc"}  # the layer before


def meet(mark: int, place: str) -> None:
    scene = SCENES.get(mark)
    if scene and scene.place == place:
        scene.entered.set()
        if scene.raises:
            raise RuntimeError("the network's own")
        assert scene.may_go_on.wait(60)


def halve(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0] / 2,)


class Staged(nn.Module):
    """Modules, functions, a module called twice, an operation in place, and a hook of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)
        self.fc.register_forward_pre_hook(halve)

    def forward(self, x: Tensor) -> Tensor:
        mark = round(x[0, 0, 0, 0].item())
        x = F.max_pool2d(self.relu(self.conv1(x)), 2)
        meet(mark, "early")
        x = F.relu(self.conv2(x))
        meet(mark, "middle")
        x = torch.tanh(self.conv2(x)) + x
        x = self.fc(self.pool(x).flatten(1))
        meet(mark, "late")
        return x


LAYERS = ["getitem", "conv1", "relu", "max_pool2d", "conv2", "relu_1", "conv2_1", "tanh", "add", "pool", "flatten", "fc"]
PLANES = LAYERS[1:10]  # they put out [N, C, H, W] and are given it


class Ending(Enum):
    DONE = "done"
    RAISED = "the network raises"
    CANCELLED_WAITING = "cancelled while it waits for a lane"
    CANCELLED_IN_FORWARD = "cancelled while the network runs"
    CANCELLED_AFTER_FORWARD = "cancelled after the network ran"
    EXPIRED_WAITING = "its deadline passes while it waits for a lane"
    EXPIRED_IN_FORWARD = "its deadline passes while the network runs"
    EXPIRED_READING = "its deadline passes while its reader stands still"
    STALLED = "its reader stands still for too long"
    KILLED = "its client is killed"
    SHUTDOWN_WAITING = "the server stops while it waits for a lane"
    SHUTDOWN_IN_FORWARD = "the server stops while the network runs"
    SHUTDOWN_READING = "the server stops while its reader stands still"


IN_FORWARD = Ending.CANCELLED_IN_FORWARD, Ending.EXPIRED_IN_FORWARD
WAITING = Ending.CANCELLED_WAITING, Ending.EXPIRED_WAITING
STANDING_STILL = Ending.EXPIRED_READING, Ending.STALLED
OTHERS = Ending.RAISED, Ending.CANCELLED_AFTER_FORWARD, Ending.KILLED
AT_SHUTDOWN = Ending.SHUTDOWN_IN_FORWARD, Ending.SHUTDOWN_READING, Ending.SHUTDOWN_WAITING


@dataclass(frozen=True)
class Part:
    """One call: how it is to end, and what it looks at."""

    ending: Ending
    look: dict[str, Any]
    batch: int = 2
    place: str = "middle"

    def look_with(self, **more: Sequence[Any]) -> dict[str, Any]:
        """What it looks at and these, to the end of the forward pass."""
        joined = {keyword: [*self.look.get(keyword, ()), *added] for keyword, added in more.items()}
        return {**self.look, "without_prediction": False, **joined}


class Stage:
    """A server in this process, and the ends that calls to it may come to.

    Attributes:
        ended: how many calls ended how.
    """

    def __init__(self, server: Server, callers: ThreadPoolExecutor) -> None:
        self.ended: Counter[Ending] = Counter()
        self._address, self._metrics_address = server.address, server.metrics_address
        self._callers = callers
        self._marks = itertools.count(1000)
        self._waited: list[Scene] = []
        self._lanes_freed = threading.Event()
        (self._lanes,) = (thing for thing in gc.get_objects() if type(thing) is Lanes)

    def metric(self, sample: str, **labels: str) -> float:
        with urllib.request.urlopen(f"http://{self._metrics_address}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found = (found for family in families for found in family.samples if found.name == sample)
        return sum(one.value for one in found if labels.items() <= one.labels.items())

    def idle(self) -> bool:
        return self.metric("cutaway_live_hooks") == 0 and self.metric("cutaway_mirrors_in_use") == 0

    def predict(self) -> Any:
        with cutaway.Client(self._address) as client:
            return plain(client.predict("staged", picture(0, 1)).scores)

    def rehearse(self, part: Part) -> Callable[[], None]:
        """Runs a call now, in quiet. What is returned runs it again and asserts that it brings the same."""
        x = picture(next(self._marks), part.batch)
        with cutaway.Client(self._address) as client:
            quiet = plain(client.introspect("staged", x, **part.look))

        def again() -> None:
            with cutaway.Client(self._address) as client:
                assert plain(client.introspect("staged", x, **part.look)) == quiet
            self.ended[Ending.DONE] += 1

        return again

    def run(self, parts: Sequence[Part], rehearsed: Sequence[Callable[[], None]] = ()) -> None:
        """Has all these calls come to their ends, each in a thread and with a client of its own."""
        finish([*map(self._begin, parts), *map(self._callers.submit, rehearsed)])

    @contextmanager
    def all_lanes_taken(self, parts: Sequence[Part]) -> Iterator[None]:
        """These calls, or others where there are fewer than lanes, stand in the network until the block ends; then they end."""
        calls = [self._begin(part) for part in parts]
        calls += [self._callers.submit(self._held_up) for _ in range(LANES - len(parts))]
        try:
            wait_until(lambda: sum(scene.entered.is_set() for scene in list(SCENES.values())) == LANES)
            yield
        finally:
            self._lanes_freed.set()
        finish(calls)

    def run_into_shutdown(self, parts: Sequence[Part]) -> list[Future[None]]:
        """Calls of each sort that the server is to be stopped under: all lanes taken, and one that waits."""
        chosen = {ending: Part(ending, {}) for ending in AT_SHUTDOWN} | {part.ending: part for part in parts}
        calls = []
        for ending in AT_SHUTDOWN:
            calls.append(self._begin(chosen[ending]))
            wait_until(lambda: len(self._lanes._running) + len(self._lanes._waiting) == len(calls))
        assert len(self._lanes._waiting) == 1
        return calls

    def assert_accounts(self) -> None:
        """What ended while it waited has never run; and the server counted as many ends as there were."""
        assert not any(scene.entered.is_set() for scene in self._waited)
        raised = self.ended[Ending.RAISED]
        assert self.metric("cutaway_mirrors_dropped_total", reason="raised") == raised
        assert self.metric("cutaway_mirrors_dropped_total", reason="hooks") == 0
        wait_until(lambda: self.metric("cutaway_requests_total", method="Introspect", code="INTERNAL") == raised)

    def _begin(self, part: Part) -> Future[None]:
        ends: dict[Ending, Callable[[Part], None]] = {
            Ending.RAISED: self._raised,
            Ending.CANCELLED_WAITING: self._cancelled_waiting,
            Ending.CANCELLED_IN_FORWARD: self._cancelled_in_forward,
            Ending.CANCELLED_AFTER_FORWARD: self._cancelled_after_forward,
            Ending.EXPIRED_WAITING: self._expired_waiting,
            Ending.EXPIRED_IN_FORWARD: self._expired_in_forward,
            Ending.EXPIRED_READING: self._expired_reading,
            Ending.STALLED: self._stalled,
            Ending.KILLED: self._killed,
            Ending.SHUTDOWN_WAITING: self._shutdown_waiting,
            Ending.SHUTDOWN_IN_FORWARD: self._shutdown_in_forward,
            Ending.SHUTDOWN_READING: self._shutdown_reading,
        }

        def run() -> None:
            ends[part.ending](part)
            self.ended[part.ending] += 1

        return self._callers.submit(run)

    def _held_up(self) -> None:
        mark, scene = self._scene(Part(Ending.DONE, {}), holds=True)
        with self._stream(picture(mark, 1), {"layers": ["*"]}) as events:
            assert self._lanes_freed.wait(30)
            scene.may_go_on.set()
            read_all(events)

    def _raised(self, part: Part) -> None:
        mark, _ = self._scene(part, raises=True)
        with self._stream(picture(mark, part.batch), part.look_with()) as events, pytest.raises(cutaway.Internal):
            read_all(events)

    def _cancelled_waiting(self, part: Part) -> None:
        mark, scene = self._scene(part)
        with self._stream(picture(mark, part.batch), part.look_with()):
            call = self._found(mark)
        wait_until(lambda: call.stopped is not None)
        self._waited.append(scene)

    def _expired_waiting(self, part: Part) -> None:
        mark, scene = self._scene(part)
        with self._stream(picture(mark, part.batch), part.look_with(), timeout=0.5) as events:
            call = self._found(mark)
            with pytest.raises(cutaway.DeadlineExceeded):
                next(events)
        wait_until(lambda: call.stopped is not None)
        self._waited.append(scene)

    def _shutdown_waiting(self, part: Part) -> None:
        mark, scene = self._scene(part)
        with self._stream(picture(mark, part.batch), part.look_with()) as events, pytest.raises(STOPPED):
            next(events)
        self._waited.append(scene)

    @contextmanager
    def _in_forward(self, part: Part, timeout: float = 30) -> Iterator[Iterator[cutaway.Event]]:
        """A call that stands in the network until it has come to its end in the block; then its network stops where it stood."""
        mark, scene = self._scene(part, holds=True)
        try:
            with self._stream(picture(mark, part.batch), part.look_with(), timeout=timeout) as events:
                assert isinstance(next(events), cutaway.Started)
                wait_until(scene.entered.is_set)
                call = self._found(mark)
                yield events
            wait_until(lambda: call.stopped is not None)
            assert self._lanes_freed.wait(30)
        finally:
            scene.may_go_on.set()
        wait_until(lambda: self._call(mark) is None)
        assert call.last_layer in ["", *LAYERS[: LAYERS.index(PLACES[part.place]) + 1]]

    def _cancelled_in_forward(self, part: Part) -> None:
        with self._in_forward(part):
            pass

    def _expired_in_forward(self, part: Part) -> None:
        with self._in_forward(part, timeout=1) as events, pytest.raises(cutaway.DeadlineExceeded):
            read_all(events)

    def _shutdown_in_forward(self, part: Part) -> None:
        with self._in_forward(part) as events, pytest.raises(STOPPED):
            read_all(events)

    @contextmanager
    def _standing_still(self, part: Part, timeout: float = 30) -> Iterator[tuple[Iterator[cutaway.Event], Call]]:
        """A call with more captures than fit on their way, of which only the beginning is read."""
        mark = next(self._marks)
        with self._stream(picture(mark, WIDE), part.look_with(layers=["*"]), timeout=timeout) as events:
            assert isinstance(next(events), cutaway.Started)
            yield events, self._found(mark)

    def _expired_reading(self, part: Part) -> None:
        with self._standing_still(part, timeout=1) as (events, call):
            wait_until(lambda: call.stopped is not None)
            with pytest.raises(cutaway.DeadlineExceeded):
                read_all(events)

    def _stalled(self, part: Part) -> None:
        with self._standing_still(part) as (events, call):
            wait_until(lambda: isinstance(call.stopped, ReaderStalled))
            with pytest.raises((cutaway.Aborted, cutaway.Cancelled)):
                read_all(events)

    def _shutdown_reading(self, part: Part) -> None:
        with self._standing_still(part) as (events, call):
            wait_until(lambda: call.stopped is not None)
            with pytest.raises(STOPPED):
                read_all(events)

    def _cancelled_after_forward(self, part: Part) -> None:
        mark = next(self._marks)
        with self._stream(picture(mark, WIDE), part.look_with(gradients=["conv1"])) as events:
            while not isinstance(next(events), cutaway.Prediction):
                pass
            call = self._found(mark)  # it runs: the gradients do not fit on their way
        wait_until(lambda: call.stopped is not None)

    def _killed(self, part: Part) -> None:
        mark = next(self._marks)
        with reader_that_stops(self._address, "staged", (WIDE, 3, 32, 32), mark, **part.look_with(layers=["*"])) as reader:
            call = self._found(mark)
            reader.kill()
        wait_until(lambda: call.stopped is not None)

    @contextmanager
    def _stream(self, x: np.ndarray, look: dict[str, Any], timeout: float = 30) -> Iterator[Iterator[cutaway.Event]]:
        with (
            cutaway.Client(self._address) as client,
            client.introspect_stream("staged", x, timeout=timeout, **look) as events,
        ):
            yield events

    def _scene(self, part: Part, *, holds: bool = False, raises: bool = False) -> tuple[int, Scene]:
        mark = next(self._marks)
        SCENES[mark] = Scene(part.place, holds=holds, raises=raises)
        return mark, SCENES[mark]

    def _call(self, mark: int) -> Call | None:
        """The call whose input begins with this number, if it waits or runs."""
        calls = [*self._lanes._waiting.copy(), *self._lanes._running.copy()]
        return next((call for call in calls if call.arguments[0][0, 0, 0, 0].item() == mark), None)

    def _found(self, mark: int) -> Call:
        wait_until(lambda: self._call(mark) is not None)
        call = self._call(mark)
        assert call is not None
        return call


def finish(calls: Sequence[Future[None]]) -> None:
    for call in calls:
        call.result()


def picture(mark: int, batch: int) -> np.ndarray:
    x = np.random.default_rng(mark).standard_normal((batch, 3, 32, 32)).astype(np.float32)
    x[0, 0, 0, 0] = mark
    return x


def read_all(events: Iterator[cutaway.Event]) -> None:
    for _ in events:
        pass


def plain(value: Any) -> Any:
    """What is equal only where all arrays are, bit by bit. Of an introspection, all but its times and its id."""
    if isinstance(value, cutaway.Introspection):
        return [plain(part) for part in (value.captures, value.cams.maps, value.prediction, value.failures, value.started.captures)]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return plain(vars(value)) if dataclasses.is_dataclass(value) else value


def parameters(network: nn.Module) -> Any:
    """What parameters and buffers hold, and whether gradients are asked or made of them."""
    grads = [(tensor.requires_grad, tensor.grad is None) for tensor in network.parameters()]
    return grads, plain({name: tensor.numpy() for name, tensor in network.state_dict().items()})


def mirrors() -> list[nn.Module]:
    """The networks of all mirrors that are alive."""
    gc.collect()
    return [thing.network for thing in gc.get_objects() if type(thing) is Mirror]


@contextmanager
def watched_hooks(network: nn.Module, expected: Any) -> Iterator[None]:
    """Looks at the hooks of a network all the time, and asserts that they have always been these."""
    strange, closed = [], threading.Event()

    def look() -> None:
        while not closed.wait(0.001):
            if (seen := hooks_of(network)) != expected:
                strange.append(seen)

    thread = threading.Thread(target=look, name="caller-of-hooks")
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
    assert strange == []


def play(parts: Sequence[Part], *, collect: bool = True) -> Counter[Ending]:
    """Has calls come to their ends, all in one server's life, and asserts that nothing of them stays. The ends that there were."""
    SCENES.clear()
    torch.manual_seed(0)
    network = Staged().eval()
    hooks = hooks_of(network)
    assert [hook for _, _, (hook,) in hooks] == [halve]
    as_it_was, threads = parameters(network), set(threading.enumerate())
    with only_what_is_new():
        before = census()
        ended = serve_and_play(network, parts, hooks, collect=collect)
        assert_nothing_beyond(before)
    assert parameters(network) == as_it_was
    wait_until(lambda: set(threading.enumerate()) <= threads)
    return ended


def serve_and_play(network: nn.Module, parts: Sequence[Part], hooks: Any, *, collect: bool) -> Counter[Ending]:
    """From the server's start to its end."""
    with ThreadPoolExecutor(32, thread_name_prefix="caller") as callers, ExitStack() as ending:
        with cutaway_server.serve(network, torch.zeros(1, 3, 32, 32), name="staged", **FLAGS) as server:
            ending.enter_context(watched_hooks(network, hooks))
            stage = Stage(server, callers)
            play_to_the_end(stage, network, parts, collect=collect)
            running = stage.run_into_shutdown([part for part in parts if part.ending in AT_SHUTDOWN])
        finish(running)
    return stage.ended


def play_to_the_end(stage: Stage, network: nn.Module, parts: Sequence[Part], *, collect: bool) -> None:
    """All but the shutdown."""
    hooks, scores = hooks_of(network), stage.predict()
    assert list(map(hooks_of, mirrors())) == [hooks] * LANES
    before = census()
    rehearsed = [stage.rehearse(part) for part in parts if part.ending is Ending.DONE]

    with stage.all_lanes_taken([part for part in parts if part.ending in IN_FORWARD]):
        stage.run([part for part in parts if part.ending in WAITING])
        assert stage.metric("cutaway_mirrors_in_use") == LANES
        assert stage.metric("cutaway_live_hooks") > 0
        assert hooks_of(network) == hooks
        assert stage.predict() == scores
    wait_until(stage.idle)
    first = [part for part in parts if part.ending in STANDING_STILL]  # while lanes are free, so that they do not expire before
    stage.run(first + [part for part in parts if part.ending in OTHERS], rehearsed)
    wait_until(stage.idle)
    stage.run([], rehearsed)  # on the same mirrors, or on those that took their places
    wait_until(stage.idle)

    assert stage.predict() == scores
    stage.assert_accounts()
    assert_nothing_beyond(before, collect=collect)
    assert all(hooks_of(mirror) == hooks for mirror in mirrors())
    assert all(parameter.grad is None for mirror in mirrors() for parameter in mirror.parameters())


EVERYTHING = {
    "layers": ["*"],
    "inputs": ["conv1", "add", "fc"],
    "gradients": ["relu", "conv2_1", "flatten"],
    "cams": [Cam("grad-cam"), Cam("grad-cam", "conv1", class_index=1), Cam("cam")],
    "top_k": 2,
}


TOGETHER = [(ending,) for ending in (Ending.DONE, *OTHERS, Ending.CANCELLED_WAITING, Ending.CANCELLED_IN_FORWARD)]
TOGETHER += [(Ending.EXPIRED_WAITING, Ending.EXPIRED_IN_FORWARD), STANDING_STILL, AT_SHUTDOWN]


@pytest.mark.parametrize("endings", TOGETHER, ids=lambda endings: "-".join(ending.name for ending in endings))
def test_a_call_leaves_nothing_however_it_ends(endings: tuple[Ending, ...]):
    assert play([Part(ending, EVERYTHING) for ending in endings]).keys() >= {*endings}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_network_raises_or_is_cancelled(place: str):
    endings = Ending.RAISED, Ending.CANCELLED_IN_FORWARD
    assert play([Part(ending, EVERYTHING, place=place) for ending in endings]).keys() >= {*endings}


@pytest.mark.parametrize(
    "ending",
    [
        Ending.DONE,
        Ending.RAISED,
        Ending.CANCELLED_WAITING,
        Ending.CANCELLED_IN_FORWARD,
        Ending.CANCELLED_AFTER_FORWARD,
    ],
)
def test_no_tensor_of_a_call_waits_for_the_garbage_collector(ending: Ending):
    gc.disable()
    try:
        assert play([Part(ending, EVERYTHING)], collect=False)[ending]
    finally:
        gc.enable()


def test_a_prediction_leaves_nothing():
    with only_what_is_new(), cutaway_server.serve(Staged(), torch.zeros(1, 3, 32, 32), name="staged", **FLAGS) as server:
        before = census()
        with cutaway.Client(server.address) as client:
            client.predict("staged", picture(0, 2))
        assert_nothing_beyond(before)


class Wrapping(Staged):
    """Turns whatever is raised inside it into an error of its own."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except Exception as error:
            raise ValueError("wrapped") from error


def test_an_early_stop_is_no_failure_though_the_network_wraps_what_is_raised_in_it():
    network = Wrapping().eval()
    with (
        cutaway_server.serve(network, torch.zeros(1, 3, 32, 32), name="wrapping", **FLAGS) as server,
        cutaway.Client(server.address) as client,
    ):
        seen = client.introspect("wrapping", picture(0, 1), layers=["relu"], without_prediction=True)
    assert list(seen.activations) == ["relu"]
    assert seen.finished.last_layer == "relu"


def test_a_census_sees_what_is_left():
    with only_what_is_new():
        before = census()
        assert census().beyond(before) == {}
        graph = torch.ones(3, requires_grad=True).exp().grad_fn
        kept = torch.zeros(4)
        end = threading.Event()
        thread = threading.Thread(target=end.wait, args=(30,), name="one more")
        thread.start()
        more = census().beyond(before)
        assert {"autograd ExpBackward0": 1, "Tensor [4]": 1, "thread one more": 1}.items() <= more.items()
        assert more["bytes of tensors"] >= 16
        del graph, kept
        end.set()
        assert_nothing_beyond(before)


@st.composite
def captures(draw: st.DrawFn) -> str | Capture:
    layer = draw(st.sampled_from(LAYERS))
    shrinks: list[dict[str, Any]] = [{}, {"statistics": True}, {"histogram_bins": 8}]
    if layer != "getitem":
        shrinks += [{"channels": [1, 0]}, {"channels": slice(0, 3, 2)}, {"top_channels": 2}]
    if layer in PLANES:
        shrinks += [{"pool": "mean"}, {"pool": "max"}]
    shrink = draw(st.sampled_from(shrinks))
    if not {"statistics", "histogram_bins"} & shrink.keys():
        shrink = {**shrink, "precision": draw(st.sampled_from([None, None, "float16", "affine8"]))}
    return Capture(layer, **shrink)


@st.composite
def looks(draw: st.DrawFn) -> dict[str, Any]:
    some = st.lists(captures(), max_size=4)
    at_layer = st.sampled_from(["grad-cam", "shapley-cam", "eigen-cam", "random-cam"])
    cams = st.builds(Cam, at_layer, st.sampled_from(PLANES), st.sampled_from([None, 0, 4]), augment=st.booleans())
    cams = cams | st.builds(Cam, st.sampled_from(["saliency", "guided-backprop"])) | st.just(Cam("cam"))
    look = {"layers": draw(some | st.just(["*"])), "inputs": draw(some), "gradients": draw(some)}
    look["cams"] = draw(st.lists(cams, max_size=3))
    without = any(look.values()) and draw(st.booleans())
    return {**look, "without_prediction": without, "top_k": 0 if without else draw(st.integers(0, 5)), "seed": 0}


@st.composite
def rounds(draw: st.DrawFn) -> list[Part]:
    endings = [*Ending, *[Ending.DONE] * draw(st.integers(3, 8))]
    part = st.tuples(looks(), st.integers(1, 3), st.sampled_from(list(PLACES)))
    return [Part(ending, *draw(part)) for ending in draw(st.permutations(endings))]


def test_calls_that_end_in_all_ways_at_the_same_time_leave_nothing_and_disturb_no_other():
    ended: Counter[Ending] = Counter()

    @settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(rounds())
    def play_round(parts: list[Part]) -> None:
        ended.update(play(parts))

    play_round()
    assert set(ended) == set(Ending)
    assert ended[Ending.DONE] >= 3 * 2 * 4
