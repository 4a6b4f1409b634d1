"""PyTorch, operation by operation."""

import torch
from torch import Tensor

from cutaway_server.models.device import own_stream, to_device, to_host
from cutaway_server.models.model import Model


class Eager:
    """Runs the served network as it is."""

    runs_python = True

    def __init__(self, model: Model) -> None:
        self.name = model.engine.name
        self._model = model
        self._stream = own_stream(model.device)

    def run(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """The network's scores on the host, the batch first, for model-ready arguments there. Raises what the network raises."""
        model = self._model
        with torch.inference_mode(), self._stream, model.precision():
            return to_host(model.scores(model.network, tuple(to_device(argument, model.device) for argument in arguments)))
