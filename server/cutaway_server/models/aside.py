"""Layers that stand aside: nothing leads from them to the scores, as from an auxiliary head, which runs all the same."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
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
    aside: set[Site] = set()
    # Whatever PyTorch, or a network that does what is not recorded, raises: then nothing is known.
    with suppress(Exception), torch.no_grad(), Walk(network, recorded, operations=True):
        scores = pick(network(*(argument.clone() for argument in arguments)), head)
        aside = {site for site, _ in recorded.tensors} - _leading(recorded.tensors, scores)
    return LayerTable([replace(layer, aside=layer.site in aside) for layer in table])


def _leading(outputs: list[tuple[Site, Tensor]], scores: Tensor) -> set[Site]:
    """The layers whose outputs have a gradient. It is noted as it passes: all at once would take as much memory as all outputs."""
    leading: set[Site] = set()

    def note(site: Site, gradient: Tensor | None) -> None:
        if gradient is not None:
            leading.add(site)

    leaves = [(site, tensor) for site, tensor in outputs if tensor.is_leaf]
    for site, tensor in outputs:
        if not tensor.is_leaf:
            tensor.register_hook(partial(note, site))  # type: ignore[no-untyped-call]
    gradients = torch.autograd.grad(scores.sum(), [leaf for _, leaf in leaves], allow_unused=True)
    for (site, _), gradient in zip(leaves, gradients, strict=True):
        note(site, gradient)
    return leading


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
