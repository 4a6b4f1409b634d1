"""XGrad-CAM: Fu et al. 2020 (arXiv:2008.02312)."""

import torch
from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs, space


def xgrad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each channel, weighed by its gradient's mean, in which each place counts as much as it is active.

    A channel whose activations add up to 0 has no weight.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype.
    Returns:
        [N, C, …], float32, in the score's unit.
    """
    total = activation.sum(dim=space(activation), keepdim=True)
    gain = (gradient * activation).sum(dim=space(activation), keepdim=True)
    weights = torch.where(total != 0, gain / total, 0)  # sum over places of g A / sum(A)
    return weights * activation


METHOD = Method(
    name="xgrad-cam",
    paper="Fu et al. 2020, arXiv:2008.02312",
    formula="relu(sum_k w_k A_k), w_k = sum(g A_k) / sum(A_k)",
    parts=xgrad_cam,
    needs=Needs.GRADIENT,
    use="where the map should add up to what the layer adds to the score",
    avoid="layers before their ReLU: a channel that adds up to nearly 0 gets a huge weight",
)
