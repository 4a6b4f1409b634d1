"""Layers of which no gradient can be had, because of what the network writes in place.

A gradient is taken by handing the network a copy of what the layer put out. Where the network writes to that memory by another
name, the copy does not follow: the network would compute something else, and so would every capture that comes after. And there
are writes that PyTorch forbids while it records.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.layer_table import LayerTable
from cutaway_server.models.leaves import hold
from cutaway_server.models.walk import Site, Walk, tensors

_ALIAS = "its output shares memory that the network writes to later by another name"
_FORBIDDEN = "behind it the network writes in place what PyTorch allows no one to write while it records"


def mark_layers_without_gradient(network: nn.Module, table: LayerTable, arguments: tuple[Tensor, ...]) -> LayerTable:
    """The table, with the reason at each layer of which no gradient can be had.

    Args:
        network: private to the caller; it is hooked while this runs.
    """
    seen = _Memory([*network.parameters(), *network.buffers(), *arguments])
    with torch.no_grad(), Walk(network, seen, operations=True):
        network(*arguments)
    reasons = dict.fromkeys(seen.written(), _ALIAS)
    if table.firing and not _runs_recorded(network, arguments, table.firing[0].site):
        reasons |= {layer.site: _FORBIDDEN for layer in table.firing if not _runs_recorded(network, arguments, layer.site)}
    return LayerTable([replace(layer, no_gradient=reasons.get(layer.site, "")) for layer in table])


def _runs_recorded(network: nn.Module, arguments: tuple[Tensor, ...], site: Site | None) -> bool:
    """Whether the network runs while PyTorch records from this layer on."""
    try:
        with torch.no_grad(), Walk(network, _Hold(site), operations=True):
            network(*arguments)
    except RuntimeError:
        return False
    return True


class _Hold:
    """Visitor that makes one layer's output a leaf."""

    def __init__(self, site: Site | None) -> None:
        self._site = site

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        """The leaf."""
        return hold(output)[0] if site == self._site else None


class _Memory:
    """Visitor that keeps all tensors, so that no memory is used twice, and notes when each piece was first seen."""

    def __init__(self, before: list[Tensor]) -> None:
        self._kept: list[Tensor] = []
        self._first_seen: dict[int, int] = {}
        self._begun: list[int] = []
        self._aliases: list[tuple[Site, Tensor, int]] = []
        for tensor in before:
            self._see(tensor)

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Whatever is seen from here on is the layer's own."""
        for _, tensor in tensors(inputs):
            self._see(tensor)
        self._begun.append(len(self._kept))

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        """Notes what the layer puts out, and whether its memory is older than the layer."""
        begun = self._begun.pop()
        for _, tensor in tensors(output):
            if self._see(tensor) < begun:
                self._aliases.append((site, tensor, tensor._version))

    def written(self) -> set[Site | None]:
        """The layers whose older memory was written to after they ended."""
        return {site for site, tensor, version in self._aliases if tensor._version != version}

    def _see(self, tensor: Tensor) -> int:
        if tensor.layout is not torch.strided:
            return len(self._kept)
        place = self._first_seen.setdefault(tensor.untyped_storage().data_ptr(), len(self._kept))
        self._kept.append(tensor)
        return place
