"""LayerCAM: Jiang et al. 2021 (IEEE Transactions on Image Processing 30, doi:10.1109/TIP.2021.3089943)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each element of the layer times its own gradient, negative gradients taken as 0.

    Args:
        activation: [N, C, …], float32.
        gradient: the same shape and dtype.
    Returns:
        [N, C, …], float32, in the score's unit.
    """
    return gradient.relu() * activation


METHOD = Method(
    name="layer-cam",
    paper="Jiang et al. 2021, doi:10.1109/TIP.2021.3089943",
    formula="relu(sum_k relu(g_k) A_k)",
    parts=layer_cam,
    needs=Needs.GRADIENT,
    use="early and middle layers: fine maps, and fusion of several layers",
    avoid="asking what decided: evidence against does not show",
)
