"""Predict and Introspect on a GPU beside the bare network on the same one: resnet152 with random weights, 224 x 224.

The bare network runs in this process, from arrays to arrays; the server is a process of its own. They take turns.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from own_process import running_server
from side_by_side import Row, Sides, run, times
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import cutaway
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare
from cutaway_server.process.tuning import keep_freed_blocks
from torchvision_shim import models

NAME, SHAPE, DEVICE = "resnet152", (3, 224, 224), "cuda:0"
MIDDLE = "layer2.7"
CALLERS = 8
CALLS = 20


def network() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = models.resnet152(weights=None)
    return made.to(DEVICE).eval()


def served() -> Model:
    return prepare(network(), name=NAME, inputs=(InputSpec("x", torch.float32, (-1, *SHAPE)),), factory=models.resnet152)


class Stage:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._clients: dict[str, cutaway.Client] = {}

    def client(self, engine: str) -> cutaway.Client:
        if engine not in self._clients:
            server = self._stack.enter_context(running_server(served, engine=engine))
            self._clients[engine] = self._stack.enter_context(cutaway.Client(server.address, timeout=60))
        return self._clients[engine]

    @cached_property
    def callers(self) -> ThreadPoolExecutor:
        return self._stack.enter_context(ThreadPoolExecutor(CALLERS))

    @cached_property
    def network(self) -> nn.Module:
        return network()

    def bare(self, x: np.ndarray) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.inference_mode():
                scores: Tensor = self.network(torch.from_numpy(x).to(DEVICE)).cpu()
                return scores

        return call


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *SHAPE), np.float32)


def predict(stage: Stage, engine: str, count: int) -> Sides:
    x, client = images(count), stage.client(engine)
    return Sides(times(lambda: client.predict(NAME, x), CALLS), times(stage.bare(x), CALLS), f"1 caller, {count} images a call")


def predict_at_once(stage: Stage, engine: str) -> Sides:
    x, client = images(1), stage.client(engine)

    def calls() -> list[None]:
        return list(stage.callers.map(lambda _: client.predict(NAME, x) and None, range(CALLERS)))

    def bare() -> None:
        for _ in range(CALLERS):
            stage.bare(x)()

    return Sides(times(calls, CALLS), times(bare, CALLS), f"{CALLERS} callers of 1 image; bare: one after the other")


def introspect(stage: Stage) -> Sides:
    x, client = images(1), stage.client("eager")
    call = times(lambda: client.introspect(NAME, x, layers=[MIDDLE]), CALLS)
    return Sides(call, times(stage.bare(x), CALLS), f"1 image, layer {MIDDLE}, with the prediction")


ROWS = (
    Row("predict", "Predict", "bare network", "<= 1.11", partial(predict, engine="eager", count=1)),
    Row("predict-8", "Predict of 8", "bare network", "<= 1.11", partial(predict, engine="eager", count=8)),
    Row("predict-at-once", f"{CALLERS} Predicts at once", "bare network", "<= 1.11", partial(predict_at_once, engine="eager")),
    Row("recorded", "Predict, cudagraphs", "bare network", "<= 1.11", partial(predict, engine="cudagraphs", count=1)),
    Row("recorded-8", "the same of 8", "bare network", "<= 1.11", partial(predict, engine="cudagraphs", count=8)),
    Row("recorded-at-once", f"{CALLERS} of them at once", "bare network", "<= 1.11", partial(predict_at_once, engine="cudagraphs")),
    Row("introspect", "Introspect, a middle layer", "bare network", "<= 1.3", introspect),
)

if __name__ == "__main__":
    keep_freed_blocks()  # as the server does: on both sides alike, what is sent needs no new pages each time
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else sys.exit("this PyTorch sees no GPU")
    run(__doc__, ROWS, lambda stack, threads: Stage(stack), {"network": NAME, "GPU": gpu})
