"""How long the layers of a network take, each beside the others."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.layer_table import Layer, LayerTable
from cutaway_server.models.walk import Site, Walk

_LEAST, _MOST = 2, 3  # runs
_ENOUGH = 0.2  # seconds: those of a network that takes long differ little from each other


def time_layers(network: nn.Module, table: LayerTable, arguments: tuple[Tensor, ...]) -> tuple[LayerTable, float]:
    """The table with each layer's share of the forward pass's time, and that time in seconds.

    Args:
        network: private to the caller; it is hooked while this runs.
        arguments: of a batch of two: there are networks that do not take one.
    Returns:
        The seconds are those of one sample.
    """
    wait = _wait_for(arguments[0].device)
    runs: list[dict[Site | None, float]] = []
    forwards: list[float] = []
    with torch.no_grad():
        while len(runs) < _LEAST or (len(runs) < _MOST and sum(forwards) < _ENOUGH):
            clock = _Clock(wait)
            with Walk(network, clock, operations=True):
                network(*arguments)
            runs.append(clock.seconds)
            began = time.perf_counter()
            network(*arguments)
            wait()
            forwards.append(time.perf_counter() - began)
    leaves = {layer.site for layer in table.firing if not layer.container}
    seconds = {site: median(run[site] for run in runs if site in run) for site in runs[0] if site in leaves}
    whole = sum(seconds.values())

    def share(layer: Layer) -> float:
        inside = clock.inside.get(layer.site, []) if layer.container else [layer.site]
        return sum(seconds.get(site, 0.0) for site in inside) / whole if whole else 0.0

    return LayerTable([replace(layer, forward_share=share(layer)) for layer in table]), median(forwards) / 2


class _Clock:
    """Visitor that times each layer, and notes which others ran inside it."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[Site | None, float] = {}
        self.inside: dict[Site | None, list[Site | None]] = {}
        self._began: dict[Site, tuple[float, int]] = {}
        self._wait = wait

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Starts its time."""
        self._wait()
        self._began[site] = time.perf_counter(), len(self.seconds)

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        """Stops it."""
        self._wait()
        began, before = self._began[site]
        self.inside[site] = list(self.seconds)[before:]
        self.seconds[site] = time.perf_counter() - began


def _wait_for(device: torch.device) -> Callable[[], None]:
    """What returns when the device has done all that it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
