from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cutaway
from cutaway.cli import main
from cutaway.v1 import inference_pb2

from . import fake
from .fake import FakeServer, running


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running() as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[cutaway.Client]:
    with cutaway.Client(server.address, timeout=10) as connected:
        yield connected


@pytest.fixture
def run(server: FakeServer) -> Callable[..., Result]:
    """The command, against a server that answers everything."""
    server.answers["ListModels"] = fake.models()
    server.answers["GetModel"] = inference_pb2.GetModelResponse(model=fake.model(layers=True))
    server.answers["Predict"] = fake.prediction(np.array([[0.5, 4.0, -1.0]], np.float32), top=[1])
    server.answers["Introspect"] = fake.complete_stream()
    return lambda *words: CliRunner().invoke(main, [*words, "--server", server.address])


@pytest.fixture
def digit(tmp_path: Path) -> str:
    file = tmp_path / "digit.png"
    Image.new("L", (28, 28)).save(file)
    return str(file)
