"""The class activation map: Zhou et al. 2016, equation 2 (arXiv:1512.04150)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs, spread


def cam(activation: Tensor, rows: Tensor) -> Tensor:
    """Each channel of the layer that is averaged, weighed by the class's row of the linear head.

    The mean of their sum over the plane, plus the head's bias, is the class's logit.

    Args:
        activation: [N, C, …], float32: what the target layer put out.
        rows: [N, C], float32: for each sample the head's weights for its class.
    Returns:
        [N, C, …], float32, in the logit's unit.
    """
    return spread(rows, activation) * activation  # eq. 2, before its sum over channels


METHOD = Method(
    name="cam",
    paper="Zhou et al. 2016, arXiv:1512.04150",
    formula="sum_k W[c,k] A_k",
    parts=cam,
    needs=Needs.HEAD,
    relu=False,
    use="a network that ends in a global average and one linear layer: the map adds up to the logit",
    avoid="any other network: it is refused",
)
