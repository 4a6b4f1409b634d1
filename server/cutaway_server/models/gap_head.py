"""Whether a network ends in a global average and one linear layer, as class activation maps were published for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.layer_table import LayerTable, argument
from cutaway_server.models.outputs import pick
from cutaway_server.models.scores import ScoresKind, probabilities
from cutaway_server.models.walk import Site, Walk


@dataclass(frozen=True)
class GapHead:
    """A linear layer on the spatial mean of a feature map.

    Attributes:
        linear: path of the linear module; row c of its weight is class c's.
        layers: names of the layers [N, C, …] whose mean over space is what it takes, in order of execution.
    """

    linear: str
    layers: tuple[str, ...]


def find_gap_head(
    network: nn.Module, table: LayerTable, head: str, kind: ScoresKind, arguments: tuple[Tensor, ...]
) -> GapHead | None:
    """Runs the network once and compares numbers: structure alone does not tell what a forward pass does.

    Args:
        network: private to the caller; it is hooked while this runs.
        head: path of the scores.
    """
    seen = _Seen()
    with torch.no_grad(), Walk(network, seen, operations=True):
        scores = pick(network(*arguments), head)
    if seen.linear is None or scores.ndim != 2 or not _explains(seen.linear_output, scores, kind):
        return None
    layers = tuple(
        table.by_site[site].name for site, mean in seen.means.items() if site in table.by_site and _same(mean, seen.linear_input)
    )
    return GapHead(seen.linear.path, layers) if layers and seen.linear_input.any() else None


def _same(mean: Tensor, taken: Tensor) -> bool:
    return mean.shape == taken.shape and mean.dtype == taken.dtype and torch.allclose(mean, taken, atol=1e-5)


class _Seen:
    """Visitor that keeps the spatial means of all maps, and what the last linear module took and gave."""

    def __init__(self) -> None:
        self.means: dict[Site, Tensor] = {}
        self.linear: Site | None = None
        self.linear_input = self.linear_output = torch.empty(0)
        self._taken: dict[Site, Any] = {}  # by what runs now: a linear module of a kind of its own has operations inside

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        self._taken[site] = argument(inputs)

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        taken = self._taken.pop(site)
        if isinstance(what, nn.Linear) and isinstance(taken, Tensor):  # it is none where the input came by its keyword
            self.linear, self.linear_input, self.linear_output = site, taken, output
        elif isinstance(output, Tensor) and output.is_floating_point() and 3 <= output.ndim <= 5 and output.shape[2:].numel() > 1:
            self.means[site] = output.flatten(2).mean(dim=2)


def _explains(logits: Tensor, scores: Tensor, kind: ScoresKind) -> bool:
    if logits.shape != scores.shape:
        return False
    if kind is ScoresKind.SIGMOID:
        return torch.allclose(logits.sigmoid(), scores, atol=1e-5)
    if kind is ScoresKind.LOGITS:
        return torch.equal(logits, scores)
    return torch.allclose(logits.softmax(dim=1), probabilities(scores, kind), atol=1e-5)
