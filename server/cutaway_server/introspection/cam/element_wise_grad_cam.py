"""Element-wise Grad-CAM, as the library pytorch-grad-cam has it: HiResCAM (arXiv:2011.08891) of what speaks for the class alone."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs


def element_wise_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each element of the layer times its own gradient, where that is positive.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype.
    Returns:
        [N, C, …], float32, in the score's unit, nothing negative.
    """
    return (gradient * activation).relu()


METHOD = Method(
    name="element-wise-grad-cam",
    paper="the library pytorch-grad-cam, after arXiv:2011.08891",
    formula="sum_k relu(g_k A_k)",
    parts=element_wise_grad_cam,
    needs=Needs.GRADIENT,
    use="all evidence for the class, even where other channels speak against it at the same place",
    avoid="asking what decided: evidence against does not show",
)
