"""Eigen-CAM: Muhammad and Yeasin 2020 (arXiv:2008.00299)."""

from torch import Tensor

from cutaway_server.introspection.cam.method import Join, Method, Needs


def eigen_cam(activation: Tensor) -> Tensor:
    """The activation itself: its first principal component is the map.

    Channels are centred over the plane first, as the libraries do and the paper does not, or the component is mostly the mean.

    Args:
        activation: [N, C, …], float32.
    Returns:
        [N, C, …], float32, in the activation's unit.
    """
    return activation


METHOD = Method(
    name="eigen-cam",
    paper="Muhammad and Yeasin 2020, arXiv:2008.00299",
    formula="first principal component of A",
    parts=eigen_cam,
    needs=Needs.ACTIVATION,
    join=Join.PRINCIPAL,
    use="what stands out to the layer, whatever the class; no gradient is needed",
    avoid="asking about a class: the map is the same for all",
)
