"""Joins predictions that wait at the same time into one batch. Nothing waits on purpose, unless a delay is asked for."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
import structlog
import torch

from cutaway_server.errors import Busy, Cancelled, DeadlinePassed, NetworkFailed, OutOfMemory, Refusal, ShuttingDown
from cutaway_server.metrics import Metrics
from cutaway_server.models.arrays import Array
from cutaway_server.models.device import free_cache, is_out_of_memory
from cutaway_server.models.threads import use_cpu_threads

log = structlog.get_logger()
Outcome = Array | Refusal
_SHORT = 0.002  # seconds of a batch that may hold up other calls
_END_SECONDS = 2


class Engine(Protocol):
    """What runs a batch.

    Attributes:
        runs_python: whether it holds Python's lock while it computes, or can be held up by what the network's author wrote.
        one_at_a_time: whether a run in one thread waits for that in another.
    """

    @property
    def name(self) -> str:
        """As models name it: "eager"."""

    @property
    def runs_python(self) -> bool: ...  # noqa: D102

    @property
    def one_at_a_time(self) -> bool: ...  # noqa: D102

    def run(self, arguments: tuple[Array, ...]) -> Array:
        """Scores, the batch first, for arguments whose first axis is the batch; both as `models.arrays` has them."""


class Prediction:
    """One caller's part of a batch.

    Args:
        arguments: the network's, on the host, the batch first.
        deadline: on the monotonic clock, in seconds.
        answer: is given the scores, or why there are none, once, by whichever thread has them. Must not raise.
    Attributes:
        samples: how many it has.
    """

    __slots__ = ("_answer", "arguments", "arrived", "deadline", "request_id", "samples")

    def __init__(self, arguments: tuple[Array, ...], deadline: float, request_id: str, answer: Callable[[Outcome], None]) -> None:
        self.arguments = arguments
        self.samples: int = arguments[0].shape[0]
        self.deadline = deadline
        self.request_id = request_id
        self.arrived = time.monotonic()
        self._answer = [answer]

    @property
    def ended(self) -> bool:
        """Whether it has its answer, or nobody waits for one."""
        return not self._answer

    def end(self, outcome: Outcome) -> None:
        """Gives the answer, from any thread; the first one counts."""
        try:
            answer = self._answer.pop()  # one thread alone gets it
        except IndexError:
            return
        answer(outcome)

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self.end(Cancelled())


class AwaitedPrediction(Prediction):
    """A prediction whose caller's thread waits for the answer."""

    __slots__ = ("_came", "_outcome")

    def __init__(self, arguments: tuple[Array, ...], deadline: float, request_id: str) -> None:
        super().__init__(arguments, deadline, request_id, self._come)
        self._came = threading.Event()
        self._outcome: Outcome | None = None

    def _come(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._came.set()

    def result(self) -> Array:
        """Waits for the answer until the deadline.

        Raises:
            Refusal: whatever ended it.
        """
        if not self._came.wait(max(0.0, self.deadline - time.monotonic())):
            self.end(DeadlinePassed("before the prediction was made"))
            self._came.wait()  # another thread may be about to give the answer
        if isinstance(self._outcome, Refusal):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class Batcher:
    """One thread that runs what has arrived, up to `max_batch` samples at once, while more arrives.

    Until `settle` says that it is warm, it waits for nobody and counts nothing.

    Args:
        device: that the engine runs on.
        threads: CPU threads that the engine may use in PyTorch.
        max_batch: samples joined at most; a call with more is run in parts. 1 switches both off: each call runs as it came.
        max_waiting: predictions that may wait.
        delay: seconds that the oldest waits at most for others to join it.
        alike: whether all have arguments of the same sizes and types, by the model's own word.
    Attributes:
        runs_at_once: whether batches are so short, all of them, and run no Python, that any thread may run them itself.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        device: torch.device,
        threads: int,
        max_batch: int,
        max_waiting: int,
        metrics: Metrics,
        delay: float = 0.0,
        alike: bool = False,
    ) -> None:
        self.max_waiting = max_waiting
        self.runs_at_once = False
        self._name = name
        self._device = device
        self._engine = engine
        self._threads = threads
        self._max_batch = max_batch
        self._splits = max_batch > 1
        self._warm = False
        self._delay = delay
        self._alike = alike
        self._waiting: deque[Prediction] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._queue_seconds = metrics.tally(metrics.queue_seconds.labels(name))
        self._batch_samples = metrics.tally(metrics.batch_samples.labels(name))
        self._engine_seconds = metrics.tally(metrics.engine_seconds.labels(name))
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

    @property
    def full(self) -> Busy:
        """What those are told that come when as many wait as may wait."""
        return Busy("predictions", self.max_waiting, retry_after_s=0.1)

    def settle(self, samples: int, seconds: float) -> None:
        """It is warm, and joins no more than so many samples from now on; so many take so long."""
        self._max_batch = samples
        self._warm = True
        short = seconds < _SHORT and (self._splits or not self._engine.one_at_a_time)  # a whole call may run beside, for long
        self.runs_at_once = self._alike and not self._engine.runs_python and not self._delay and short

    def submit(self, prediction: Prediction) -> None:
        """Queues a prediction for the batcher's own thread.

        Raises:
            Busy: as many wait as may wait.
            ShuttingDown: the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise ShuttingDown
            if len(self._waiting) >= self.max_waiting:
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.ended)
            if len(self._waiting) >= self.max_waiting:
                raise self.full
            self._waiting.append(prediction)
            self._changed.notify()

    def run(self, waiting: deque[Prediction]) -> None:
        """Runs all of these in the thread that calls it, batch by batch, and leaves none."""
        while waiting:
            if batch := self._take(waiting):
                self._run(batch)

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
                if self._delay and self._warm and not self._closed:
                    left = self._waiting[0].arrived + self._delay - time.monotonic()
                    self._changed.wait_for(lambda: self._closed or self._fill_a_batch(), max(0.0, left))
                if self._closed:
                    return
                batch = self._take(self._waiting)
            if batch:
                self._run(batch)
            del batch  # or its tensors would stay until the next one comes

    def _fill_a_batch(self) -> bool:
        return sum(prediction.samples for prediction in self._waiting) >= self._max_batch

    def _take(self, waiting: deque[Prediction]) -> list[Prediction]:
        """The next batch: the oldest that still has a caller, and what fits to it."""
        batch: list[Prediction] = []
        samples, now = 0, time.monotonic()
        while waiting:
            candidate = waiting[0]
            if candidate.ended or candidate.deadline <= now:
                waiting.popleft().end(DeadlinePassed("while it waited for its batch"))
                continue
            if batch and (samples + candidate.samples > self._max_batch or not (self._alike or _joinable(batch[0], candidate))):
                break
            batch.append(waiting.popleft())
            samples += candidate.samples
        return batch

    def _run(self, batch: list[Prediction]) -> None:
        started = time.monotonic()
        if self._warm:
            for prediction in batch:
                self._queue_seconds.add(started - prediction.arrived)
        try:
            parts = self._parts(batch)
        except BaseException as error:  # SystemExit, too: a network's own doing, which must not end a thread of ours
            if len(batch) > 1:
                self._run_apart(batch)
            else:
                self._fail(batch[0], error)
            return
        if self._warm:
            self._engine_seconds.add(time.monotonic() - started)
        for prediction, part in zip(batch, parts, strict=True):
            prediction.end(part)

    def _parts(self, batch: list[Prediction]) -> list[Array]:
        """The scores of each."""
        if len(batch) == 1:
            return [self._scores(batch[0].arguments)]
        scores = self._scores(tuple(map(np.concatenate, zip(*(prediction.arguments for prediction in batch), strict=True))))
        parts, begin = [], 0
        for prediction in batch:
            parts.append(scores[begin : begin + prediction.samples])
            begin += prediction.samples
        return parts

    def _scores(self, arguments: tuple[Array, ...]) -> Array:
        """Of a batch, whatever its size."""
        samples, most = arguments[0].shape[0], self._max_batch
        if samples <= most or not self._splits:
            return self._scores_at_once(arguments)
        parts = (tuple(argument[begin : begin + most] for argument in arguments) for begin in range(0, samples, most))
        return np.concatenate([self._scores_at_once(part) for part in parts])

    def _scores_at_once(self, arguments: tuple[Array, ...]) -> Array:
        scores = self._engine.run(arguments)
        samples = arguments[0].shape[0]
        if len(scores) != samples:
            raise ValueError(f"{len(scores)} scores for {samples} samples")
        if self._warm:
            self._batch_samples.add(samples)
        return scores

    def _run_apart(self, batch: list[Prediction]) -> None:
        """One caller's input that the network cannot take must not cost the others their answers."""
        for prediction in batch:
            if not prediction.ended:
                self._run([prediction])

    def _fail(self, prediction: Prediction, error: BaseException) -> None:
        """For the exception that is being handled."""
        log.exception("the network failed", method="Predict", model=self._name, request_id=prediction.request_id)
        short = is_out_of_memory(error)
        prediction.end(OutOfMemory(self._name, str(self._device)) if short else NetworkFailed(self._name))
        free_cache(self._device)


def _joinable(one: Prediction, other: Prediction) -> bool:
    return all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(one.arguments, other.arguments, strict=True))
