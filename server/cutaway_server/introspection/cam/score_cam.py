"""Score-CAM: Wang et al. 2020, algorithm 1 (arXiv:1910.01279)."""

import torch
from torch import Tensor

from cutaway_server.introspection.cam.method import Extent, Method, Needs, Passes, Runs, spread
from cutaway_server.introspection.map_shapes import enlarge, min_max


def score_cam(activation: Tensor, runs: Runs) -> Tensor:
    """Each channel, weighed by the softmax over channels of the score when the input is seen through that channel alone.

    The score of a baseline, which the paper takes off, is the same for all channels, and so nothing to the softmax of algorithm 1.

    Args:
        activation: [N, C, …], float32.
    Returns:
        [N, C, …], float32, in the activation's unit.
    """
    samples, channels = activation.shape[:2]

    def masked(number: Tensor) -> tuple[Tensor, Tensor]:
        sample, channel = number // channels, number % channels
        plane = min_max(activation[sample, channel])  # so that rounding is not blown up where a channel is the same everywhere
        mask = min_max(enlarge(plane, tuple(runs.x.shape[2:])))[:, None]  # s(Up(A_k))
        return sample, runs.x[sample] * mask

    gains = runs.of_inputs(samples * channels, masked).view(samples, channels)
    weights = torch.softmax(gains, dim=1)  # algorithm 1
    return spread(weights, activation) * activation  # before the sum and ReLU


def passes(extent: Extent) -> Passes:
    """One for each channel."""
    return Passes(forward=extent.channels)


METHOD = Method(
    name="score-cam",
    paper="Wang et al. 2020, arXiv:1910.01279",
    formula="relu(sum_k w_k A_k), w = softmax_k y(x · minmax(up(A_k)))",
    parts=score_cam,
    needs=Needs.RUNS,
    passes=passes,
    use="where gradients cannot be had or trusted",
    avoid="in a hurry: it runs the network once for each channel",
)
