"""Finer-CAM: Zhang et al. 2025 (arXiv:2501.11309)."""

from torch import Tensor

from cutaway_server.introspection.cam.grad_cam import grad_cam
from cutaway_server.introspection.cam.method import Method, Needs


def finer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM of what sets the class apart: its score less 0.6 of the mean score of the three classes that score most like it.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype: of that difference.
    Returns:
        [N, C, …], float32, in the score's unit.
    """
    return grad_cam(activation, gradient)


METHOD = Method(
    name="finer-cam",
    paper="Zhang et al. 2025, arXiv:2501.11309",
    formula="Grad-CAM of y_c - 0.6 mean(y_d), d the three classes that score most like c",
    parts=finer_cam,
    needs=Needs.GRADIENT,
    finer=True,
    use="classes that are easily confused: species, car models",
    avoid="a network of few, unlike classes",
)
