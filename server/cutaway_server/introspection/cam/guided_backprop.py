"""Guided backpropagation: Springenberg et al. 2014, section 3.4 (arXiv:1412.6806)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Extent, Join, Method, Needs, Passes, Runs


def guided_backprop(x: Tensor, runs: Runs) -> Tensor:
    """The gradient, with all that is negative set to 0 at each rectifier on its way back.

    A warning: the result hardly depends on the class or on the weights of the layers near the output (Adebayo et al. 2018,
    arXiv:1810.03292): it shows edges of the input more than reasons of the network.

    Args:
        x: [N, c, …], float32: the network's input.
    Returns:
        [N, c, …], float32, in the score's unit for each unit of the input.
    """

    def as_it_is(number: Tensor) -> tuple[Tensor, Tensor]:
        return number, x[number]

    total = x.new_zeros(x.shape)
    for samples, gradient in runs.gradients(len(x), as_it_is, guided=True):
        total[samples] = gradient
    return total


def passes(extent: Extent) -> Passes:
    """One of each."""
    return Passes(1, 1)


METHOD = Method(
    name="guided-backprop",
    paper="Springenberg et al. 2014, arXiv:1412.6806",
    formula="max_c abs(g), g cut to its positive part at each ReLU",
    parts=guided_backprop,
    needs=Needs.RUNS,
    at_input=True,
    join=Join.LARGEST,
    relu=False,
    passes=passes,
    use="pictures of what a unit responds to",
    avoid="explaining a decision: it fails the sanity checks of arXiv:1810.03292, and hardly depends on the class",
)
