"""Grad-CAM: Selvaraju et al. 2017, equations 1 and 2 (arXiv:1610.02391)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs, space


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each channel of the layer, weighed by its mean gradient.

    The sum over channels and the ReLU of equation 2 are settings of the request: the caller applies them, as for every method.

    Args:
        activation: [N, C, …], float32: what the target layer put out.
        gradient: the same shape and dtype: d score / d activation.
    Returns:
        [N, C, …], float32, in the score's unit.
    """
    weights = gradient.mean(dim=space(gradient), keepdim=True)  # eq. 1: [N, C, 1, …]
    return weights * activation  # eq. 2 before its sum and ReLU


METHOD = Method(
    name="grad-cam",
    paper="Selvaraju et al. 2017, arXiv:1610.02391",
    formula="relu(sum_k mean(g_k) A_k)",
    parts=grad_cam,
    needs=Needs.GRADIENT,
    use="the first look at any network: cheap, and what most people compare with",
    avoid="early layers, where a channel's mean gradient says little: it can highlight places that the network did not use",
)
