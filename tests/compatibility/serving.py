"""A server of the matrix's networks, in a process of its own."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

import cutaway
from compatibility.networks import OWN, Entry
from cutaway_server.models.repository.add import add
from server_process import run_server

HERE = Path(__file__).parent
ONE_THREAD = ["--threads", "1", "--lane-threads", "1", "--max-batch", "1", "--engine", "eager", "--lanes", "1"]
BOUNDED = ["--lazy", "--model-memory-mib", "700", "--call-timeout", "300"]


@contextlib.contextmanager
def serving(entries: Sequence[Entry]) -> Iterator[cutaway.Client]:
    """Writes a folder of models, and asks a server of it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for entry in entries:
            write(Path(folder, "models"), entry)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent / "with_torchvision"), os.environ.get("PYTHONPATH", "")]))
        flags = ["--models", f"{folder}/models", "--allow-code", "--device", "cpu", *ONE_THREAD, *BOUNDED]
        with run_server(*flags) as server, cutaway.Client(server.address, timeout=300) as client:
            yield client


def write(root: Path, entry: Entry) -> None:
    """The folder of one model, as `cutaway model add` writes it."""
    weights = root.parent / "state.pt"
    torch.save(entry.build().state_dict(), weights)
    content = {"network": entry.source, "inputs": [{"shape": list(shape)} for shape in entry.shapes], "head": entry.head}
    files = {"module.py": HERE / "own.py"} if entry.place == OWN else {}
    add(root, entry.model, 1, content, weights=weights, files=files, check=lambda path, version: None)
    weights.unlink()
