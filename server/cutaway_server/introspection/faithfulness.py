"""Whether a map can be believed: what the probability of its class does when pixels go or come in the map's order, and more.

Pixels are the cells of the network's input, all channels together. The map is enlarged to them bilinearly; pixels of equal value
follow each other by place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cutaway_server.introspection import impute
from cutaway_server.introspection.cam.method import Runs, space
from cutaway_server.introspection.map_shapes import enlarge, min_max

DRAWS = 10  # maps that `sensitivity` asks for
_RADIUS = 0.02  # and how far from the input, in each element: the default of captum
_BLUR, _REACH = 5.0, 5  # standard deviation, and pixels to each side: the authors' code of RISE
_TENTHS = 9  # 10 % to 90 %


class Measured(NamedTuple):
    """What is had from one map, [N] float64 each; NaN for a map that is not finite. As `Measures`."""

    deletion: Tensor
    insertion: Tensor
    average_drop: Tensor
    increase: Tensor
    road: Tensor
    complexity: Tensor


@dataclass(frozen=True)
class Measures:
    """Measures of a map, [N] float64 each.

    Attributes:
        deletion: area under the probability while pixels are made 0, the most important first; 0 to 1, small is good.
        insertion: area under it while they come back into a blurred input; 0 to 1, large is good.
        average_drop: share of the probability lost when the input is seen through the map; 0 to 1, small is good.
        increase: 1 where the probability is larger then, else 0.
        road: how much more is lost with the most important pixels than with the least important ones; -0.5 to 0.5, large is good.
        sensitivity: largest change of the map, as a share of it, when the input hardly changes; small is good.
        complexity: entropy of the map, in nats; small is easy to read.
    """

    deletion: Tensor
    insertion: Tensor
    average_drop: Tensor
    increase: Tensor
    road: Tensor
    sensitivity: Tensor
    complexity: Tensor


def passes(steps: int) -> int:
    """Runs of the network for each sample that `measure` takes."""
    return 2 * steps + 1 + 2 * _TENTHS


def measure(plane: Tensor, runs: Runs, steps: int) -> Measured:
    """All that needs no further map.

    Args:
        plane: [N, …], float32: the raw map, of as many axes in space as the input.
        runs: of the probability of the class.
        steps: points of the curves after their first; at least 1.
    """
    ranks = _ranks(plane, runs.x)
    drop, increase = _seen_through(plane, runs)
    curves = _deletion(ranks, runs, steps), _insertion(ranks, runs, steps)
    finite = plane.flatten(1).isfinite().all(1)
    measured = (*curves, drop, increase, _road(ranks, runs), complexity(plane))
    return Measured(*(torch.where(finite, values, torch.nan) for values in measured))


def sensitivity(plane: Tensor, again: Callable[[Tensor], Tensor], x: Tensor, draw: torch.Generator) -> Tensor:
    """Max-sensitivity: the largest change of the map among inputs that differ by up to 0.02, Yeh et al. 2019 (arXiv:1901.09392).

    It is a share of the map, as captum has it, so that the map's unit does not count.

    Args:
        plane: [N, …]: the map.
        again: the map of another input, of the same classes.
        x: [N, c, …], float32: the input.
        draw: on the CPU.
    Returns:
        [N] float64, without unit; NaN for a map of zeros.
    """
    size = _norm(plane)
    largest = torch.zeros_like(size)
    for _ in range(DRAWS):
        noise = (torch.rand(x.shape, generator=draw) * 2 - 1) * _RADIUS
        largest = torch.maximum(largest, _norm(again(x + noise.to(x.device)) - plane))
    return torch.where(size == 0, torch.nan, largest / size)


def complexity(plane: Tensor) -> Tensor:
    """Entropy of the absolute values as shares of their sum: Bhatt et al. 2020 (arXiv:2005.00631).

    Args:
        plane: [N, …].
    Returns:
        [N] float64, in nats; NaN for a map of zeros.
    """
    sizes = plane.flatten(1).double().abs()
    terms: Tensor = torch.special.entr(sizes / sizes.sum(1, keepdim=True))
    return terms.sum(1)


def blurred(x: Tensor) -> Tensor:
    """[n, c, …] of any axes in space, smoothed by a Gaussian; beyond the border lies what lies at it."""
    for axis in space(x):
        x = _blurred_along(x, axis)
    return x


def _blurred_along(x: Tensor, axis: int) -> Tensor:
    reach = min(_REACH, x.shape[axis] - 1)
    weights = torch.exp(-(torch.arange(-reach, reach + 1, device=x.device) ** 2) / (2 * _BLUR**2))
    lines = x.movedim(axis, -1)
    padded = F.pad(lines.reshape(-1, 1, x.shape[axis]), (reach, reach), mode="replicate")
    return F.conv1d(padded, (weights / weights.sum()).view(1, 1, -1)).reshape(lines.shape).movedim(-1, axis)


def _ranks(plane: Tensor, x: Tensor) -> Tensor:
    """[N, …] int64, of the input's size: 0 for the most important pixel."""
    size = tuple(x.shape[2:])
    order = enlarge(plane, size).flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view(-1, *size)


def _deletion(ranks: Tensor, runs: Runs, steps: int) -> Tensor:
    """[N] float64: Petsiuk et al. 2018 (arXiv:1806.07421)."""
    counts = _counts(ranks, steps)
    gone = _replaced(ranks, runs, counts[1:], runs.x, torch.zeros_like(runs.x))
    return _area(torch.cat([runs.scores[:, None], gone], 1), counts)


def _insertion(ranks: Tensor, runs: Runs, steps: int) -> Tensor:
    """[N] float64: the same paper."""
    counts = _counts(ranks, steps)
    back = _replaced(ranks, runs, counts[:-1], blurred(runs.x), runs.x)
    return _area(torch.cat([back, runs.scores[:, None]], 1), counts)


def _counts(ranks: Tensor, steps: int) -> Tensor:
    """[steps + 1] int64: from no pixel to all, as evenly as goes."""
    return torch.arange(steps + 1, device=ranks.device) * ranks[0].numel() // steps


def _replaced(ranks: Tensor, runs: Runs, counts: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """[N, counts]: the probability when so many pixels, the most important ones, are as after, the others as before."""

    def mixed(number: Tensor) -> tuple[Tensor, Tensor]:
        sample, point = number // len(counts), number % len(counts)
        first = ranks[sample] < counts[point].view(-1, *[1] * (ranks.ndim - 1))
        return sample, torch.where(first[:, None], after[sample], before[sample])

    return runs.of_inputs(ranks.shape[0] * len(counts), mixed).view(-1, len(counts))


def _area(curve: Tensor, counts: Tensor) -> Tensor:
    """[N] float64: under [N, points], over the share of pixels from 0 to 1."""
    return torch.trapezoid(curve.double(), counts / counts[-1].double())


def _seen_through(plane: Tensor, runs: Runs) -> tuple[Tensor, Tensor]:
    """Average drop and increase, [N] float64 each: Chattopadhay et al. 2018, section 5 (arXiv:1710.11063).

    A probability of 0 cannot drop.
    """
    window = enlarge(min_max(plane), tuple(runs.x.shape[2:]))[:, None]
    before = runs.scores.double()
    after = runs.of_inputs(len(plane), lambda number: (number, runs.x[number] * window[number])).double()
    drop = torch.where(before == 0, 0, (before - after) / before).clamp(min=0)
    return drop, torch.where((after - before).isnan(), torch.nan, (after > before).double())


def _road(ranks: Tensor, runs: Runs) -> Tensor:
    """[N] float64: remove and debias, in both orders, Rong et al. 2022 (arXiv:2202.00449)."""
    pixels = ranks[0].numel()
    counts = torch.arange(1, _TENTHS + 1, device=ranks.device) * pixels // (_TENTHS + 1)
    first = torch.cat([torch.zeros_like(counts), pixels - counts])  # the most important ones go; then the least important ones
    end = torch.cat([counts, torch.full_like(counts, pixels)])

    def filled(number: Tensor) -> tuple[Tensor, Tensor]:
        sample, which = number // len(end), number % len(end)
        among = ranks[sample].flatten(1)
        missing = (first[which, None] <= among) & (among < end[which, None])
        return sample, impute.noisy(runs.x[sample], missing.view(-1, *ranks.shape[1:]), runs.draw)

    most, least = runs.of_inputs(len(ranks) * len(end), filled).double().view(-1, 2, _TENTHS).unbind(1)
    return (least - most).mean(1) / 2


def _norm(plane: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(plane.flatten(1).double(), dim=1)
    return norm
