"""Ends streams whose reader stands still: a send that gRPC does not take blocks its thread without a limit of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from cutaway_server.errors import ReaderStalled, Refusal

_PAUSE_S = 1.0  # past its deadline, in which a reader that only pauses may still be told so


class Watched(Protocol):
    """What is being sent: an introspection, or a call that waits for nothing else."""

    deadline: float

    def stop(self, why: Refusal, /) -> None:
        """Ends it."""


class StallWatch:
    """One thread that looks at all streams a few times a second.

    Args:
        stall_s: how long a send may take.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._streams: dict[int, Stream] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stall-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def watching(self, call: Watched, cancel: Callable[[], object]) -> Iterator["Stream"]:
        """Watches one stream; `cancel` ends its RPC when its reader stalls. One that only pauses is told how its call ended."""
        stream = Stream(call, cancel)
        with self._lock:
            self._streams[id(stream)] = stream
        try:
            yield stream
        finally:
            with self._lock:
                del self._streams[id(stream)]

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closed.wait(0.1):
            self._look()

    def _look(self) -> None:
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            stream.end_if_stalled(self._stall_s)


class Stream:
    """One stream's sends."""

    def __init__(self, call: Watched, cancel: Callable[[], object]) -> None:
        self._call = call
        self._cancel = cancel
        self._since: float | None = None

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around each send."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def end_if_stalled(self, stall_s: float) -> None:
        """Called by the watch."""
        since, now = self._since, time.monotonic()
        if since is None:
            return
        if now - since > stall_s:
            self._call.stop(ReaderStalled(stall_s))
            self._cancel()
        elif now > self._call.deadline + _PAUSE_S:
            self._cancel()
