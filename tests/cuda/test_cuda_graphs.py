"""Kernels recorded on a GPU: taken where they give what the network gives, whatever else runs there meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway_server.models.arrays import to_array
from cutaway_server.models.model import InputSpec, Model, NotServable
from cutaway_server.models.prepare import prepare
from cutaway_server.prediction.engines.choosing import choose_in_process
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.prediction.engines.opening import open_engine
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings

pytestmark = pytest.mark.cuda
DEVICE = "cuda:0"
SHAPE = (3, 32, 32)
SETTINGS = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "lanes": 2, "engine": "cudagraphs", "log_level": "error"}


class Deep(nn.Module):
    """Many small kernels: launching them takes longer than running them."""

    def __init__(self) -> None:
        super().__init__()
        layers = [layer for _ in range(30) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())]
        self.stem, self.blocks, self.fc = nn.Conv2d(3, 16, 3), nn.Sequential(*layers), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Waits(Deep):
    """Looks at a value on its way, for which the CPU has to wait: that cannot be recorded."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.fc(self.blocks(y if y.sum().item() > 0 else -y).mean((2, 3)))


class Keeps(Deep):
    """Has a table for the size that came last."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if getattr(self, "table", None) is None or self.table.shape != y.shape:
            self.table = torch.linspace(0, 1, y.numel(), device=y.device).reshape(y.shape)
        return self.fc(self.blocks(y + self.table).mean((2, 3)))


def made(name: str, build: type[nn.Module] = Deep, autocast: torch.dtype | None = None) -> Model:
    torch.manual_seed(len(name))
    inputs = (InputSpec("x", torch.float32, (-1, *SHAPE)),)
    return prepare(build().to(DEVICE), name=name, inputs=inputs, factory=build, autocast=autocast)


def drawn(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def bare(model: Model, x: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.network(x.to(DEVICE)).float().cpu().numpy()


@pytest.mark.parametrize("autocast", [None, torch.float16])
def test_each_size_gives_what_eager_gives_whatever_ran_before(autocast: torch.dtype | None) -> None:
    model = choose_in_process(made("deep", autocast=autocast), "cudagraphs", 1)
    assert (model.engine.name, [timing.batch for timing in model.engine.timings]) == ("cudagraphs", [1, 8])
    assert model.engine.deviation <= model.engine.tolerance
    engine, eager = open_engine(model), Eager(model)
    for turn in range(3):  # eager, recorded, replayed
        for count in (1, 2, 5, 8, 1, 3):
            x = (to_array(drawn(count, seed=10 * turn + count)),)
            np.testing.assert_array_equal(engine.run(x), eager.run(x))
    first = engine.run((to_array(drawn(5)),))
    kept = first.copy()
    engine.run((to_array(drawn(5, seed=1)),))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(("build", "why"), [(Waits, "it cannot be recorded"), (Keeps, "it keeps tensors that change")])
def test_what_cannot_be_recorded_is_not_taken_and_harms_no_other(build: type[nn.Module], why: str) -> None:
    deep = choose_in_process(made("deep"), "cudagraphs", 1)
    engine = open_engine(deep)
    x = (to_array(drawn(2)),)
    expected = Eager(deep).run(x)
    for _ in range(3):
        with pytest.raises(NotServable, match=f"engine cudagraphs cannot run it: {why}"):
            choose_in_process(made("other", build), "cudagraphs", 1)
        torch.cuda.empty_cache()  # raises where PyTorch believes that something is being recorded
        np.testing.assert_array_equal(engine.run(x), expected)
        again = open_engine(choose_in_process(made("deep"), "cudagraphs", 1))
        for _ in range(3):
            np.testing.assert_array_equal(again.run(x), expected)


def test_it_is_taken_where_it_is_named() -> None:
    assert choose_in_process(made("deep"), "auto", 1).engine.name == "eager"
    with pytest.raises(NotServable, match="engine onnxruntime cannot run it: it runs on cuda:0"):
        choose_in_process(made("deep"), "onnxruntime", 1)


def test_many_models_are_recorded_while_others_run() -> None:
    """More streams than PyTorch has: some are shared."""
    models = [choose_in_process(made("deep" * (place + 1)), "cudagraphs", 1) for place in range(12)]

    def call(model: Model) -> None:
        engine, eager = open_engine(model), Eager(model)
        for turn in range(3):
            for count in range(1, 9):
                x = (to_array(drawn(count, seed=turn)),)
                np.testing.assert_array_equal(engine.run(x), eager.run(x))

    with ThreadPoolExecutor(len(models)) as threads:
        list(threads.map(call, models))


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: made(name) for name in ("one", "another")}


@pytest.fixture(scope="module")
def client(models: dict[str, Model]) -> Iterator[cutaway.Client]:
    with Server(list(models.values()), load_settings(SETTINGS)) as server, cutaway.Client(server.address, timeout=60) as client:
        yield client


def test_many_callers_of_two_models_while_layers_are_looked_at(client: cutaway.Client, models: dict[str, Model]) -> None:
    """Sizes come that were never seen, so some are recorded while other threads use the GPU."""

    def call(caller: int) -> None:
        name = ("one", "another")[caller % 2]
        for turn in range(30):
            x = drawn(1 + (caller + turn) % 7, seed=100 * caller + turn)
            expected = bare(models[name], x)
            if caller % 4 == 3:
                seen = client.introspect(name, x.numpy(), layers=["stem"])
                np.testing.assert_allclose(seen.scores, expected, rtol=1e-3, atol=1e-4)
            else:
                answer = client.predict(name, x.numpy())
                np.testing.assert_allclose(answer.scores, expected, rtol=1e-3, atol=1e-4)

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(call, range(8)))
    assert client.model("one").engine.name == "cudagraphs"
