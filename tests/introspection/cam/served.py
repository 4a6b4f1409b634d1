"""Networks that are served to be compared with libraries, and how far two maps are apart."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import cutaway
import cutaway_server

LANE_BATCH = 6  # that of the libraries too: scores of batches of other sizes differ in their last bit


class Served:
    """A network and its server.

    Attributes:
        x: [N, …] inputs, the same for both.
        classes: for each sample one to explain, all different.
    """

    def __init__(self, client: cutaway.Client, network: nn.Module, x: Tensor) -> None:
        self.client = client
        self.x = x
        self._network = network
        with torch.no_grad():
            self.scores = network(x)
        self.classes = different(self.scores)

    def network(self) -> nn.Module:
        """One's own copy, which may be hooked and differentiated: libraries leave hooks and gradients behind."""
        return copy.deepcopy(self._network).requires_grad_()

    def leaf(self) -> Tensor:
        """The inputs, as what is differentiated by."""
        return self.x.clone().requires_grad_()

    def look(self, *cams: cutaway.Cam, x: Tensor | None = None, **look: Any) -> cutaway.Introspection:
        return self.client.introspect("served", (self.x if x is None else x).numpy(), cams=cams, **look)

    def maps(self, *cams: cutaway.Cam, **look: Any) -> list[np.ndarray]:
        return [found.map for found in self.look(*cams, **look).cams]

    def map(self, method: str, layer: str | Sequence[str] | None = None, *, seed: int | None = None, **settings: Any) -> np.ndarray:
        """Of the classes above, unless told otherwise."""
        if not settings.keys() & {"class_index", "top_k"}:
            settings["class_index"] = self.classes
        return self.maps(cutaway.Cam(method, layer, **settings), seed=seed)[0]


@contextmanager
def served(network: nn.Module, x: Tensor) -> Iterator[Served]:
    network = network.eval()
    with (
        cutaway_server.serve(
            copy.deepcopy(network), x[:1], name="served", threads=1, lane_batch=LANE_BATCH, log_level="error"
        ) as server,
        cutaway.Client(server.address, timeout=60) as client,
    ):
        yield Served(client, network, x)


def different(scores: Tensor) -> list[int]:
    """For each sample its best class that no sample before it has."""
    chosen: list[int] = []
    for row in scores.argsort(dim=1, descending=True).tolist():
        chosen.append(next(index for index in row if index not in chosen))
    return chosen


def apart(found: np.ndarray, expected: np.ndarray | Tensor) -> float:
    """The largest difference, as a share of the largest absolute value expected of that sample: of the worst sample."""
    expected = expected.detach().numpy() if isinstance(expected, Tensor) else expected
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    difference, size = (np.abs(values).reshape(len(values), -1).max(1) for values in (found - expected, expected))
    assert (size > 0).all(), "maps of zeros agree on anything"
    return float((difference / size).max())
