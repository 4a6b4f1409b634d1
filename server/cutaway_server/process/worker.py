"""A thread that does what it is told, one thing after the other."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import structlog

from cutaway_server.errors import ShuttingDown

log = structlog.get_logger()
T = TypeVar("T")


class Worker:
    """The thread, and what it is to do yet. It does not hold the process when that ends."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._submitting = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Has a task done, from any thread. The future is always set: to ShuttingDown for what does not begin before the end."""
        done: Future[T] = Future()
        with self._submitting:
            if self._stopped:
                done.set_exception(ShuttingDown())
            else:
                self._tasks.put(partial(self._do, task, done))
        return done

    def stop(self) -> None:
        """Nothing begins any more."""
        with self._submitting:
            self._stopped = True
            self._tasks.put(None)

    def join(self, seconds: float) -> None:
        """Waits so long at most for what runs when it is stopped."""
        self._thread.join(seconds)

    def _work(self) -> None:
        while task := self._tasks.get():
            task()

    def _do(self, task: Callable[[], T], done: "Future[T]") -> None:
        try:
            if self._stopped:
                raise ShuttingDown
            done.set_result(task())
        except ShuttingDown as error:
            done.set_exception(error)
        except Exception as error:
            log.exception("what was to be done with the models failed")
            done.set_exception(error)
