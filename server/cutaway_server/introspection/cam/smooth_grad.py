"""SmoothGrad: Smilkov et al. 2017 (arXiv:1706.03825)."""

import torch
from torch import Tensor

from cutaway_server.introspection.cam.method import Extent, Join, Method, Needs, Options, Passes, Runs, space, spread

_NOISE = 0.15  # standard deviation as a share of the range of the input: the paper finds 0.1 to 0.2 best


def smooth_grad(x: Tensor, runs: Runs) -> Tensor:
    """The mean gradient over inputs with Gaussian noise. The map is the largest absolute value over channels.

    Args:
        x: [N, c, …], float32: the network's input.
    Returns:
        [N, c, …], float32, in the score's unit for each unit of the input.
    """
    steps = runs.options.steps
    low, high = x.amin(dim=(1, *space(x))), x.amax(dim=(1, *space(x)))
    deviation = _NOISE * (high - low)

    def noisy(number: Tensor) -> tuple[Tensor, Tensor]:
        sample = number // steps
        noise = torch.randn((len(number), *x.shape[1:]), generator=runs.draw).to(x.device)
        return sample, x[sample] + noise * spread(deviation[sample, None], x)

    total = torch.zeros_like(x)
    for samples, gradient in runs.gradients(len(x) * steps, noisy):
        total.index_add_(0, samples, gradient)
    return total / steps


def default(space: tuple[int, ...]) -> Options:
    """16 noisy inputs."""
    return Options(steps=16)


def passes(extent: Extent) -> Passes:
    """One of each for a noisy input."""
    return Passes(extent.options.steps, extent.options.steps)


METHOD = Method(
    name="smooth-grad",
    paper="Smilkov et al. 2017, arXiv:1706.03825",
    formula="max_c abs(mean of g(x + noise))",
    parts=smooth_grad,
    needs=Needs.RUNS,
    at_input=True,
    join=Join.LARGEST,
    relu=False,
    default=default,
    passes=passes,
    chance=True,
    use="a saliency that a person can read",
    avoid="single pixels: neighbours share their noise away",
)
