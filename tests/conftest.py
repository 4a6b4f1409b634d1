from collections.abc import Iterator
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import settings

import cutaway
from cutaway_server.models.builtin import load_builtin
from cutaway_server.models.model import Model
from server_process import ServerProcess, run_server

torch.set_num_threads(1)  # as the servers below: comparisons are bit for bit
settings.register_profile("untimed", deadline=None)  # whatever else the machine does
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What servers keep from one start to the next is the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def live_server() -> Iterator[ServerProcess]:
    """A quiet server whose predictions run alone. For tests that leave it as they found it."""
    with run_server("--threads", "1", "--max-batch", "1") as running:
        yield running


@pytest.fixture
def live(live_server: ServerProcess) -> Iterator[cutaway.Client]:
    with cutaway.Client(live_server.address, timeout=30) as connected:
        yield connected


@pytest.fixture(scope="session")
def eager() -> Iterator[cutaway.Client]:
    """A client of one like it whose Predict runs eager, as Introspect does: their scores are equal bit for bit."""
    flags = ("--threads", "1", "--max-batch", "1", "--engine", "eager")
    with run_server(*flags) as running, cutaway.Client(running.address, timeout=30) as connected:
        yield connected


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """[60, 28, 28] uint8, light on dark."""
    with files("cutaway_server.models.mnist").joinpath("digits.npz").open("rb") as file:
        return np.load(file)["x"]


@pytest.fixture(scope="session")
def x(digits: np.ndarray) -> np.ndarray:
    """[60, 1, 28, 28] float32, model-ready."""
    return ((digits[:, None] / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)).astype(np.float32)


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    """The built-in networks in this process."""
    return {name: load_builtin(name) for name in ("mnist", "mnist-gap")}
