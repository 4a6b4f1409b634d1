"""Callers in a process of their own that call without a pause, so that their reading takes nothing from who measures."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import grpc

CALL_LIMIT = 20  # seconds, for one call


def reader(channel: grpc.Channel, path: str) -> Callable[[bytes], int]:
    """A call of a Predict or a stream: bytes there, the number of bytes that came back. Nothing is parsed."""
    if path.endswith("/Predict"):
        unary = channel.unary_unary(path)
        return lambda request: len(unary(request, timeout=CALL_LIMIT))
    stream = channel.unary_stream(path)
    return lambda request: sum(map(len, stream(request, timeout=CALL_LIMIT)))


class Busy:
    """The callers; they rest until they are told to begin."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    @contextmanager
    def calling(self, path: str, request: bytes, calls: list[int]) -> Iterator[None]:
        """They call until the block ends; how many calls they made is appended to `calls` then."""
        self._pipe.send((path, request))
        yield
        self._pipe.send(None)
        calls.append(self._pipe.recv())


@contextmanager
def busy_callers(address: str, callers: int) -> Iterator[Busy]:
    """So many callers of one server, each with a channel of its own. They end with the block."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(address, callers, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Busy(ours)
    finally:
        ours.close()
        process.join(CALL_LIMIT)
        process.kill()


def _work(address: str, callers: int, pipe: Connection) -> None:
    # A subchannel pool of its own gives each caller its own connection.
    channels = [grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(callers)]
    try:
        while True:
            path, request = pipe.recv()
            done, counts = threading.Event(), [0] * callers

            def call(caller: int, path: str = path, request: bytes = request) -> None:
                read = reader(channels[caller], path)
                while not done.is_set():  # noqa: B023
                    read(request)
                    counts[caller] += 1  # noqa: B023

            threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
            for thread in threads:
                thread.start()
            pipe.recv()
            done.set()
            for thread in threads:
                thread.join()
            pipe.send(sum(counts))
    except EOFError:
        return
