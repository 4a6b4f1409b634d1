"""A real server in a process of its own, for tests."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from prometheus_client.parser import text_string_to_metric_families


@dataclass
class ServerProcess:
    """A server that runs: where it listens, its metrics, its log."""

    process: subprocess.Popen[str]
    address: str
    metrics_address: str
    said: str
    _log: IO[str]

    def metric(self, sample: str, **labels: str) -> float:
        """The sum over all samples of this name whose labels include these, as a scrape sees it now."""
        return metric_at(self.metrics_address, sample, **labels)

    def log(self) -> str:
        """What it has written to standard error so far."""
        self._log.seek(0)
        return self._log.read()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal and waits; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def run_server(*flags: str, command: Sequence[str] = (sys.executable, "-m", "cutaway")) -> Iterator[ServerProcess]:
    """`cutaway serve` with these flags on free loopback ports, killed at the end if it still runs."""
    addresses = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with TemporaryFile("w+") as log:
        arguments = [*command, "serve", *addresses, *flags]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            try:
                yield _started(process, log)
            finally:
                process.kill()


def _started(process: subprocess.Popen[str], log: IO[str]) -> ServerProcess:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if listening := re.search(r"listening on (\S+)", line):
            metrics = re.search(r"http://(\S+)/metrics", said)
            assert metrics is not None
            return ServerProcess(process, listening[1], metrics[1], said, log)
    log.seek(0)
    raise AssertionError(f"the server did not start: {said}{log.read()}")


def metric_at(address: str, sample: str, **labels: str) -> float:
    """As ServerProcess.metric, of the metrics at HOST:PORT."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(
        found.value
        for family in families
        for found in family.samples
        if found.name == sample and labels.items() <= found.labels.items()
    )


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Polls a condition until it holds.

    Raises:
        AssertionError: it did not in time.
    """
    pause, end = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        pause.wait(0.01)
