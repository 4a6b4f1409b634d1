"""Layers of which no gradient can be had, because of what the network writes in place.

A gradient is taken by handing the network a copy of what the layer put out. Where the network writes to that memory by another
name, the copy does not follow: the network would compute something else, and so would every capture that comes after. And there
are writes that PyTorch forbids while it records. Both are found by trying.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.layer_table import LayerTable
from cutaway_server.models.leaves import hold
from cutaway_server.models.outputs import pick
from cutaway_server.models.walk import Site, Walk, tensors

_ALIAS = "its output shares memory that the network writes to later by another name"
_FORBIDDEN = "behind it the network does in place what PyTorch does not record"


def mark_layers_without_gradient(network: nn.Module, table: LayerTable, arguments: tuple[Tensor, ...]) -> LayerTable:
    """The table, with the reason at each layer of which no gradient can be had.

    Args:
        network: private to the caller; it is hooked while this runs.
    """
    suspects = _written_later(network, table, arguments)
    usual = _trial(network, arguments, lambda site: False)
    if _trial(network, arguments, lambda site: True) is None:
        suspects = {layer.site for layer in table.firing}
    reasons = {}
    for suspect in suspects:
        outputs = _trial(network, arguments, lambda site, suspect=suspect: site == suspect)  # type: ignore[misc]
        if outputs is None or usual is None:
            reasons[suspect] = _FORBIDDEN
        elif not torch.allclose(outputs, usual, rtol=1e-4, atol=1e-6, equal_nan=True):
            reasons[suspect] = _ALIAS
    return LayerTable([replace(layer, no_gradient=reasons.get(layer.site, "")) for layer in table])


def input_without_gradient(network: nn.Module, head: str, arguments: tuple[Tensor, ...]) -> str:
    """Why no gradient of the scores at `head` with respect to the first argument can be had; empty where it can."""
    first, *others = (argument.clone() for argument in arguments)
    if not first.dtype.is_floating_point:
        return f"its first input is {str(first.dtype).removeprefix('torch.')}, which has no gradient"
    with torch.no_grad():
        usual = pick(network(*(argument.clone() for argument in arguments)), head)
    try:
        with torch.enable_grad():
            leaf = first.requires_grad_()
            scores = pick(network(leaf.clone(), *others), head)
            (gradient,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
    except Exception:  # of PyTorch, or of a network that does what is not recorded
        return "the network does in place, or without PyTorch, what is not recorded"
    if gradient is None:
        return "nothing that PyTorch can differentiate leads from its first input to the scores"
    same = torch.allclose(scores.detach(), usual, rtol=1e-4, atol=1e-6, equal_nan=True)
    return "" if same else "while PyTorch records from its input on, the network computes something else"


def _written_later(network: nn.Module, table: LayerTable, arguments: tuple[Tensor, ...]) -> set[Site | None]:
    memory = _Memory([*network.parameters(), *network.buffers(), *arguments])
    _walk(network, arguments, memory)
    return memory.written_later({layer.site for layer in table.firing if layer.container})


def _walk(network: nn.Module, arguments: tuple[Tensor, ...], visitor: "_Memory | _Trial") -> None:
    with torch.no_grad(), Walk(network, visitor, operations=True):
        network(*(argument.clone() for argument in arguments))


def _trial(network: nn.Module, arguments: tuple[Tensor, ...], holds: Callable[[Site], bool]) -> Tensor | None:
    """A number for what each layer put out, where PyTorch records from some layers on; None where the network cannot bear that."""
    trial = _Trial(holds)
    try:
        _walk(network, arguments, trial)
    except Exception:  # of PyTorch, or of a network to which another sort of tensor or container came than it knows
        return None
    return torch.stack(trial.sums) if trial.sums else torch.zeros(0)


class _Trial:
    """Visitor that makes leaves of the outputs of some layers, where PyTorch does not record yet, and sums up all outputs."""

    def __init__(self, holds: Callable[[Site], bool]) -> None:
        self.sums: list[Tensor] = []
        self._holds = holds
        self._weights = torch.empty(0)

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        """The leaf."""
        found = [tensor.detach() for _, tensor in tensors(output)]
        self.sums += [self._sum(tensor) for tensor in found if not tensor.is_complex() and not tensor.is_sparse]
        recorded = any(tensor.requires_grad for _, tensor in tensors(output))
        return hold(output)[0] if self._holds(site) and not recorded else None

    def _sum(self, tensor: Tensor) -> Tensor:
        """Of all elements, each with a weight of its own: another sign or order shows."""
        flat = tensor.double().flatten()
        if self._weights.shape != flat.shape or self._weights.device != flat.device:  # layers of one size come in a row
            self._weights = torch.linspace(1, 2, flat.numel(), dtype=flat.dtype, device=flat.device)
        return torch.dot(flat, self._weights).cpu()


class _Memory:
    """Visitor that keeps all tensors, so that no memory is used twice, and notes when each piece was first seen."""

    def __init__(self, before: list[Tensor]) -> None:
        self._kept: list[Tensor] = []
        self._first_seen: dict[int, int] = {}
        self._begun: dict[Site, int] = {}
        self._outputs: list[tuple[Site, Tensor, int, bool]] = []
        for tensor in before:
            self._see(tensor)

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Whatever is seen from here on is the layer's own."""
        for _, tensor in tensors(inputs):
            self._see(tensor)
        self._begun[site] = len(self._kept)

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        """Notes what the layer puts out, and whether its memory is older than the layer."""
        for _, tensor in tensors(output):
            self._outputs.append((site, tensor, tensor._version, self._see(tensor) < self._begun[site]))

    def written_later(self, containers: set[Site | None]) -> set[Site | None]:
        """The layers whose output was written to after they ended, and may have another name: older memory, or kept inside."""
        return {
            site for site, tensor, version, older in self._outputs if tensor._version != version and (older or site in containers)
        }

    def _see(self, tensor: Tensor) -> int:
        if tensor.layout is not torch.strided:
            return len(self._kept)
        place = self._first_seen.setdefault(tensor.untyped_storage().data_ptr(), len(self._kept))
        self._kept.append(tensor)
        return place
