"""A server in a process of its own, of a model that is made there."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cutaway_server.models.model import Model
from cutaway_server.models.threads import use_cpu_threads
from cutaway_server.process.life import Server
from cutaway_server.process.logs import configure_logging
from cutaway_server.process.settings import load_settings
from cutaway_server.process.tuning import keep_freed_blocks, wait_briefly

STOP_LIMIT = 30  # seconds


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    address: str
    pipe: Connection

    def cpu_seconds(self) -> float:
        """CPU time that its process has taken so far, of all threads."""
        self.pipe.send("cpu")
        seconds: float = self.pipe.recv()
        return seconds


@contextmanager
def running_server(make: Callable[[], Model], **settings: Any) -> Iterator[Running]:
    """A server, set up as `cutaway serve` does it, which ends with the block.

    Args:
        make: a function that the other process can import.
        settings: as the flags of `cutaway serve`.
    """
    wait_briefly()  # by the environment, so it holds for the process that starts now
    spawn = multiprocessing.get_context("spawn")  # gRPC does not bear a fork
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(make, settings, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Running(ours.recv(), ours)
    finally:
        ours.close()
        process.join(STOP_LIMIT)
        process.kill()


def _serve(make: Callable[[], Model], flags: dict[str, Any], pipe: Connection) -> None:
    """Serves until the other end of the pipe closes, and tells its CPU time when asked."""
    settings = load_settings({"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "log_level": "error", **flags})
    configure_logging(settings)
    keep_freed_blocks()
    use_cpu_threads(settings.lane_threads)
    with Server([make()], settings) as server:
        pipe.send(server.address)
        try:
            while pipe.recv():
                pipe.send(time.process_time())
        except EOFError:
            return
