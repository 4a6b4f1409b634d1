from collections.abc import Iterator

import pytest

import cutaway

from .fake import FakeServer, running


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running() as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[cutaway.Client]:
    with cutaway.Client(server.address, timeout=10) as connected:
        yield connected
