"""Occlusion: Zeiler and Fergus 2013, section 4.2 (arXiv:1311.2901)."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from cutaway_server.introspection.cam.method import Extent, Method, Needs, Options, Passes, Runs


def occlusion(x: Tensor, runs: Runs) -> Tensor:
    """How much of the score is lost while a window of zeros covers a place: the mean over the windows that cover it.

    Args:
        x: [N, c, …], float32: the network's input.
    Returns:
        [N, 1, …], float32, in the score's unit.
    """
    windows = places(tuple(x.shape[2:]), runs.options)

    def covered(number: Tensor) -> tuple[Tensor, Tensor]:
        sample = number // len(windows)
        inputs = x[sample]
        for picture, which in zip(inputs, (number % len(windows)).tolist(), strict=True):
            picture[(slice(None), *windows[which])] = 0
        return sample, inputs

    lost = runs.scores[:, None] - runs.of_inputs(len(x) * len(windows), covered).view(len(x), -1)
    total, count = x.new_zeros(len(x), 1, *x.shape[2:]), x.new_zeros(x.shape[2:])
    for window, share in zip(windows, lost.unbind(1), strict=True):
        total[(slice(None), slice(None), *window)] += share.view(-1, *[1] * (x.ndim - 1))
        count[window] += 1
    return total / count.clamp(min=1)


def places(space: tuple[int, ...], options: Options) -> list[tuple[slice, ...]]:
    """All windows, row by row; those at the far edges may be cut."""
    starts = (
        range(0, stride * (math.ceil(max(0, size - window) / stride) + 1), stride)
        for size, window, stride in zip(space, _each(options.window, space), _each(options.stride, space), strict=True)
    )
    windows = _each(options.window, space)
    return [
        tuple(slice(start, start + window) for start, window in zip(corner, windows, strict=True))
        for corner in itertools.product(*starts)
    ]


def _each(sizes: tuple[int, ...], space: Sequence[int]) -> tuple[int, ...]:
    return sizes * len(space) if len(sizes) == 1 else sizes


def default(space: tuple[int, ...]) -> Options:
    """Windows of an eighth of each axis, half overlapping."""
    window = tuple(math.ceil(size / 8) for size in space)
    return Options(window=window, stride=tuple(math.ceil(edge / 2) for edge in window))


def passes(extent: Extent) -> Passes:
    """One for each window."""
    return Passes(forward=len(places(extent.space, extent.options)))


METHOD = Method(
    name="occlusion",
    paper="Zeiler and Fergus 2013, arXiv:1311.2901",
    formula="y - y(x with a window of zeros), mean over windows",
    parts=occlusion,
    needs=Needs.RUNS,
    at_input=True,
    relu=False,
    default=default,
    passes=passes,
    use="a plain answer that needs no theory: what the score loses without a place",
    avoid="evidence that stands in several places, of which each can be lost without harm",
)
