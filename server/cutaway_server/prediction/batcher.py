"""Joins predictions that wait at the same time into one batch. Nothing waits on purpose."""

import threading
import time
from collections import deque
from typing import Protocol

import structlog
import torch
from torch import Tensor

from cutaway_server.errors import Busy, Cancelled, DeadlinePassed, NetworkFailed, OutOfMemory, Refusal, ShuttingDown
from cutaway_server.metrics import Metrics
from cutaway_server.models.device import free_cache, is_out_of_memory
from cutaway_server.models.threads import use_cpu_threads

log = structlog.get_logger()
_END_SECONDS = 2


class Engine(Protocol):
    """What runs a batch."""

    def run(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """Scores, the batch first, for arguments whose first axis is the batch."""


class Prediction:
    """One caller's part of a batch."""

    def __init__(self, arguments: tuple[Tensor, ...], deadline: float, request_id: str) -> None:
        self.arguments = arguments
        self.deadline = deadline
        self.request_id = request_id
        self.arrived = time.monotonic()
        self._ended = threading.Event()
        self._outcome: Tensor | Refusal | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its answer, or nobody waits for one."""
        return self._ended.is_set()

    def end(self, outcome: Tensor | Refusal) -> None:
        """Gives the answer; the first one counts."""
        if not self._ended.is_set():
            self._outcome = outcome
            self._ended.set()

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.end(Cancelled())

    def result(self) -> Tensor:
        """Waits for the answer until the deadline.

        Raises:
            Refusal: whatever ended it.
        """
        if not self._ended.wait(max(0.0, self.deadline - time.monotonic())):
            self.end(DeadlinePassed("before the prediction was made"))
        if isinstance(self._outcome, Refusal):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class Batcher:
    """One thread that runs what has arrived, up to `max_batch` samples at once, while more arrives.

    Args:
        device: that the engine runs on.
        threads: CPU threads that the engine may use in PyTorch.
        max_batch: samples joined at most; 1 switches joining off. A call with more samples runs alone.
        max_waiting: predictions that may wait.
    """

    def __init__(
        self, name: str, engine: Engine, *, device: torch.device, threads: int, max_batch: int, max_waiting: int, metrics: Metrics
    ) -> None:
        self._name = name
        self._device = device
        self._engine = engine
        self._threads = threads
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[Prediction] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._queue_seconds = metrics.queue_seconds.labels(name)
        self._batch_samples = metrics.batch_samples.labels(name)
        self._engine_seconds = metrics.engine_seconds.labels(name)
        self._thread = threading.Thread(target=self._work, name=f"predict-{name}", daemon=True)
        self._thread.start()

    @property
    def max_batch(self) -> int:
        """Samples that are joined at most."""
        return self._max_batch

    @property
    def waiting(self) -> int:
        """How many predictions wait now."""
        return len(self._waiting)

    def submit(self, prediction: Prediction) -> None:
        """Queues a prediction.

        Raises:
            Busy: as many wait as may wait.
            ShuttingDown: the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise ShuttingDown
            if len(self._waiting) >= self._max_waiting:
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.ended)
            if len(self._waiting) >= self._max_waiting:
                raise Busy("predictions", self._max_waiting, retry_after_s=0.1)
            self._waiting.append(prediction)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the batch that runs; what waits is refused. One that never ends is left behind."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_END_SECONDS)
        for prediction in self._waiting:
            prediction.end(ShuttingDown())

    def _work(self) -> None:
        use_cpu_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                batch = self._take()
            if batch:
                self._run(batch)
            del batch  # or its tensors would stay until the next one comes

    def _take(self) -> list[Prediction]:
        """The next batch: the oldest that still has a caller, and what fits to it."""
        batch: list[Prediction] = []
        samples = 0
        while self._waiting:
            candidate = self._waiting[0]
            if candidate.ended or candidate.deadline <= time.monotonic():
                self._waiting.popleft().end(DeadlinePassed("while it waited for its batch"))
                continue
            size = len(candidate.arguments[0])
            if batch and (samples + size > self._max_batch or not _joinable(batch[0], candidate)):
                break
            batch.append(self._waiting.popleft())
            samples += size
        return batch

    def _run(self, batch: list[Prediction]) -> None:
        started = time.monotonic()
        for prediction in batch:
            self._queue_seconds.observe(started - prediction.arrived)
        try:
            joined = (
                batch[0].arguments if len(batch) == 1 else tuple(map(torch.cat, zip(*(p.arguments for p in batch), strict=True)))
            )
            scores = self._engine.run(joined)
        except Exception:
            self._run_apart(batch)
            return
        self._batch_samples.observe(len(joined[0]))
        self._engine_seconds.observe(time.monotonic() - started)
        begin = 0
        for prediction in batch:
            end = begin + len(prediction.arguments[0])
            prediction.end(scores[begin:end])
            begin = end

    def _run_apart(self, batch: list[Prediction]) -> None:
        """One caller's input that the network cannot take must not cost the others their answers."""
        for prediction in batch:
            try:
                prediction.end(self._engine.run(prediction.arguments))
            except Exception as error:
                log.exception("the network failed", method="Predict", model=self._name, request_id=prediction.request_id)
                short = is_out_of_memory(error)
                prediction.end(OutOfMemory(self._name, str(self._device)) if short else NetworkFailed(self._name))
        free_cache(self._device)


def _joinable(one: Prediction, other: Prediction) -> bool:
    return all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(one.arguments, other.arguments, strict=True))
