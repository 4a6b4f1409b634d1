"""Eigen-Grad-CAM, as the library pytorch-grad-cam has it: Eigen-CAM (arXiv:2008.00299) of activations times gradients."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Join, Method, Needs


def eigen_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each element of the layer times its own gradient: the first principal component of that is the map.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype.
    Returns:
        [N, C, …], float32, in the score's unit.
    """
    return gradient * activation


METHOD = Method(
    name="eigen-grad-cam",
    paper="the library pytorch-grad-cam, after arXiv:2008.00299",
    formula="first principal component of g A",
    parts=eigen_grad_cam,
    needs=Needs.GRADIENT,
    join=Join.PRINCIPAL,
    use="a smooth map of a class where the others are speckled",
    avoid="reading the values: a component's sign and size are not evidence",
)
