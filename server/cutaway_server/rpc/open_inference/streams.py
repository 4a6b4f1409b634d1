"""The open streams of ModelStreamInfer: how many there are, and how they end when the server does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Never

import grpc

from cutaway_server.errors import Busy, Refusal, ShuttingDown

MAX_STREAMS = 64  # each holds a thread while it is open


class OpenStream:
    """One stream. For each of its requests it stands for the call that it comes in."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._ended = not context.add_callback(self._end)
        self._stop: Callable[[], None] | None = None
        self._idle = True
        self._closing = False

    def requests(self, requests: Iterator[Any]) -> Iterator[Any]:
        """Each when the one before is answered.

        Raises:
            ShuttingDown: the server ends.
        """
        for request in requests:
            with self._lock:
                self._idle = False
            yield request
            with self._lock:
                self._stop, self._idle = None, True
                if self._closing:
                    raise ShuttingDown

    def on_cancel(self, act: Callable[[], None]) -> None:
        """Does that when the stream ends while the present request runs, or now, if it has ended."""
        with self._lock:
            self._stop, ended = act, self._ended
        if ended:
            act()

    def cancel(self) -> object:
        """Ends the stream."""
        return self._context.cancel()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Ends it after the request that runs; one that waits for its client, at once."""
        with self._lock:
            self._closing = True
            idle = self._idle
        if idle:
            self.cancel()

    def _end(self) -> None:
        with self._lock:
            self._ended, stop = True, self._stop
        if stop:
            stop()


class Streams:
    """All of them."""

    def __init__(self) -> None:
        self._open: set[OpenStream] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def open(self, context: grpc.ServicerContext) -> Iterator[OpenStream]:
        """One more.

        Raises:
            Busy: as many are open as may be.
            ShuttingDown: the server ends.
        """
        stream = OpenStream(context)
        with self._lock:
            if self._closed:
                raise ShuttingDown
            if len(self._open) >= MAX_STREAMS:
                raise Busy("streams", MAX_STREAMS, retry_after_s=1.0)
            self._open.add(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._open.discard(stream)

    def close(self) -> None:
        """Ends each after the request that it is at."""
        with self._lock:
            self._closed = True
            streams = list(self._open)
        for stream in streams:
            stream.close()


def tell(context: grpc.ServicerContext, refusal: Refusal) -> Never:
    """For a request whose refusal is an answer and no end."""
    raise refusal
