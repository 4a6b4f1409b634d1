"""Whether a map shows the network or the picture: weights are drawn anew, Adebayo et al. 2018, section 3 (arXiv:1810.03292)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cutaway_server.introspection.call import Call
from cutaway_server.introspection.look import Look
from cutaway_server.introspection.maps import MapMaker
from cutaway_server.introspection.plan import make_plan
from cutaway_server.introspection.plan_cams import CamRequest, PlannedCam
from cutaway_server.introspection.reruns import Bench
from cutaway_server.models.mirror import Mirror
from cutaway_server.models.model import Model


@dataclass(frozen=True)
class Left:
    """What is left of a map when weights were drawn anew.

    Attributes:
        layer: the module whose weights were drawn last.
        signed: rank correlation with the map of the network as it was, [N] float64; NaN where a map is the same everywhere.
        unsigned: the same of absolute values.
    """

    layer: str
    signed: Tensor
    unsigned: Tensor


class Randomisation:
    """The maps of one request while a network loses what it learnt.

    Args:
        arguments: the network's, the batch first.
        seed: of the weights, and of maps in which chance plays.
        batch: samples of one run, for maps that take many.
    Attributes:
        planned: the map, everything resolved.
        layers: names of the modules with weights, in the order in which they are drawn.
    Raises:
        Refusal: there is no such map.
    """

    def __init__(self, model: Model, request: CamRequest, arguments: tuple[Tensor, ...], *, seed: int = 0, batch: int = 8) -> None:
        plan = make_plan(model, batch=len(arguments[0]), captures=(), cams=[request], top_k=None, seed=seed)
        call = Call(
            plan,
            arguments,
            request_id="",
            buffer_bytes=0,
            deadline=math.inf,
            stall_s=math.inf,
            draw=lambda *_: b"",
        )
        self.planned: PlannedCam = plan.cams[0]
        self._mirror = model.make_mirror()
        self.layers = weighted_layers(model, self._mirror)
        self._maker = MapMaker(Bench(call, self._mirror, batch), self._mirror.network, model.gap_head, seed)
        self._seed = seed
        with torch.no_grad():
            scores = self._mirror.network(*(argument.clone() for argument in arguments))
        self._look = Look(arguments[0], {}, scores, model.scores_kind)  # which class is explained stays as it is now

    def run(self, *, independent: bool = False) -> Iterator[Left]:
        """From the output down, one layer after the other; when it ends, all weights are what they were.

        Args:
            independent: whether each layer is drawn alone, the others being what they were.
        Raises:
            NoGradient, DidNotRun: the map cannot be made; says why.
        """
        draw = torch.Generator().manual_seed(self._seed)
        with _kept(self._mirror.network):
            first = self._plane()
            for name in self.layers:
                module = self._mirror.network.get_submodule(name)
                with _kept(module) if independent else nullcontext():
                    draw_anew(module, draw)
                    plane = self._plane()
                yield Left(name, rank_correlation(plane, first), rank_correlation(plane.abs(), first.abs()))

    def _plane(self) -> Tensor:
        with torch.no_grad():  # as lanes run
            return self._maker.plane_of(self.planned, self._look, self._look.x)


def weighted_layers(model: Model, mirror: Mirror) -> list[str]:
    """Names of the modules that have parameters of their own, the one that runs last first; "" is the network itself."""
    order = {layer.name: layer.index for layer in model.layers.firing}
    names = [name for name, module in mirror.network.named_modules() if module._parameters]

    def place(name: str) -> float:
        while name and name not in order:  # what never runs under its own name, as parametrizations, goes with what holds it
            name = name.rpartition(".")[0]
        return order.get(name, math.inf)

    return sorted(names, key=place, reverse=True)


@torch.no_grad()
def draw_anew(module: nn.Module, draw: torch.Generator) -> None:
    """Sets a module's own parameters to Gaussian numbers of the mean and the standard deviation that each had.

    So what follows gets numbers of the size that it is used to, whatever the module is. Numbers that were all the same stay.
    """
    for parameter in module.parameters(recurse=False):
        values = torch.randn(parameter.shape, generator=draw).to(parameter)
        parameter.copy_(parameter.mean() + parameter.std(correction=0) * values)


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's, of maps [N, …]: [N] float64 from -1 to 1; NaN where one is the same everywhere, or not finite."""
    pairs = zip(one.flatten(1), other.flatten(1), strict=True)
    return torch.stack([_correlation(_ranks(a), _ranks(b)) for a, b in pairs])


def _ranks(values: Tensor) -> Tensor:
    """[cells] float64; those of equal value share the mean of their places."""
    if not values.isfinite().all():
        return torch.full_like(values, torch.nan, dtype=torch.float64)
    ordered = values.sort().values
    smaller, not_larger = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (smaller + not_larger).double() / 2


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    one, other = one - one.mean(), other - other.mean()
    return (one * other).sum() / ((one**2).sum() * (other**2).sum()).sqrt()


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """When the block ends, the module's parameters are what they were when it began."""
    before = [(parameter.detach(), parameter.detach().clone()) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, values in before:
            parameter.copy_(values)
