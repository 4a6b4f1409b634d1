"""PyTorch, operation by operation."""

import torch

from cutaway_server.models.arrays import Array, to_array, to_tensor
from cutaway_server.models.device import own_stream, to_device, to_host
from cutaway_server.models.model import Model


class Eager:
    """Runs the served network as it is."""

    runs_python = True
    one_at_a_time = False

    def __init__(self, model: Model) -> None:
        self.name = model.engine.name
        self._model = model
        self._stream = own_stream(model.device)

    def run(self, arguments: tuple[Array, ...]) -> Array:
        """The network's scores, the batch first, for model-ready arguments. Raises what the network raises."""
        model = self._model
        given = [to_tensor(argument, spec.dtype) for argument, spec in zip(arguments, model.inputs, strict=True)]
        with torch.inference_mode(), self._stream, model.precision():
            scores = model.scores(model.network, tuple(to_device(argument, model.device) for argument in given))
            if scores.dtype != model.scores_dtype:
                raise TypeError(f"the network gives {scores.dtype}, not {model.scores_dtype} as before")
            return to_array(to_host(scores))
