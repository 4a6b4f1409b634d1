"""Grad-CAM++: Chattopadhay et al. 2018, equation 19 (arXiv:1710.11063)."""

import torch
from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs, space


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each channel, weighed by its positive gradients, each of them weighed in turn so that small regions count as much as large.

    Equation 19 is divided by g^2 above and below: what is left needs no small number against a division by zero, on which maps of
    small gradients would depend. It holds for a score behind an exponential, whose derivatives are then powers of g.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype.
    Returns:
        [N, C, …], float32.
    """
    total = activation.sum(dim=space(activation), keepdim=True)
    alpha = torch.where(gradient != 0, 1 / (2 + total * gradient), 0)  # eq. 19: g^2 / (2 g^2 + sum(A) g^3)
    weights = (alpha * gradient.relu()).sum(dim=space(gradient), keepdim=True)
    return weights * activation


METHOD = Method(
    name="grad-cam++",
    paper="Chattopadhay et al. 2018, arXiv:1710.11063",
    formula="relu(sum_k w_k A_k), w_k = sum relu(g) g² / (2 g² + sum(A_k) g³)",
    parts=grad_cam_plus_plus,
    needs=Needs.GRADIENT,
    use="several objects of one class in one picture",
    avoid="layers before their ReLU, where the sum of A may be negative and the quotient large",
)
