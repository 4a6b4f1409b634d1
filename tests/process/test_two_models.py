"""The limits of one model leave the others their room, and the errors and health theirs."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import nn

import cutaway
from cutaway_server.models.model import InputSpec
from cutaway_server.models.prepare import prepare
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from server_process import metric_at, wait_until

WAITING = 40
STOP = torch.full((1, 2), 7.0)


class Gate(nn.Module):
    """Waits at 7s until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x == 7).all():
            GATE.wait(60)
        return self.fc(x)


GATE = threading.Event()


@pytest.fixture(params=["auto", "off"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """In both forms of Predict."""
    GATE.clear()
    spec = (InputSpec("x", torch.float32, (-1, 2)),)
    models = [prepare(Gate(), name=name, inputs=spec) for name in ("one", "two")]
    settings = load_settings(
        {
            "listen": "127.0.0.1:0",
            "metrics": "127.0.0.1:0",
            "lanes": 1,
            "max_waiting": WAITING,
            "max_waiting_introspections": WAITING,
            "max_batch": 1,
            "threads": 1,
            "fast_path": request.param,
        }
    )
    with Server(models, settings) as running:
        yield running
        GATE.set()


@pytest.mark.parametrize("method", ["predict", "introspect"])
def test_every_place_of_every_model_is_taken(server: Server, method: str) -> None:
    look = {"layers": ["fc"]} if method == "introspect" else {}
    with cutaway.Client(server.address, timeout=60) as client, ThreadPoolExecutor(2 * WAITING + 8) as callers:
        taken = ["one", "two"] * (1 + WAITING)
        held = [callers.submit(getattr(client, method), model, STOP, **look) for model in taken]
        gauge = f"cutaway_{method}ions_waiting"
        for model in ("one", "two"):  # one runs, and as many wait as may
            wait_until(lambda model=model: metric_at(server.metrics_address, gauge, model=model) == WAITING, seconds=30)
            with pytest.raises(cutaway.ResourceExhausted):
                getattr(client, method)(model, STOP, **look)
        began = time.monotonic()
        with pytest.raises(cutaway.NotFound):
            getattr(client, method)("three", STOP, **look)
        assert len(client.models()) == 2
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert time.monotonic() - began < 20
        GATE.set()
        for answer in held:
            assert answer.result().scores.shape == (1, 2)
