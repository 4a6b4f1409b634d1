"""One introspection under way: what the lane that computes and the thread that sends have in common."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from cutaway_server.errors import DeadlinePassed, ReaderStalled, Refusal
from cutaway_server.introspection.events import Event, Finished, Piece
from cutaway_server.introspection.plan import Plan
from cutaway_server.introspection.plan_cams import Picture
from cutaway_server.models.preprocessing import Placement

Draw = Callable[[Picture, Tensor, tuple[Placement, ...], int, tuple[int, ...]], bytes]


class Call:
    """A queue of events bounded in bytes, and the reason why it was stopped, if it was.

    Args:
        arguments: the network's.
        buffer_bytes: how much may wait for the reader; the forward pass waits where there is more.
        deadline: on the monotonic clock, in seconds.
        stall_s: how long the reader may stand still while the forward pass waits for it.
        plan_seconds: what making the plan took.
        draw: makes a PNG file of one sample's map: which picture, the map [h, w], where it lies (none or one), which sample, and
            the size of the network's input.
    Attributes:
        last_layer: the last layer that has run, among those followed; empty before the first.
        mirror_seconds: what building a mirror for it took, where one was missing.
        whole_pass: whether the network ran to its end.
    """

    def __init__(
        self,
        plan: Plan,
        arguments: tuple[Tensor, ...],
        *,
        request_id: str,
        buffer_bytes: int,
        deadline: float,
        stall_s: float,
        plan_seconds: float = 0.0,
        draw: Draw,
    ) -> None:
        self.plan = plan
        self.arguments = arguments
        self.request_id = request_id
        self.arrived = time.monotonic()
        self.deadline = deadline
        self.plan_seconds = plan_seconds
        self.draw = draw
        self.last_layer = ""
        self.mirror_seconds = 0.0
        self.whole_pass = False
        self._buffer_bytes = buffer_bytes
        self._stall_s = stall_s
        self._events: deque[Event] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._stopped: Refusal | None = None

    @property
    def stopped(self) -> Refusal | None:
        """Why it was stopped; None where it was not."""
        return self._stopped

    def stop(self, why: Refusal) -> None:
        """Ends it from any thread: the forward pass at its next layer, the events at once. The first reason counts."""
        with self._changed:
            self._stopped = self._stopped or replace(why)
            self._events.clear()
            self._held = 0
            self._changed.notify_all()

    def check(self) -> None:
        """Raises:
        Refusal: it was stopped, or its deadline passed.
        """
        if self._stopped is None and time.monotonic() > self.deadline:
            after = f", after layer {self.last_layer!r}" if self.last_layer else ""
            self.stop(DeadlinePassed(f"while the network ran{after}"))
        self._raise_if_stopped()

    def put(self, event: Event) -> float:
        """Hands an event on, after waiting for room; returns how long that took, in seconds.

        Raises:
            Refusal: it was stopped, its deadline passed or its reader stood still.
        """
        began = time.monotonic()
        size = _size(event)
        with self._changed:
            while self._stopped is None and self._held and self._held + size > self._buffer_bytes:
                self._wait_for_reader()
            self._raise_if_stopped()
            self._events.append(event)
            self._held += size
            self._changed.notify_all()
        return time.monotonic() - began

    def wait_until_read(self, down_to: int = 0) -> None:
        """Waits until no more than so many bytes are left for the reader, or the call was stopped."""
        with self._changed:
            while self._stopped is None and self._held > down_to:
                try:
                    self._wait_for_reader()
                    self._raise_if_stopped()
                except Refusal:
                    return

    def events(self) -> Iterator[Event]:
        """What was put, up to Finished. An event's bytes count as held until the next one is asked for.

        Raises:
            Refusal: what stopped it.
        """
        while True:
            with self._changed:
                while not self._events and self._stopped is None:
                    self._changed.wait(max(0.0, self.deadline - time.monotonic()) + 1)
                    if time.monotonic() > self.deadline + 1:
                        break
                if self._stopped is None and not self._events:
                    self._stopped = DeadlinePassed("before the introspection was done")
                self._raise_if_stopped()
                event = self._events.popleft()
            yield event
            with self._changed:
                self._held = max(0, self._held - _size(event))
                self._changed.notify_all()
            if isinstance(event, Finished):
                return

    def _wait_for_reader(self) -> None:
        """One wait for the sender, at the longest until the deadline or the reader's patience is over."""
        held = self._held
        patience = min(self._stall_s, self.deadline - time.monotonic())
        if self._changed.wait_for(lambda: self._stopped is not None or self._held < held, max(0.0, patience)):
            return
        late = time.monotonic() >= self.deadline
        self._stopped = DeadlinePassed("while the stream was not read") if late else ReaderStalled(self._stall_s)
        self._changed.notify_all()

    def _raise_if_stopped(self) -> None:
        if self._stopped is not None:
            raise replace(self._stopped)  # a copy: its traceback leads to the frames that hold the call and all tensors


def _size(event: Event) -> int:
    return len(event.data) if isinstance(event, Piece) else 0
