"""PyTorch's kernels on a GPU, recorded once for each size of batch and given to the GPU in one go."""

from typing import NamedTuple

import structlog
import torch
from torch import Tensor

from cutaway_server.models.arrays import Array, to_array, to_tensor
from cutaway_server.models.device import own_stream, to_host
from cutaway_server.models.model import Model, said
from cutaway_server.prediction.engines.eager import Eager

log = structlog.get_logger()
_MOST = 64  # recordings: networks whose inputs vary in size could have any number
Shapes = tuple[tuple[int, ...], ...]


class CudaGraphs:
    """Replays a network on a CUDA device. What the CPU takes to launch its kernels one by one is saved: most of a small batch.

    A batch of shapes that come for the first time runs eager, after which its kernels are loaded; the second time it is
    recorded. What cannot be recorded goes on as it is. For one thread at a time.

    Attributes:
        why_not: why the last batch that could not be recorded could not; empty where all could.
    """

    name = "cudagraphs"
    runs_python = True

    def __init__(self, model: Model) -> None:
        self.why_not = ""
        self._model = model
        self._eager = Eager(model)
        self._stream = own_stream(model.device)
        self._memory = torch.cuda.graph_pool_handle()  # of all: no two ever run at the same time
        self._seen: set[Shapes] = set()
        self._recordings: dict[Shapes, _Recording | None] = {}

    def record(self, arguments: tuple[Array, ...]) -> None:
        """Has batches of these shapes recorded from the first on, or says in `why_not` why they cannot be."""
        self._seen.add(tuple(argument.shape for argument in arguments))
        self._eager.run(arguments)
        self.run(arguments)

    def run(self, arguments: tuple[Array, ...]) -> Array:
        """As Eager's, to the bit where its kernels are the same each time."""
        shapes = tuple(argument.shape for argument in arguments)
        given = [to_tensor(argument, spec.dtype) for argument, spec in zip(arguments, self._model.inputs, strict=True)]
        if shapes in self._seen and shapes not in self._recordings:
            self._recordings[shapes] = self._record(given)
        if recording := self._recordings.get(shapes):
            return self._replay(recording, given)
        if len(self._seen) < _MOST:
            self._seen.add(shapes)
        return self._eager.run(arguments)

    def _record(self, given: list[Tensor]) -> "_Recording | None":
        """None where that is not possible: the network waits for the GPU, or asks it for what lies elsewhere."""
        model, graph = self._model, torch.cuda.CUDAGraph()
        try:
            with torch.inference_mode(), self._stream:
                inputs = tuple(tensor.to(model.device) for tensor in given)
                # Not torch.cuda.graph: it collects Python's garbage first, and all other calls wait for that.
                graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
                try:
                    with model.precision():
                        scores = model.scores(model.network, inputs)
                finally:
                    graph.capture_end()
            return _Recording(graph, inputs, scores)
        except Exception as error:  # a network's own doing, or too little memory
            self.why_not = f"it cannot be recorded: {said(error)}"
            log.warning("a batch cannot be recorded for the GPU", model=model.name, samples=len(given[0]), reason=self.why_not)
            return None

    def _replay(self, recording: "_Recording", given: list[Tensor]) -> Array:
        with torch.inference_mode(), self._stream:
            for tensor, place in zip(given, recording.inputs, strict=True):
                place.copy_(tensor.pin_memory(), non_blocking=True)
            recording.graph.replay()
            return to_array(to_host(recording.scores))


class _Recording(NamedTuple):
    """The kernels for inputs that lie in these tensors, and where they leave the scores."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    scores: Tensor
