"""Starts a server, waits for its first answer, puts load on it, and stops it."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from environments import LOADGEN, PYTHONPATH, python_of, request_file
from messages import scores
from processes import born, cpu_seconds, family, machine_cpu_seconds
from server import PORTS, Job, Server

START_LIMIT = 180  # seconds
STOP_LIMIT = 15
LOAD_LIMIT = 90  # beyond the time that was asked for
WARM_UP = 1  # seconds of load before each measurement
QUIET = 0.15  # of a CPU: that others may take before a measurement begins
_GLANCE = 0.25  # seconds
TOLERANCE = 1e-3  # of the greatest score: engines differ in the last bits
_SOON = [(f"grpc.{name}_reconnect_backoff_ms", 50) for name in ("initial", "min", "max")]


@dataclass(frozen=True)
class Conditions:
    """Of all measurements.

    Attributes:
        home: the folder in which all is set up.
        seconds: that one lasts, by network.
        wait: seconds at most until other programs leave the CPUs alone.
    """

    home: Path
    seconds: dict[str, float]
    wait: float


class Broken(Exception):
    """A server did not start, gave wrong answers, or failed under load."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    job: Job
    process: subprocess.Popen[bytes]
    start_seconds: float
    wait: float

    def load(self, callers: int, seconds: float, warm_up: float = WARM_UP) -> dict[str, Any]:
        """What so many callers saw.

        Raises:
            Broken: not one call was answered, or some failed.
        """
        wait_until_quiet(self.process.pid, self.wait)
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
            raise Broken(
                f"{callers} callers: {found['answered']} answers, {found['failed']} failed, last with code {found['code']}"
            )
        machine, own, client, wall = (late - early for early, late in zip(before, after, strict=True))
        per_call = 1e3 * own / found["calls"]
        return {"callers": callers, **found, "server_cpu_ms": per_call, "others_cpu": (machine - own - client) / wall}


@contextmanager
def running(server: Server, network: str, engine: str, callers: int, conditions: Conditions) -> Iterator[Running]:
    """A server in a process of its own, from its first answer on, until the block ends.

    Raises:
        Broken: it does not answer, or its scores are not the network's.
    """
    home = conditions.home
    job = Job(network, engine, callers, free_ports(), str(home))
    python = python_of(home, server)
    command, environment = server.command(python, job), environment_of(python, job)
    with (home / "logs" / f"{server.name}-{network}-{engine}.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=job.folder(server.name), env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            answer = first_answer(server, job, process)
            seconds = time.monotonic() - began
            check(server, job, answer)
            yield Running(server, job, process, seconds, conditions.wait)
        finally:
            stop(process, server)


def environment_of(python: str, job: Job) -> dict[str, str]:
    """For a server's process: our files, its own programs, and what it is started for."""
    path = {"PYTHONPATH": PYTHONPATH, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    return os.environ | path | {"XDG_CACHE_HOME": f"{job.home}/cache"} | job.to_environment()


def in_process(server: Server, network: str, engine: str, callers: int, conditions: Conditions) -> dict[str, Any]:
    """What a program measures that has neither server nor client.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    home, seconds = conditions.home, conditions.seconds[network]
    job, python = Job(network, engine, callers, 0, str(home)), python_of(home, server)
    wait_until_quiet(os.getpid(), conditions.wait)
    command = [*server.command(python, job), str(callers), str(seconds), str(WARM_UP)]
    limit = seconds + WARM_UP + LOAD_LIMIT
    done = subprocess.run(command, env=environment_of(python, job), check=True, capture_output=True, text=True, timeout=limit)
    return {"callers": callers, **json.loads(done.stdout)}


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
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise Broken(f"it has no {server.protocol.method}") from error
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
    started = {pid: born(pid) for pid in family(process.pid)}
    if process.poll() is None:
        process.send_signal(server.stop)
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, when in started.items():
        if when and born(pid) == when:  # the very same, not a later one of its number
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_until_quiet(pid: int, limit: float) -> None:
    """For a while at most: until other processes than this family leave the CPUs alone."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        before = machine_cpu_seconds() - cpu_seconds(pid)
        time.sleep(_GLANCE)
        if machine_cpu_seconds() - cpu_seconds(pid) - before < _GLANCE * QUIET:
            return


def _children_cpu_seconds() -> float:
    used = os.times()
    return used.children_user + used.children_system
