"""HiResCAM: Draelos and Carin 2020 (arXiv:2011.08891)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs


def hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each element of the layer times its own gradient: nothing is averaged.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype.
    Returns:
        [N, C, …], float32, in the score's unit.
    """
    return gradient * activation


METHOD = Method(
    name="hires-cam",
    paper="Draelos and Carin 2020, arXiv:2011.08891",
    formula="relu(sum_k g_k A_k)",
    parts=hires_cam,
    needs=Needs.GRADIENT,
    use="the safest of the cheap ones: where one linear layer follows, it shows just what the score is made of",
    avoid="layers with much between them and the score: gradients there are noisy",
)
