"""ShapleyCAM: Cai 2025 (arXiv:2501.06261)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Extent, Method, Needs, Passes, space


def shapley_cam(activation: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
    """Each channel, weighed by its mean gradient less half of how that changes along the activation.

    For the logit of a network of rectifiers, which is linear around the input, the second term is 0 and the map that of Grad-CAM.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype.
        curvature: the same: the Hessian of the score, times the activation.
    Returns:
        [N, C, …], float32, in the score's unit.
    """
    weights = (gradient - 0.5 * curvature).mean(dim=space(gradient), keepdim=True)
    return weights * activation


def passes(extent: Extent) -> Passes:
    """The gradient with its own record, and the derivative of that."""
    return Passes(backward=2)


METHOD = Method(
    name="shapley-cam",
    paper="Cai 2025, arXiv:2501.06261",
    formula="relu(sum_k mean(g_k - H A / 2) A_k), H the Hessian of y",
    parts=shapley_cam,
    needs=Needs.CURVATURE,
    passes=passes,
    use="smooth activations (SiLU, GELU) and probabilities, where the score bends",
    avoid="the logit of a network of ReLUs: it is Grad-CAM there, at three times the price",
)
