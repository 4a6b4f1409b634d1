"""What is known of a server that is compared, and what it is told when it starts. Imported in every environment."""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from messages import Protocol

PORTS = 5  # in a row, for servers that want more than one


@dataclass(frozen=True)
class Job:
    """What a server is started for.

    Attributes:
        network: `mnist` or `lite0`.
        engine: that runs it; `auto` is a server's own choice.
        callers: how many will call at the same time, at least.
        port: of gRPC, at 127.0.0.1; the next ones are free for it too.
        home: the folder with environments, networks and logs.
    """

    network: str
    engine: str
    callers: int
    port: int
    home: str

    @property
    def networks(self) -> Path:
        """Where weights and ONNX files are."""
        return Path(self.home) / "networks"

    def folder(self, name: str) -> Path:
        """A folder for a server's own files, which may have some already."""
        made = Path(self.home) / "run" / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def to_environment(self) -> dict[str, str]:
        """For the process that serves, and those that it starts."""
        return {"PEERS_JOB": json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Job":
        """In such a process."""
        return cls(**json.loads(os.environ["PEERS_JOB"]))


@dataclass(frozen=True)
class Server:
    """A server that is compared.

    Attributes:
        name: of its module in `servers`, which is run as a program, and of its environment.
        title: for tables.
        settings: how it is set up, in words.
        engines: that can run the networks in it.
        networks: that it serves.
        requirements: of its environment, for pip; none: it runs in the repository's own.
        python: that makes its environment.
        own_start: callers for whom a network's server is set up in another way than for the others.
        start: seconds that it takes to start and to end, about.
        warm_up: seconds of load that it needs after each start before it is measured, by network.
        stop: the signal at which it ends.
    """

    name: str
    title: str
    settings: str
    protocol: Protocol
    engines: tuple[str, ...] = ("eager",)
    networks: tuple[str, ...] = ("mnist", "lite0")
    requirements: tuple[str, ...] = ()
    python: str = sys.executable
    own_start: tuple[tuple[str, int], ...] = ()
    start: float = 5
    warm_up: tuple[tuple[str, float], ...] = ()
    stop: signal.Signals = signal.SIGTERM

    def model(self, network: str) -> str:
        """What it calls a network."""
        return network

    def input(self, network: str) -> str:
        """What it calls the network's input."""
        return "x"

    def warm_up_seconds(self, network: str) -> float:
        """Of load, after a start with a network."""
        return dict(self.warm_up).get(network, 0.0)

    def command(self, python: str, job: Job) -> list[str]:
        """Starts it; what it is started for stands in the environment."""
        return [python, "-P", "-m", f"servers.{self.name}"]  # -P: `import kserve` must not find servers/kserve.py
