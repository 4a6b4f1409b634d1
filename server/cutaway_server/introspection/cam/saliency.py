"""Saliency: Simonyan et al. 2013, section 3.1 (arXiv:1312.6034)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Join, Method, Needs


def saliency(x: Tensor, gradient: Tensor) -> Tensor:
    """How the score changes with each element of the input. The map is the largest absolute value over channels.

    Args:
        x: [N, c, …], float32: the network's input.
        gradient: the same shape and dtype: d score / d x.
    Returns:
        [N, c, …], float32, in the score's unit for each unit of the input.
    """
    return gradient


METHOD = Method(
    name="saliency",
    paper="Simonyan et al. 2013, arXiv:1312.6034",
    formula="max_c abs(g)",
    parts=saliency,
    needs=Needs.GRADIENT,
    at_input=True,
    join=Join.LARGEST,
    relu=False,
    use="which pixels the score is sensitive to, at full resolution",
    avoid="reading shapes: it is noisy",
)
