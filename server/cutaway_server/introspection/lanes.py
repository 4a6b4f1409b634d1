"""Lanes: threads with a mirror each that run the introspections of one model."""

import threading
import time
from collections import deque

import structlog
import torch

from cutaway_server.errors import Busy, NetworkFailed, OutOfMemory, Refusal, ShuttingDown
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.run import run
from cutaway_server.metrics import Metrics
from cutaway_server.models.device import free_cache, is_out_of_memory, own_stream
from cutaway_server.models.mirror import Mirror
from cutaway_server.models.model import Model
from cutaway_server.models.threads import give_way, use_cpu_threads

log = structlog.get_logger()
_END_SECONDS = 2


class Lanes:
    """Runs introspections of one model, as many at the same time as there are lanes.

    A lane is held from the first layer until its reader has everything, so what all calls hold for their readers is
    bounded by lanes times one call's buffer.

    Args:
        count: lanes, each with a mirror that is built now.
        threads: CPU threads that one forward pass uses.
        batch: samples of one run of the network, for maps that take many.
        max_waiting: calls that may wait for a free lane.
    """

    def __init__(self, model: Model, *, count: int, threads: int, batch: int, max_waiting: int, metrics: Metrics) -> None:
        self._model = model
        self._threads_each = threads
        self._batch = batch
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._waiting: deque[Call] = deque()
        self._running: set[Call] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._mirror_seconds = metrics.mirror_seconds.labels(model.name)
        self._mirrors: list[Mirror | None] = [self._make_mirror() for _ in range(count)]  # None: to be made for the next call
        self._lane_wait_seconds = metrics.lane_wait_seconds.labels(model.name)
        self._in_use = metrics.mirrors_in_use.labels(model.name)
        self._dropped = {reason: metrics.mirrors_dropped.labels(model.name, reason) for reason in ("raised", "hooks", "unfinished")}
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"lane-{model.name}-{lane}", daemon=True)
            for lane in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many calls wait now."""
        return len(self._waiting)

    @property
    def count(self) -> int:
        """How many lanes there are."""
        return len(self._mirrors)

    def live_hooks(self) -> int:
        """Hooks that stand in the hook dicts of all mirrors beyond their baselines, counted now."""
        return sum(mirror.live_hooks() for mirror in self._mirrors if mirror)

    def submit(self, call: Call) -> None:
        """Queues a call for the next free lane.

        Raises:
            Busy: as many wait as may wait.
            ShuttingDown: the lanes are closed.
        """
        with self._changed:
            if self._closed:
                raise ShuttingDown
            self._waiting = deque(waiting for waiting in self._waiting if waiting.stopped is None)
            if len(self._waiting) >= self._max_waiting:
                raise Busy("introspections", self._max_waiting, retry_after_s=1.0)
            self._waiting.append(call)
            self._changed.notify()

    def close(self) -> None:
        """Stops what waits and what runs, and ends the threads. Those in which the network never ends are left behind."""
        with self._changed:
            self._closed = True
            for call in [*self._waiting, *self._running]:
                call.stop(ShuttingDown())
            self._changed.notify_all()
        until = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self, lane: int) -> None:
        give_way()
        use_cpu_threads(self._threads_each)
        torch.set_grad_enabled(False)  # grad mode is a thread's own, and starts enabled
        stream = own_stream(self._model.device)
        while call := self._next():
            try:
                self._lane_wait_seconds.observe(time.monotonic() - call.arrived)
                with stream:
                    self._run(call, lane)
            finally:
                with self._changed:
                    self._running.discard(call)
                del call  # or its tensors would stay until the next one comes

    def _next(self) -> Call | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            call = self._waiting.popleft()
            self._running.add(call)
            return call

    def _make_mirror(self) -> Mirror:
        with self._mirror_seconds.time():
            return self._model.make_mirror()

    def _run(self, call: Call, lane: int) -> None:
        self._in_use.inc()
        try:
            mirror = self._mirror(call, lane)
            run(call, mirror, self._metrics, self._batch)
            call.wait_until_read()
        except (Exception, SystemExit) as error:  # whatever a stranger's network raises
            self._end(call, lane, error)
        finally:
            self._in_use.dec()
            left = self._mirrors[lane]
            if left and not left.is_clean():
                self._drop(lane, "hooks")
            elif left and self._model.keeps_state and not call.whole_pass:
                self._drop(lane, "unfinished")

    def _mirror(self, call: Call, lane: int) -> Mirror:
        mirror = self._mirrors[lane]
        if mirror is None:
            began = time.monotonic()
            mirror = self._mirrors[lane] = self._make_mirror()
            call.mirror_seconds = time.monotonic() - began
        return mirror

    def _end(self, call: Call, lane: int, error: Exception | SystemExit) -> None:
        why = error if isinstance(error, Refusal) else NetworkFailed(self._model.name)
        if is_out_of_memory(error):
            why = OutOfMemory(self._model.name, str(self._model.device))
            free_cache(self._model.device)
        call.stop(why)
        about = {"method": "Introspect", "model": self._model.name, "request_id": call.request_id, "last_layer": call.last_layer}
        if isinstance(why, NetworkFailed | OutOfMemory):
            self._drop(lane, "raised")
            log.error("the introspection failed", exc_info=error, **about)
        else:
            log.info("the introspection was stopped", reason=str(error), **about)

    def _drop(self, lane: int, reason: str) -> None:
        """Throws a mirror away that is not as it was when it was new."""
        self._dropped[reason].inc()
        self._mirrors[lane] = None
