"""A control: weights by chance instead of by a class, as the library pytorch-grad-cam has it."""

import torch
from torch import Tensor

from cutaway_server.introspection.cam.method import Method, Needs, spread


def random_cam(activation: Tensor, draw: torch.Generator) -> Tensor:
    """Each channel, weighed by a number drawn evenly from -1 to 1.

    Args:
        activation: [N, C, …], float32.
        draw: on the CPU.
    Returns:
        [N, C, …], float32, in the activation's unit.
    """
    weights = torch.rand(activation.shape[:2], generator=draw) * 2 - 1
    return spread(weights.to(activation.device), activation) * activation


METHOD = Method(
    name="random-cam",
    paper="the library pytorch-grad-cam",
    formula="relu(sum_k w_k A_k), w_k uniform in -1 … 1",
    parts=random_cam,
    needs=Needs.CHANCE,
    chance=True,
    use="a control: a map that looks no better than this one says nothing about the class",
    avoid="anything else",
)
