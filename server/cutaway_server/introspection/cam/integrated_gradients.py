"""Integrated gradients: Sundararajan et al. 2017, equations 1 and 3 (arXiv:1703.01365)."""

import torch
from torch import Tensor

from cutaway_server.introspection.cam.method import Extent, Method, Needs, Options, Passes, Runs, spread


def integrated_gradients(x: Tensor, runs: Runs) -> Tensor:
    """Each element of the input times the mean of its gradient on the way from zero to the input.

    The integral is taken by the midpoint rule. Its sum over all elements is the score less that of zero, but for the steps' error.

    Args:
        x: [N, c, …], float32: the network's input.
    Returns:
        [N, c, …], float32, in the score's unit.
    """
    steps = runs.options.steps

    def scaled(number: Tensor) -> tuple[Tensor, Tensor]:
        sample, share = number // steps, (number % steps + 0.5) / steps
        return sample, x[sample] * spread(share[:, None], x)

    total = torch.zeros_like(x)
    for samples, gradient in runs.gradients(len(x) * steps, scaled):
        total.index_add_(0, samples, gradient)
    return x * total / steps  # eq. 3


def default(space: tuple[int, ...]) -> Options:
    """32 steps."""
    return Options(steps=32)


def passes(extent: Extent) -> Passes:
    """One of each for a step."""
    return Passes(extent.options.steps, extent.options.steps)


METHOD = Method(
    name="integrated-gradients",
    paper="Sundararajan et al. 2017, arXiv:1703.01365",
    formula="sum_c x · mean over t of g(t x), t from 0 to 1",
    parts=integrated_gradients,
    needs=Needs.RUNS,
    at_input=True,
    relu=False,
    default=default,
    passes=passes,
    use="what each pixel adds to the score: the map adds up to the score less that of an input of zeros",
    avoid="questions in which the mean colour, its baseline, means something",
)
