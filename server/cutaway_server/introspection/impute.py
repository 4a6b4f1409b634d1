"""Missing pixels filled in from their neighbours: the noisy linear imputation of Rong et al. 2022 (arXiv:2202.00449)."""

from functools import cache
from itertools import product
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cutaway_server.introspection.cam.method import space

_NOISE = 0.01
_WEIGHTS = {1: {1: 1 / 2}, 2: {1: 1 / 6, 2: 1 / 12}, 3: {1: 1 / 6}}  # by axes in space: of a neighbour so many steps away
_TOLERANCE = 2e-5  # of an equation, where values go from -1 to 1: what is filled in is off by a tenth of the noise at most
_ROUNDS = 100
_DAMPING = 0.8  # below 1, so that errors that change sign from cell to cell die out too

Index = tuple[EllipsisType | slice, ...]


def noisy(x: Tensor, missing: Tensor, draw: torch.Generator) -> Tensor:
    """Missing pixels filled in by `linear`, with Gaussian noise of standard deviation 0.01, which hides that they were.

    Args:
        x: [n, c, …], float32, of one to three axes in space.
        missing: [n, …], bool: which pixels, all channels together. At least one of each sample is not.
        draw: on the CPU. Each sample draws as many numbers as it has elements, so that batches change nothing.
    Returns:
        [n, c, …], float32, in the unit of `x`.
    """
    noise = torch.stack([torch.randn(x.shape[1:], generator=draw) for _ in x]).to(x)
    return torch.where(missing[:, None], linear(x, missing) + _NOISE * noise, x)


def linear(x: Tensor, missing: Tensor) -> Tensor:
    """Missing pixels set so that each is the weighted mean of its neighbours, missing ones among them: all solved together.

    Weights in a plane are 1/6 along an axis and 1/12 across a corner, as published; in one and three dimensions a pixel has two and
    six neighbours of equal weight. At a border, those that there are count for all.

    Args, Returns: as `noisy`.
    """
    known = ~missing[:, None]
    total = torch.where(known, x, 0).sum(space(x), keepdim=True)
    mean = total / known.sum(space(x), keepdim=True)
    start = torch.where(known, x - mean, 0)
    scale = start.abs().amax(space(x), keepdim=True)
    start = start / torch.where(scale == 0, 1, scale)  # from -1 to 1, where float32 is fine and no square too small or too large
    return torch.where(known, x, mean + scale * _solved(start, _levels(missing[:, None].to(x))))


class _Level(NamedTuple):
    """The equations on one grid: in each missing cell the sum of its weights times it, less its neighbours, is the right side.

    Attributes:
        missing: [n, 1, …]: 1 where cells are missing, 0 elsewhere.
        weight: [1, 1, …]: sum of the weights of a cell's neighbours.
    """

    missing: Tensor
    weight: Tensor

    def left(self, values: Tensor) -> Tensor:
        """The equations' left sides, 0 where a cell is known; symmetric and, of missing cells, positive definite."""
        return (self.weight * values).sub_(_neighbours(values)).mul_(self.missing)


def _levels(missing: Tensor) -> list[_Level]:
    """The grid and ever coarser ones. A coarse cell is missing where all of its cells are."""
    here = _Level(missing, _neighbours(torch.ones_like(missing[:1])))
    if max(missing.shape[2:]) == 1 or not missing.any():
        return [here]
    return [here, *_levels((_halved(1 - missing) == 0).to(missing))]


def _solved(values: Tensor, levels: list[_Level]) -> Tensor:
    """Conjugate gradients, preconditioned by multigrid, for each channel of each sample until it is exact enough.

    Args:
        values: [n, c, …], from -1 to 1: the known cells; the missing ones are what the search starts from.
    Returns:
        [n, c, …]: the known cells as they were.
    """
    residual = -levels[0].left(values)
    direction, before = torch.zeros_like(values), values.new_ones(())
    for _ in range(_ROUNDS):
        open_ = residual.abs().amax(space(values), keepdim=True) > _TOLERANCE
        if not open_.any():
            break
        change = _cycle(residual, levels)
        now = _dot(residual, change)
        direction = change + torch.where(open_, now / before, 0) * direction
        left = levels[0].left(direction)
        length = torch.where(open_, now / _dot(direction, left), 0)  # what is done stays, whatever its batch still needs
        values, residual, before = values + length * direction, residual - length * left, now
    return values


def _cycle(residual: Tensor, levels: list[_Level]) -> Tensor:
    """About what the residual asks to be added: one V-cycle, symmetric as conjugate gradients need it."""
    here, *coarser = levels
    change = _DAMPING * residual
    if coarser:
        # Cells twice as far apart differ four times as much from the mean of their neighbours.
        rest = 4 * _halved(residual - here.left(change)) * coarser[0].missing
        change = change + _doubled(_cycle(rest, coarser), residual.shape[2:]) * here.missing
        change = change + _DAMPING * (residual - here.left(change))
    return change


def _neighbours(values: Tensor) -> Tensor:
    total = torch.zeros_like(values)
    for to, of, weight in _pairs(values.ndim - 2):
        total[to].add_(values[of], alpha=weight)
    return total


@cache
def _pairs(axes: int) -> list[tuple[Index, Index, float]]:
    """For each neighbour: the cells that have it, where it is, its weight. Convolutions of one channel are slower by far."""
    pairs: list[tuple[Index, Index, float]] = []
    for offset in product((-1, 0, 1), repeat=axes):
        weight = _WEIGHTS[axes].get(sum(map(abs, offset)))
        if weight is not None:
            pairs.append(((..., *_shifted(offset)), (..., *_shifted([-step for step in offset])), weight))
    return pairs


def _shifted(offset: tuple[int, ...] | list[int]) -> list[slice]:
    return [slice(max(0, step), min(0, step) or None) for step in offset]


def _halved(values: Tensor) -> Tensor:
    """Means of 2 cells along each axis; beyond an odd end are zeros, so that this is `_doubled` turned round."""
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[values.ndim - 2]
    ends = [end for size in reversed(values.shape[2:]) for end in (0, size % 2)]
    return pool(F.pad(values, ends), 2)


def _doubled(values: Tensor, size: torch.Size) -> Tensor:
    inside: Index = (..., *(slice(edge) for edge in size))
    return F.interpolate(values, scale_factor=2)[inside]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(space(one), keepdim=True)
