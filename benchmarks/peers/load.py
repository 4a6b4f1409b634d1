"""Starts a server, waits for its first answer, puts load on it, and stops it."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from environments import LOADGEN, python_of, request_file
from messages import scores
from processes import cpu_seconds, family, machine_cpu_seconds, memory_mib
from server import PORTS, Job, Server

ROOT = Path(__file__).parents[2]
START_LIMIT = 180  # seconds
STOP_LIMIT = 15
LOAD_LIMIT = 90  # beyond the time that was asked for
WARM_UP = 1  # seconds of load before each measurement
QUIET = 0.15  # of a CPU: that others may take before a measurement begins
QUIET_LIMIT = 10  # seconds that it waits for them
TOLERANCE = 1e-3  # of the greatest score: engines differ in the last bits
_SOON = [(f"grpc.{name}_reconnect_backoff_ms", 50) for name in ("initial", "min", "max")]


class Broken(Exception):
    """A server did not start, gave wrong answers, or failed under load."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    job: Job
    process: subprocess.Popen[bytes]
    start_seconds: float

    def load(self, callers: int, seconds: float, warm_up: float = WARM_UP) -> dict[str, Any]:
        """What so many callers saw.

        Raises:
            Broken: not one call was answered, or some failed.
        """
        wait_until_quiet(self.process.pid)
        request = request_file(self.job.home, self.server, self.job.network)
        program = [Path(self.job.home) / LOADGEN, f"127.0.0.1:{self.job.port}", self.server.protocol.method, request]
        before = machine_cpu_seconds(), cpu_seconds(self.process.pid), _children_cpu_seconds(), time.monotonic()
        arguments = [*map(str, program), str(callers), str(seconds), str(warm_up)]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds + warm_up + LOAD_LIMIT)
        after = machine_cpu_seconds(), cpu_seconds(self.process.pid), _children_cpu_seconds(), time.monotonic()
        if done.returncode:
            raise Broken(f"the load ended with {done.returncode}: {done.stderr.strip()[-200:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        if found["failed"] or not found["answered"]:
            raise Broken(f"{callers} callers: {found['answered']} answers, {found['failed']} failed, last with code {found['code']}")
        machine, own, client, wall = (late - early for early, late in zip(before, after, strict=True))
        calls = (found["answered"] + found["refused"]) * wall / found["seconds"]  # about, with those of the warm-up
        return {"callers": callers, **found, "server_cpu_ms": 1e3 * own / calls, "others_cpu": (machine - own - client) / wall}


@contextmanager
def running(server: Server, network: str, engine: str, callers: int, home: Path) -> Iterator[Running]:
    """A server in a process of its own, from its first answer on, until the block ends.

    Raises:
        Broken: it does not answer, or its scores are not the network's.
    """
    job = Job(network, engine, callers, free_ports(), str(home))
    python = python_of(home, server)
    command = server.command(python, job)
    ours = (Path(__file__).parent, ROOT / "client/python", ROOT / "server")
    own = {"PYTHONPATH": os.pathsep.join(map(str, ours)), "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    environment = os.environ | own | {"XDG_CACHE_HOME": str(home / "cache")} | job.to_environment()
    with (home / "logs" / f"{server.name}-{network}-{engine}.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=job.folder(server.name), env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            answer = first_answer(server, job, process)
            seconds = time.monotonic() - began
            check(server, job, answer)
            yield Running(server, job, process, seconds)
        finally:
            stop(process, server)


def free_ports() -> int:
    """The first of some free ports in a row."""
    for first in range(20000, 30000, PORTS):
        with socket.socket() as probe:
            if all(probe.connect_ex(("127.0.0.1", port)) for port in range(first, first + PORTS)):
                return first
    raise Broken("no free ports")


def first_answer(server: Server, job: Job, process: subprocess.Popen[bytes]) -> bytes:
    """Asks until there is an answer."""
    request = request_file(job.home, server, job.network).read_bytes()
    end = time.monotonic() + START_LIMIT
    with grpc.insecure_channel(f"127.0.0.1:{job.port}", options=[*_SOON, ("grpc.max_send_message_length", -1)]) as channel:
        ask = channel.unary_unary(server.protocol.method)
        while True:
            try:
                answer: bytes = ask(request, timeout=10)
            except grpc.RpcError as error:
                if process.poll() is not None:
                    raise Broken(f"ended with status {process.returncode}; see its log") from error
                if time.monotonic() > end:
                    raise Broken(f"no answer within {START_LIMIT} s: {error.details()}") from error
                time.sleep(0.02)
            else:
                return answer


def check(server: Server, job: Job, answer: bytes) -> None:
    """Whether the scores are those of the network itself."""
    if job.engine == "none":
        return
    found, known = scores(server.protocol, answer), np.load(job.networks / f"{job.network}.npz")["scores"].ravel()
    if found.shape != known.shape or np.abs(found - known).max() > TOLERANCE * np.abs(known).max():
        raise Broken("its scores are not the network's")


def stop(process: subprocess.Popen[bytes], server: Server) -> None:
    """Tells it to end; what then still runs of it is killed."""
    started = family(process.pid)
    if process.poll() is None:
        process.send_signal(server.stop)
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in started[1:]:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, 9)


def wait_until_quiet(pid: int) -> None:
    """For a while at most: until other processes than this family leave the CPUs alone."""
    end = time.monotonic() + QUIET_LIMIT
    while time.monotonic() < end:
        before = machine_cpu_seconds() - cpu_seconds(pid)
        time.sleep(0.5)
        if machine_cpu_seconds() - cpu_seconds(pid) - before < 0.5 * QUIET:
            return


def _children_cpu_seconds() -> float:
    used = os.times()
    return used.children_user + used.children_system
