"""Ablation-CAM: Ramaswamy and Desai 2020 (WACV 2020, doi:10.1109/WACV45572.2020.9093360)."""

import torch
from torch import Tensor

from cutaway_server.introspection.cam.method import Extent, Method, Needs, Passes, Runs, spread


def ablation_cam(activation: Tensor, runs: Runs) -> Tensor:
    """Each channel, weighed by the share of the score that is lost without it.

    Args:
        activation: [N, C, …], float32.
    Returns:
        [N, C, …], float32, in the activation's unit.
    """
    samples, channels = activation.shape[:2]

    def ablated(number: Tensor) -> tuple[Tensor, Tensor]:
        sample, channel = number // channels, number % channels
        without = activation[sample]
        without[torch.arange(len(number)), channel] = 0
        return sample, without

    scores = runs.of_layer(samples * channels, ablated).view(samples, channels)
    weights = (runs.scores[:, None] - scores) / runs.scores[:, None]
    return spread(weights, activation) * activation  # before the sum and ReLU


def passes(extent: Extent) -> Passes:
    """One for each channel."""
    return Passes(forward=extent.channels)


METHOD = Method(
    name="ablation-cam",
    paper="Ramaswamy and Desai 2020, doi:10.1109/WACV45572.2020.9093360",
    formula="relu(sum_k w_k A_k), w_k = (y - y[A_k := 0]) / y",
    parts=ablation_cam,
    needs=Needs.RUNS,
    passes=passes,
    use="where gradients cannot be had or trusted",
    avoid="in a hurry; and scores near 0 or negative, by which its weights are divided: explain the probability then",
)
