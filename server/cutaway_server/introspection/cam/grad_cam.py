"""Grad-CAM: Selvaraju et al. 2017, equations 1 and 2 (arXiv:1610.02391)."""

from torch import Tensor


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each channel of the layer, weighed by its mean gradient, summed to one plane a sample.

    The ReLU of equation 2 is a setting of the request: the caller applies it, as for every method here.

    Args:
        activation: [N, C, H, W], float32: what the target layer put out.
        gradient: the same shape and dtype: d score / d activation.
    Returns:
        [N, H, W], float32, in the score's unit, not normalised.
    """
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # eq. 1: [N, C, 1, 1]
    return (weights * activation).sum(dim=1)  # eq. 2 before its ReLU
