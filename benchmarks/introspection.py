"""What looking inside costs, each beside the same without: mobilenet_v2 with random weights, 224 x 224, on this machine.

Each server is a process of its own. The two sides of a row run in turn, round by round. Nothing is asserted.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial
from math import ceil
from statistics import median
from typing import Any

import grpc
import mobilenet
import torch
from bare_echo import running_echo
from busy_callers import CALL_LIMIT, Busy, busy_callers, reader
from own_process import Running
from side_by_side import Row, Sides, p99, run, times

import cutaway
from cutaway.v1 import input_pb2, introspect_pb2, predict_pb2, tensor_pb2

LARGE = 100e6  # bytes of a large capture
AT_ONCE = 8  # introspections of the row `concurrent`
CALLERS = 4  # of Predict, in `p99-beside`
BUSY = 2  # callers beside them
LANES = 2
LANE_THREADS = "1 thread in the lane, as by default, all in process"
PHASE = 2.0  # seconds of calls of a side, in `p99-beside`
SETTLE = 0.4  # seconds before them, in which the callers beside get under way
MOST_SAMPLES = 8  # of a Predict call that is to take as much CPU as an Introspect call
PREDICT, INTROSPECT = "/cutaway.v1.InferenceService/Predict", "/cutaway.v1.InferenceService/Introspect"


class Stage:
    """What the rows measure with, made when the first row asks for it."""

    def __init__(self, stack: ExitStack, threads: int) -> None:
        self.threads = threads
        self._stack = stack
        self._running: dict[tuple[int, bool], Running] = {}

    @cached_property
    def convolutions(self) -> dict[str, int]:
        return mobilenet.convolutions()

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return self._stack.enter_context(ThreadPoolExecutor(AT_ONCE))

    def server(self, *, threads: int | None = None, mirrors: bool = True) -> Running:
        """One for each setting."""
        key = threads or self.threads, mirrors
        if key not in self._running:
            self._running[key] = self._stack.enter_context(
                mobilenet.running_mobilenet(threads=key[0], lanes=LANES, mirrors=mirrors)
            )
        return self._running[key]

    def client(self) -> cutaway.Client:
        return self._stack.enter_context(cutaway.Client(self.server().address))

    def read(self, address: str, path: str) -> Callable[[bytes], int]:
        """Reads the bytes of an answer, without parsing them."""
        return reader(self._stack.enter_context(grpc.insecure_channel(address)), path)

    def busy(self) -> Busy:
        return self._stack.enter_context(busy_callers(self.server().address, BUSY))

    def echo(self, answer: list[bytes]) -> Callable[[bytes], int]:
        """As `read`, of a bare server that has this answer ready."""
        return self.read(self._stack.enter_context(running_echo([answer], 2)), "/Introspect/0")

    def answer(self, request: bytes) -> list[bytes]:
        with grpc.insecure_channel(self.server().address) as channel:
            return list(channel.unary_stream(INTROSPECT)(request, timeout=CALL_LIMIT))


def batch(samples: int) -> torch.Tensor:
    return torch.randn(samples, *mobilenet.SHAPE, generator=torch.Generator().manual_seed(1))


def request(kind: Any, samples: int, **fields: Any) -> bytes:
    """A request about so many samples, ready to be sent."""
    x = batch(samples).numpy()
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes())
    encoded: bytes = kind(model=mobilenet.NAME, inputs=[input_pb2.Input(tensor=tensor)], **fields).SerializeToString()
    return encoded


def introspect(samples: int, layers: Sequence[str]) -> bytes:
    return request(introspect_pb2.IntrospectRequest, samples, captures=[introspect_pb2.Capture(layer=name) for name in layers])


def predict_idle(stage: Stage) -> Sides:
    asked = request(predict_pb2.PredictRequest, 1)
    ours, against = (stage.read(stage.server(mirrors=mirrors).address, PREDICT) for mirrors in (True, False))
    setting = f"1 caller, raw bytes; {stage.threads} threads, {LANES} lanes against none"
    return Sides(times(partial(ours, asked), 10), times(partial(against, asked), 10), setting)


def one_layer(stage: Stage) -> Sides:
    names = list(stage.convolutions)
    layer = names[len(names) // 2]
    x, client = batch(1), stage.client()
    ours = partial(client.introspect, mobilenet.NAME, x.numpy(), layers=[layer], without_prediction=True)
    setting = f"cutaway.Client; {layer}, {stage.convolutions[layer] / 1e3:.0f} kB; {LANE_THREADS}"
    return Sides(times(ours, 10), times(mobilenet.hooked(x, [layer], cut=True), 10), setting)


def all_convs(stage: Stage) -> Sides:
    sizes = stage.convolutions
    x, client = batch(1), stage.client()
    ours = partial(client.introspect, mobilenet.NAME, x.numpy(), layers=list(sizes))
    mb = sum(sizes.values()) / 1e6
    setting = f"cutaway.Client; {len(sizes)} layers, {mb:.1f} MB; {LANE_THREADS}"
    return Sides(times(ours, 6), times(mobilenet.hooked(x, list(sizes), cut=False), 6), setting)


def throughput(stage: Stage, layers: Sequence[str], name: str) -> Sides:
    one = sum(map(len, stage.answer(introspect(1, layers))))
    samples = ceil(LARGE / one)
    asked = introspect(samples, layers)
    answer = stage.answer(asked)
    mb = sum(map(len, answer)) / 1e6
    ours, echo = stage.read(stage.server().address, INTROSPECT), stage.echo(answer)
    setting = f"raw bytes; {name}, batch {samples}: {mb:.0f} MB in {len(answer)} messages; 1 thread in the lane"
    return Sides(times(partial(ours, asked), 3), times(partial(echo, asked), 3), setting, mb)


def hooks(stage: Stage, *, forward: bool) -> Sides:
    x = batch(1)
    ours, against = mobilenet.walked(x, forward=forward), mobilenet.plain(x)
    count = len(list(mobilenet.network().modules())) - 1
    setting = f"in process; {count} modules; {stage.threads} threads"
    return Sides(times(ours, 10), times(against, 10), setting)


def concurrent(stage: Stage) -> Sides:
    asked = introspect(1, ["*"])
    read = stage.read(stage.server(threads=1).address, INTROSPECT)
    mb = read(asked) / 1e6

    def at_once() -> None:
        list(stage.pool.map(read, [asked] * AT_ONCE))

    def in_a_row() -> None:
        for _ in range(AT_ONCE):
            read(asked)

    setting = f"raw bytes, {AT_ONCE} x {mb:.0f} MB; 1 thread, {LANES} lanes"
    return Sides(times(at_once, 1), times(in_a_row, 1), setting)


def p99_beside(stage: Stage) -> Sides:
    server, busy = stage.server(), stage.busy()
    small, looking = request(predict_pb2.PredictRequest, 1), introspect(1, list(stage.convolutions))
    predict, look = (stage.read(server.address, path) for path in (PREDICT, INTROSPECT))

    def cost(read: Callable[[bytes], int], asked: bytes) -> float:
        read(asked)
        began = server.cpu_seconds()
        for _ in range(10):
            read(asked)
        return (server.cpu_seconds() - began) / 10

    wanted = cost(look, looking)
    costs = {n: cost(predict, request(predict_pb2.PredictRequest, n)) for n in range(1, MOST_SAMPLES + 1)}
    samples = min(costs, key=lambda n: abs(costs[n] - wanted))
    calls: dict[str, list[int]] = {INTROSPECT: [], PREDICT: []}
    cpu: dict[str, list[float]] = {INTROSPECT: [], PREDICT: []}

    def beside(path: str, asked: bytes) -> Callable[[], list[float]]:
        def run() -> list[float]:
            with busy.calling(path, asked, calls[path]):
                time.sleep(SETTLE)
                began = server.cpu_seconds()
                found = callers_for(PHASE, partial(predict, small), stage.pool)
                cpu[path].append(server.cpu_seconds() - began)
            return found

        return run

    def notes() -> str:
        sides = (
            f"{median(calls[path]) / (PHASE + SETTLE):.1f} calls/s beside, {median(cpu[path]) / PHASE:.2f} CPUs of the server"
            for path in (INTROSPECT, PREDICT)
        )
        alone = f"a call beside takes {1e3 * wanted:.0f} ms of the server's CPU, and {1e3 * costs[samples]:.0f} ms"
        return f"{alone}; {' against '.join(sides)}"

    setting = f"raw bytes; {CALLERS} callers of 1 sample; {BUSY} callers beside: Introspect of all convolutions, or Predict"
    setting += f" of {samples} samples; {stage.threads} threads, {LANES} lanes"
    return Sides(beside(INTROSPECT, looking), beside(PREDICT, request(predict_pb2.PredictRequest, samples)), setting, notes=notes)


def callers_for(seconds: float, call: Callable[[], object], pool: ThreadPoolExecutor) -> list[float]:
    """How long each call took, of callers that call without a pause for so long."""
    end = time.monotonic() + seconds
    found: list[float] = []
    lock = threading.Lock()

    def caller() -> None:
        while time.monotonic() < end:
            began = time.perf_counter()
            call()
            with lock:
                found.append(time.perf_counter() - began)

    for done in [pool.submit(caller) for _ in range(CALLERS)]:
        done.result()
    return found


ROWS = [
    Row("predict-idle", "Predict while nobody introspects", "a server without mirrors", "no difference", predict_idle),
    Row("one-layer", "Introspect of one middle layer", "hook, clone, cut in process", "<= 1.25", one_layer),
    Row("all-convs", "Introspect of all convolutions", "hooks, clones in process", "<= 1.6", all_convs),
    Row(
        "throughput",
        "stream of a large capture",
        "bare echo, equal messages",
        ">= 0.7",
        lambda stage: throughput(stage, ["*"], "every layer"),
        "MB/s",
    ),
    Row(
        "throughput-convs",
        "stream of a large capture",
        "bare echo, equal messages",
        ">= 0.7",
        lambda stage: throughput(stage, list(stage.convolutions), "all convolutions"),
        "MB/s",
    ),
    Row("hooks", "all hooks on, off, baseline check", "forward", "<= 0.05", partial(hooks, forward=False)),
    Row("hooks-fired", "forward with all hooks", "forward", "", partial(hooks, forward=True)),
    Row("concurrent", f"{AT_ONCE} Introspects at once", f"{AT_ONCE} in a row", "<= 0.6", concurrent),
    Row(
        "p99-beside",
        f"p99 of Predict beside {BUSY} Introspects",
        f"beside {BUSY} Predicts of equal CPU",
        "<= 1.5",
        p99_beside,
        figure=p99,
    ),
]


if __name__ == "__main__":
    run(__doc__, ROWS, Stage, {"model": f"{mobilenet.NAME} of random weights"})
