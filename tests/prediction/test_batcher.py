"""What joins a batch: identity kept, one caller's trouble never another's."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from cutaway_server.errors import Busy, Cancelled, DeadlinePassed, NetworkFailed, ShuttingDown
from cutaway_server.metrics import Metrics
from cutaway_server.models.arrays import Array
from cutaway_server.prediction.batcher import AwaitedPrediction, Batcher
from server_process import wait_until

FAR = 1000.0  # seconds


class Gate:
    """An engine that doubles its input, when it is let."""

    name = "gate"

    def __init__(self, *, runs_python: bool = True, one_at_a_time: bool = False) -> None:
        self.runs_python = runs_python
        self.one_at_a_time = one_at_a_time
        self.open = threading.Event()
        self.running = threading.Event()
        self.batches: list[list[float]] = []

    def run(self, arguments: tuple[Array, ...]) -> Array:
        self.running.set()
        assert self.open.wait(30)
        (x,) = arguments
        if (x < -1).any():
            raise SystemExit("far below")
        if (x < 0).any():
            raise ValueError("negative")
        self.batches.append(x[:, 0].tolist())
        return x * 2


@contextmanager
def batcher(gate: Gate, *, max_batch: int = 8, max_waiting: int = 100, **more: Any) -> Iterator[Batcher]:
    given = {"device": torch.device("cpu"), "threads": 1, "metrics": Metrics(), **more}
    opened = Batcher("m", gate, max_batch=max_batch, max_waiting=max_waiting, **given)
    try:
        yield opened
    finally:
        gate.open.set()
        opened.close()


def prediction(*values: float, deadline: float | None = None) -> AwaitedPrediction:
    return AwaitedPrediction((np.array(values, np.float32)[:, None],), deadline or time.monotonic() + FAR, "id")


def submit(to: Batcher, *waiting: AwaitedPrediction) -> list[AwaitedPrediction]:
    for one in waiting:
        to.submit(one)
    return list(waiting)


def test_of_four_calls_in_one_batch_the_second_is_cancelled_while_it_runs() -> None:
    gate = Gate()
    with batcher(gate) as b:
        submit(b, prediction(0))
        assert gate.running.wait(30)
        four = submit(b, *(prediction(value) for value in (1, 2, 3, 4)))
        first, gate.open = gate.open, threading.Event()
        gate.running.clear()
        first.set()
        assert gate.running.wait(30)  # the batch of four is running now
        four[1].cancel()
        gate.open.set()
        assert [four[i].result().item() for i in (0, 2, 3)] == [2, 6, 8]
        with pytest.raises(Cancelled):
            four[1].result()
    assert gate.batches == [[0], [1, 2, 3, 4]]


def test_what_was_cancelled_or_expired_before_its_batch_never_reaches_the_engine() -> None:
    gate = Gate()
    with batcher(gate) as b:
        submit(b, prediction(0))
        assert gate.running.wait(30)
        cancelled, expired, good = submit(b, prediction(1), prediction(2, deadline=time.monotonic()), prediction(3))
        cancelled.cancel()
        gate.open.set()
        assert good.result().item() == 6
        with pytest.raises(DeadlinePassed):
            expired.result()
    assert gate.batches == [[0], [3]]


@pytest.mark.parametrize("value", [-1, -2])
def test_one_input_that_the_network_cannot_take_costs_the_others_nothing(value: float) -> None:
    """Not even one at which it calls sys.exit()."""
    gate = Gate()
    with batcher(gate) as b:
        submit(b, prediction(0))
        assert gate.running.wait(30)
        one, bad, other = submit(b, prediction(1), prediction(value), prediction(5, 6))
        gate.open.set()
        assert one.result().item() == 2
        assert other.result()[:, 0].tolist() == [10, 12]
        with pytest.raises(NetworkFailed):
            bad.result()


@pytest.mark.parametrize(
    ("max_batch", "batches"),
    [
        (1, [[1], [2, 3, 4], [5], [6]]),
        (2, [[1], [2, 3], [4], [5, 6]]),
        (3, [[1], [2, 3, 4], [5, 6]]),
        (4, [[1, 2, 3, 4], [5, 6]]),
        (9, [[1, 2, 3, 4, 5, 6]]),
    ],
)
def test_order_and_sizes_of_batches(max_batch: int, batches: list[list[float]]) -> None:
    gate = Gate()
    with batcher(gate, max_batch=max_batch) as b:
        submit(b, prediction(0))
        assert gate.running.wait(30)
        waiting = submit(b, prediction(1), prediction(2, 3, 4), prediction(5), prediction(6))
        gate.open.set()
        assert [w.result()[:, 0].tolist() for w in waiting] == [[2], [4, 6, 8], [10], [12]]
    assert gate.batches == [[0], *batches]


@pytest.mark.parametrize(("max_batch", "batches"), [(8, [[1], [2], [3]]), (1, [[1, 2, 3]])])
def test_a_call_is_split_into_what_was_measured_unless_nothing_is_to_be_split(max_batch: int, batches: list[list[float]]) -> None:
    gate = Gate()
    gate.open.set()
    with batcher(gate, max_batch=max_batch) as b:
        b.settle(1, 0.0)
        (one,) = submit(b, prediction(1, 2, 3))
        assert one.result()[:, 0].tolist() == [2, 4, 6]
    assert gate.batches == batches


def test_until_it_is_warm_it_waits_for_nobody_and_counts_nothing() -> None:
    gate, metrics = Gate(), Metrics()
    gate.open.set()

    def counted(what: str) -> float | None:
        metrics.settle()
        return metrics.registry.get_sample_value(f"cutaway_{what}_count", {"model": "m"})

    counts = ("queue_seconds", "batch_samples", "engine_seconds")
    with batcher(gate, metrics=metrics, delay=FAR) as b:
        (early,) = submit(b, prediction(0, deadline=time.monotonic() + 30))
        assert early.result().item() == 0
        assert [counted(what) for what in counts] == [0, 0, 0]
        b.settle(3, 0.0)
        waiting = submit(b, *(prediction(value, deadline=time.monotonic() + 30) for value in (1, 2, 3)))
        assert [one.result().item() for one in waiting] == [2, 4, 6]
        wait_until(lambda: [counted(what) for what in counts] == [3, 1, 1])
    assert gate.batches == [[0], [1, 2, 3]]


@pytest.mark.parametrize(
    ("at_once", "runs_python", "one_at_a_time", "max_batch", "seconds"),
    [
        (True, False, False, 8, 0.001),
        (True, False, False, 1, 0.001),
        (True, False, True, 8, 0.001),
        (False, False, True, 1, 0.001),  # a call of any size runs whole, and who comes meanwhile would wait for it
        (False, True, False, 8, 0.001),
        (False, False, False, 8, 0.01),
    ],
)
def test_what_any_thread_may_run(at_once: bool, runs_python: bool, one_at_a_time: bool, max_batch: int, seconds: float) -> None:
    with batcher(Gate(runs_python=runs_python, one_at_a_time=one_at_a_time), max_batch=max_batch, alike=True) as b:
        assert not b.runs_at_once
        b.settle(max_batch, seconds)
        assert b.runs_at_once == at_once


class Forgetful(Gate):
    """Leaves a row out where it meets a 9, and writes on its input."""

    def run(self, arguments: tuple[Array, ...]) -> Array:
        y = super().run((arguments[0].copy(),))
        arguments[0][:] *= 10
        if (arguments[0] == 80).any():
            raise ValueError("eight")
        return y[y[:, 0] != 18]


def test_scores_with_too_few_rows_are_nobodys() -> None:
    gate = Forgetful()
    with batcher(gate) as b:
        submit(b, prediction(0))
        assert gate.running.wait(30)
        one, short, other = submit(b, prediction(1), prediction(9, 3), prediction(5))
        gate.open.set()
        assert one.result().item() == 2
        assert other.result().item() == 10
        with pytest.raises(NetworkFailed):
            short.result()
        (later,) = submit(b, prediction(4))
        assert later.result().item() == 8


def test_a_call_that_failed_alone_is_not_run_again_on_what_the_network_left_of_it() -> None:
    gate = Forgetful()
    gate.open.set()
    with batcher(gate) as b:
        (failed,) = submit(b, prediction(8))
        with pytest.raises(NetworkFailed):
            failed.result()
    assert gate.batches == [[8]]


def test_a_full_queue_refuses_at_once() -> None:
    gate = Gate()
    with batcher(gate, max_waiting=2) as b:
        submit(b, prediction(0))
        assert gate.running.wait(30)
        submit(b, prediction(1), prediction(2))
        with pytest.raises(Busy, match="2 predictions wait already"):
            b.submit(prediction(3))


def test_a_result_is_waited_for_until_the_deadline_only() -> None:
    gate = Gate()
    with batcher(gate) as b:
        (late,) = submit(b, prediction(1, deadline=time.monotonic() + 0.05))
        with pytest.raises(DeadlinePassed):
            late.result()


def test_a_closed_batcher_refuses_and_ends_its_thread() -> None:
    gate = Gate()
    gate.open.set()
    threads = threading.active_count()
    with batcher(gate) as b:
        submit(b, prediction(0))
    with pytest.raises(ShuttingDown):
        b.submit(prediction(1))
    wait_until(lambda: threading.active_count() == threads)
