"""Layers that stand aside: nothing leads from them to the scores, as from an auxiliary head, which runs all the same."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.layer_table import LayerTable
from cutaway_server.models.leaves import hold
from cutaway_server.models.outputs import pick
from cutaway_server.models.walk import Site, Walk, tensors


def mark_layers_aside(network: nn.Module, table: LayerTable, head: str, arguments: tuple[Tensor, ...]) -> LayerTable:
    """The table with the layers marked from which nothing that PyTorch can differentiate leads to the scores at `head`.

    Args:
        network: private to the caller; it is hooked while this runs.
    """
    recorded = _Recorded()
    gradients: tuple[Tensor | None, ...] = ()
    # Whatever PyTorch, or a network that does what is not recorded, raises: then nothing is known.
    with suppress(Exception), torch.no_grad(), Walk(network, recorded, operations=True):
        scores = pick(network(*(argument.clone() for argument in arguments)), head)
        gradients = torch.autograd.grad(scores.sum(), [tensor for _, tensor in recorded.tensors], allow_unused=True)
    pairs = list(zip(recorded.tensors, gradients, strict=False))
    leading = {site for (site, _), gradient in pairs if gradient is not None}
    known = {site for (site, _), _ in pairs}
    return LayerTable([replace(layer, aside=layer.site in known - leading) for layer in table])


class _Recorded:
    """Visitor that has PyTorch record from each layer on, unless it does already, and keeps what layers put out."""

    def __init__(self) -> None:
        self.tensors: list[tuple[Site, Tensor]] = []

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        """The leaf."""
        if any(tensor.requires_grad for _, tensor in tensors(output)):
            self.tensors += [(site, tensor) for _, tensor in tensors(output) if tensor.requires_grad]
            return None
        held, leaves = hold(output)
        self.tensors += [(site, leaf) for leaf in leaves.values()]
        return held
