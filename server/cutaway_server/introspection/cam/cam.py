"""The class activation map: Zhou et al. 2016, equation 2 (arXiv:1512.04150)."""

from torch import Tensor


def cam(activation: Tensor, rows: Tensor) -> Tensor:
    """Each channel of the layer that is averaged, weighed by the class's row of the linear head, summed to one plane a sample.

    Its mean over the plane, plus the head's bias, is the class's logit.

    Args:
        activation: [N, C, H, W], float32: what the target layer put out.
        rows: [N, C], float32: for each sample the head's weights for its class.
    Returns:
        [N, H, W], float32, in the logit's unit, not normalised, negative values kept.
    """
    return (rows[:, :, None, None] * activation).sum(dim=1)
