"""How far apart the cells of a layer's map lie on the network's input, so that the map can be drawn where it belongs.

Found by growth: a map that gains n rows when the picture gains m has a stride of m / n. That holds for any mix of layers, with no
look into their settings, and tells apart a map that is small because of strides from one that lost its border to convolutions
without padding.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cutaway_server.models.layer_table import Layer, LayerTable
from cutaway_server.models.walk import Site, Walk

_GROWTH, _SMALL_GROWTH = 192, 64  # rows and columns: multiples of the usual strides
_SMALL = 96  # rows or columns of a picture that grows by less: it would become many times as large


def find_strides(network: nn.Module, table: LayerTable, arguments: tuple[Tensor, ...]) -> LayerTable:
    """The table with the strides of the maps that grow with the picture, and with those that do not marked.

    Args:
        network: private to the caller; it is hooked while this runs.
        arguments: the first one [N, C, H, W], or nothing is found.
    """
    picture, *others = arguments
    if picture.ndim != 4:
        return table
    growth = _GROWTH if max(picture.shape[2:]) >= _SMALL else _SMALL_GROWTH
    larger = F.pad(picture, (0, growth, 0, growth))
    grown = _maps(network, (larger, *others))
    return LayerTable([_with_stride(layer, grown.get(layer.site), growth) for layer in table])


def _with_stride(layer: Layer, grown: torch.Size | None, growth: int) -> Layer:
    usual = [output.shape for output in layer.outputs if not output.path]
    if grown is None or not usual or len(usual[0]) != 4 or min(usual[0][2:]) < 0:
        return layer
    rows, columns = (after - before for before, after in zip(usual[0][2:], grown[2:], strict=True))
    return replace(layer, stride=(growth / rows, growth / columns)) if min(rows, columns) > 0 else replace(layer, fixed_size=True)


def _maps(network: nn.Module, arguments: tuple[Tensor, ...]) -> dict[Site | None, torch.Size]:
    """Shapes of the maps of all layers up to where the network fails, as it may at a linear layer."""
    seen = _Shapes()
    # Whatever it raises at a size that it is not made for: the layers before have run.
    with suppress(Exception), torch.no_grad(), Walk(network, seen, operations=True):
        network(*arguments)
    return seen.shapes


class _Shapes:
    """Visitor that notes the shapes of maps."""

    def __init__(self) -> None:
        self.shapes: dict[Site | None, torch.Size] = {}

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        """Notes a map."""
        if isinstance(output, Tensor) and output.ndim == 4:
            self.shapes[site] = output.shape
