"""PyTorch, operation by operation."""

import torch
from torch import Tensor, nn


class Eager:
    """Runs the served network itself."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def run(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """The network's scores, the batch first, for model-ready arguments. Raises what the network raises."""
        with torch.inference_mode():
            scores = self._network(*arguments)
            assert isinstance(scores, Tensor)
            return scores
