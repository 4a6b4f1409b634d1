"""A server of one's own: started on free ports of this machine, stopped at the end."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import click

SERVE = (sys.executable, "-m", "cutaway", "serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
START_LIMIT = 300  # seconds, for a slow machine that imports PyTorch for the first time, and again to try a folder of models
STOP_LIMIT = 30  # seconds


@contextmanager
def running_server(command: Sequence[str] = SERVE) -> Iterator[str]:
    """A server's address. Stopped by SIGTERM, as an orchestrator stops one; killed where the block fails."""
    at_once = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=at_once, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with process:
        assert process.stdout is not None
        listener = _Listener(process.stdout)
        try:
            yield listener.address()
            process.send_signal(signal.SIGTERM)
            if status := process.wait(STOP_LIMIT):
                raise click.ClickException(f"the server stopped with status {status}")
        finally:
            process.kill()
            listener.join(STOP_LIMIT)


class _Listener(threading.Thread):
    """Reads what a server prints, all its life, so that it never waits for a reader."""

    def __init__(self, output: IO[str]) -> None:
        super().__init__(daemon=True)
        self._output = output
        self._lines: deque[str] = deque(maxlen=20)
        self._address: str | None = None
        self._known = threading.Event()
        self.start()

    def address(self) -> str:
        """Where the server says that it listens."""
        in_time = self._known.wait(START_LIMIT)
        if self._address is None:
            said = "".join(self._lines).strip() or "nothing"
            within = "" if in_time else f" within {START_LIMIT} s"
            raise click.ClickException(f"the server did not start{within}; it said: {said}")
        return self._address

    def run(self) -> None:
        """Reads until the server closes its end."""
        for line in self._output:
            self._lines.append(line)
            if self._address is None and (found := re.search(r"listening on (\S+:\d+)", line)):
                self._address = found[1]
                self._known.set()
        self._known.set()
