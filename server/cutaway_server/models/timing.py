"""How long the layers of a network take, each beside the others."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.layer_table import LayerTable
from cutaway_server.models.walk import Site, Walk

_RUNS = 3


def time_layers(network: nn.Module, table: LayerTable, arguments: tuple[Tensor, ...]) -> tuple[LayerTable, float]:
    """The table with each layer's share of the forward pass's time, and that time in seconds.

    Args:
        network: private to the caller; it is hooked while this runs.
        arguments: of a batch of two: there are networks that do not take one.
    Returns:
        The seconds are those of one sample.
    """
    wait = _wait_for(arguments[0].device)
    runs, forwards = [], []
    with torch.no_grad():
        for _ in range(_RUNS):
            clock = _Clock(wait)
            with Walk(network, clock, operations=True):
                network(*arguments)
            runs.append(clock.seconds)
        for _ in range(_RUNS):
            began = time.perf_counter()
            network(*arguments)
            wait()
            forwards.append(time.perf_counter() - began)
    seconds = {site: median(run[site] for run in runs if site in run) for site in runs[0]}
    leaves = sum(seconds.get(layer.site, 0.0) for layer in table.firing if layer.site and not layer.container)
    timed = [
        replace(layer, forward_share=min(1.0, seconds.get(layer.site, 0.0) / leaves)) if layer.site and leaves else layer
        for layer in table
    ]
    return LayerTable(timed), median(forwards) / 2


class _Clock:
    """Visitor that times each layer; what it holds inside counts too."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[Site, float] = {}
        self._began: dict[Site, float] = {}
        self._wait = wait

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        self._wait()
        self._began[site] = time.perf_counter()

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        self._wait()
        self.seconds[site] = time.perf_counter() - self._began[site]


def _wait_for(device: torch.device) -> Callable[[], None]:
    """What returns when the device has done all that it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
