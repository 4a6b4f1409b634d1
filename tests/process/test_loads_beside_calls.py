"""Models are loaded, replaced, parked and removed while callers hammer them, on every form: no answer is lost, wrong or mixed."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from cutaway.v1 import predict_pb2
from cutaway_server.models.model import Model
from cutaway_server.models.repository.manifest import Serving
from cutaway_server.prediction import batcher
from cutaway_server.prediction.engines.choosing import choose_in_process
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from cutaway_server.process.slot import Slot
from cutaway_server.rpc.open_inference import messages
from raw_calls import INFER, PREDICT, REQUESTS, scores
from server_process import wait_until

FORMS = {
    "serving thread": {"engine": "onnxruntime"},
    "own thread": {"engine": "eager"},
    "ordinary": {"engine": "onnxruntime", "fast_path": "off"},
}
CALLERS = 6


@dataclass
class Caller:
    """Calls "net" again and again, by either method, with one to sixteen digits.

    Attributes:
        versions: that answered, in order.
        ended: with what its last call was refused.
    """

    channel: grpc.Channel
    x: np.ndarray
    expected: dict[str, np.ndarray]
    versions: list[str] = field(default_factory=list)
    ended: grpc.StatusCode | None = None

    def call(self, seed: int, stop: threading.Event) -> None:
        draw = np.random.default_rng(seed)
        while not stop.is_set():
            path = (PREDICT, INFER)[draw.integers(2)]
            begin, end = sorted(draw.integers(0, 16, 2))
            try:
                answer = self.channel.unary_unary(path)(REQUESTS[path](self.x[begin : end + 1], "net"), timeout=30)
            except grpc.RpcError as error:
                self.ended = error.code()
                return
            version = version_of(path, answer)
            np.testing.assert_allclose(scores(path, answer), self.expected[version][begin : end + 1], rtol=1e-4, atol=1e-5)
            self.versions.append(version)


def version_of(path: str, answer: bytes) -> str:
    if path == PREDICT:
        return predict_pb2.PredictResponse.FromString(answer).version
    return messages.ModelInferResponse.FromString(answer).model_version


class Callers:
    """Several, from the start of a block to its end or until they are refused."""

    def __init__(self, callers: list[Caller], running: list["Future[None]"]) -> None:
        self._callers = callers
        self._running = running

    def wait_for_more(self, version: str, count: int = 3) -> None:
        """Until each has had so many further answers of this version."""
        had = [len(caller.versions) for caller in self._callers]

        def more() -> bool:
            assert not any(running.done() for running in self._running), self.endings()
            return all(caller.versions[before:].count(version) >= count for caller, before in zip(self._callers, had, strict=True))

        wait_until(more, 30)

    def endings(self) -> list[Any]:
        """How each ended, or None; raises what one found wrong."""
        for running in self._running:
            if running.done():
                running.result()
        return [caller.ended for caller in self._callers]

    def wait_for_ends(self) -> None:
        for running in self._running:
            running.result(40)

    def turns(self) -> set[str]:
        """The versions that each got, one after the other: what comes again and again stands once."""
        return {"".join(version for version, _ in groupby(caller.versions)) for caller in self._callers}


@contextmanager
def calling(server: Server, x: np.ndarray, expected: dict[str, np.ndarray]) -> Iterator[Callers]:
    stop = threading.Event()
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(CALLERS) as threads:
        callers = [Caller(channel, x, expected) for _ in range(CALLERS)]
        try:
            yield Callers(callers, [threads.submit(caller.call, seed, stop) for seed, caller in enumerate(callers)])
        finally:
            stop.set()


@pytest.fixture(scope="module")
def nets(models: dict[str, Model]) -> dict[str, Model]:
    """By version: two networks under one name."""
    return {version: replace(models[name], name="net", version=version) for version, name in (("1", "mnist"), ("2", "mnist-gap"))}


@pytest.fixture(scope="module")
def expected(nets: dict[str, Model], x: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {version: net.network(torch.from_numpy(x)).numpy() for version, net in nets.items()}


@pytest.fixture(scope="module", params=FORMS)
def served(request: pytest.FixtureRequest, nets: dict[str, Model]) -> Iterator[tuple[Server, dict[str, Model]]]:
    """A server without models, and both networks with the engine of its form."""
    given = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "threads": 1, "lanes": 1, "log_level": "error", "admin": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batcher, "_SHORT", 1.0)  # however slow the machine is now
        with Server([], load_settings({**given, **FORMS[request.param]})) as server:
            yield server, {version: choose_in_process(net, FORMS[request.param]["engine"], 1) for version, net in nets.items()}


def slot(net: Model) -> Slot:
    return Slot("net", net.version, lambda: (net, Serving()))


def told(server: Server, task: str, place: Slot) -> None:
    """Has the server's own thread do something with a model, as when its folder has changed."""
    server._host.submit(lambda: getattr(server._host, task)(place)).result(60)


def test_versions_come_and_go(served: tuple[Server, dict[str, Model]], x: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    server, nets = served
    old, new = slot(nets["1"]), slot(nets["2"])
    told(server, "load", old)
    with calling(server, x, expected) as callers:
        for _ in range(2):
            callers.wait_for_more("1")
            told(server, "load", new)
            callers.wait_for_more("2")
            told(server, "remove", new)
        callers.wait_for_more("1")
        told(server, "remove", old)
        callers.wait_for_ends()
        assert callers.endings() == [grpc.StatusCode.NOT_FOUND] * CALLERS
    assert callers.turns() == {"12121"}  # each caller waits for its answer, so what it gets next is never older


def test_what_is_replaced_in_place(served: tuple[Server, dict[str, Model]], x: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    """Under its own name and version, which say of each answer which network it must be from."""
    server, nets = served
    place = slot(nets["1"])
    told(server, "load", place)
    with calling(server, x, expected) as callers:
        callers.wait_for_more("1")
        for version in "212":
            place.load = lambda net=nets[version]: (net, Serving())
            told(server, "load", place)
            callers.wait_for_more(version)
    assert callers.endings() == [None] * CALLERS
    assert callers.turns() == {"1212"}
    told(server, "remove", place)


def test_what_is_parked_is_loaded_again_by_the_next_call(
    served: tuple[Server, dict[str, Model]], x: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    server, nets = served
    place = slot(nets["1"])
    told(server, "load", place)
    request = messages.RepositoryModelUnloadRequest(model_name="net").SerializeToString()
    with calling(server, x, expected) as callers, grpc.insecure_channel(server.address) as channel:
        for _ in range(5):
            channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")(request, timeout=30)
            callers.wait_for_more("1")
    assert callers.endings() == [None] * CALLERS
    told(server, "remove", place)
