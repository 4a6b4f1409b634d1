"""A thread that does what it is told."""

import threading

import pytest

from cutaway_server.errors import ShuttingDown
from cutaway_server.process.worker import Worker


def test_nobody_waits_for_ever_for_what_does_not_begin_any_more():
    worker, begun, go = Worker("busy"), threading.Event(), threading.Event()

    def hold() -> str:
        begun.set()
        go.wait(10)
        return "done"

    first, *others = (worker.submit(task) for task in (hold, int, int))
    assert begun.wait(10)
    worker.stop()
    others.append(worker.submit(int))
    go.set()
    assert first.result(10) == "done"
    for other in others:
        with pytest.raises(ShuttingDown):
            other.result(10)


def test_what_fails_ends_nothing_else():
    worker = Worker("busy")
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 / 0).result(10)
    assert worker.submit(lambda: 2).result(10) == 2
    worker.stop()
    worker.join(10)
