"""Input x gradient: Shrikumar et al. 2016 (arXiv:1605.01713)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs


def input_x_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Each element of the input times its own gradient.

    Args:
        x: [N, c, …], float32: the network's input.
        gradient: the same shape and dtype: d score / d x.
    Returns:
        [N, c, …], float32, in the score's unit.
    """
    return x * gradient


METHOD = Method(
    name="input-x-gradient",
    paper="Shrikumar et al. 2016, arXiv:1605.01713",
    formula="sum_c x g",
    parts=input_x_gradient,
    needs=Needs.GRADIENT,
    at_input=True,
    relu=False,
    use="what each pixel adds to the score of a network that is nearly linear",
    avoid="pixels of the mean colour, which are 0 to the network: they never show",
)
