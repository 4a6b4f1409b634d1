"""PyTorch's kernels on a GPU, recorded once for each size of batch and given to the GPU in one go."""

import threading
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import structlog
import torch
from torch import Tensor, nn

from cutaway_server.models.arrays import Array, to_array, to_tensor
from cutaway_server.models.device import own_stream, to_host
from cutaway_server.models.model import Model, said
from cutaway_server.models.walk import tensors
from cutaway_server.prediction.engines.eager import Eager

log = structlog.get_logger()
_MOST = 64  # recordings: networks whose inputs vary in size could have any number
_recording = threading.Lock()
Shapes = tuple[tuple[int, ...], ...]


class NotRecordable(Exception):
    """Why a network's kernels cannot be recorded, in one line."""


class CudaGraphs:
    """Replays a network on a CUDA device. What the CPU takes to launch its kernels one by one is saved: most of a small batch.

    A batch of shapes that come for the first time runs eager, after which its kernels are loaded; the second time it is
    recorded. What cannot be recorded goes on as it is. For one thread at a time.

    Raises:
        NotRecordable: the model is on no CUDA device, or its network keeps state from one run to the next.
    """

    name = "cudagraphs"
    runs_python = True
    one_at_a_time = True

    def __init__(self, model: Model) -> None:
        if model.device.type != "cuda":
            raise NotRecordable(f"it runs on {model.device}, and this engine on a CUDA device alone")
        if model.keeps_state:
            raise NotRecordable("it keeps state from one run to the next, which a recording would not renew")
        self._model = model
        self._eager = Eager(model)
        self._stream = own_stream(model.device)
        self._memory = torch.cuda.graph_pool_handle()  # of all recordings: no two ever run at the same time
        self._held: list[int] | None = None
        self._seen: set[Shapes] = set()
        self._recordings: dict[Shapes, _Recording | None] = {}

    def record(self, arguments: tuple[Array, ...]) -> None:
        """Has batches of these shapes recorded from the first on.

        Raises:
            NotRecordable: they cannot be.
        """
        shapes = _shapes(arguments)
        self._eager.run(arguments)
        held = _held(self._model.network)
        if self._held not in (None, held):
            raise NotRecordable("it keeps tensors that change with the size of the batch, which recordings would go on reading")
        self._held = held
        self._seen.add(shapes)
        self._recordings[shapes] = self._recorded(self._tensors(arguments))

    def run(self, arguments: tuple[Array, ...]) -> Array:
        """As Eager's, to the bit where its kernels are the same each time."""
        shapes = _shapes(arguments)
        if shapes in self._seen and shapes not in self._recordings:
            self._recordings[shapes] = self._recorded_or_none(arguments)
        if recording := self._recordings.get(shapes):
            return self._replay(recording, self._tensors(arguments))
        if len(self._seen) < _MOST:
            self._seen.add(shapes)
        return self._eager.run(arguments)

    def _tensors(self, arguments: tuple[Array, ...]) -> list[Tensor]:
        return [to_tensor(argument, spec.dtype) for argument, spec in zip(arguments, self._model.inputs, strict=True)]

    def _recorded_or_none(self, arguments: tuple[Array, ...]) -> "_Recording | None":
        try:
            return self._recorded(self._tensors(arguments))
        except NotRecordable as why:
            log.warning("batches of this size run eager", model=self._model.name, samples=len(arguments[0]), reason=str(why))
            return None

    def _recorded(self, given: list[Tensor]) -> "_Recording":
        model, graph = self._model, torch.cuda.CUDAGraph()
        inputs = tuple(tensor.to(model.device) for tensor in given)
        torch.cuda.current_stream(model.device).synchronize()
        with _recording, torch.inference_mode(), torch.cuda.stream(_recording_stream(model.device)):
            # Not torch.cuda.graph: it collects Python's garbage first, and all other calls wait for that.
            try:
                graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
                with model.precision():
                    scores = model.scores(model.network, inputs)
                graph.capture_end()
            except Exception as error:  # a network's own doing, or too little memory
                self._abandon(graph)
                raise NotRecordable(f"it cannot be recorded: {said(error)}") from error
        return _Recording(graph, inputs, scores)

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """Ends a recording that failed. Where that fails, too, PyTorch goes on recording into its memory, unless it is told."""
        try:
            graph.capture_end()
        except RuntimeError:
            with suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(self._model.device.index, self._memory)
        self._memory = torch.cuda.graph_pool_handle()

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


def _shapes(arguments: tuple[Array, ...]) -> Shapes:
    return tuple(argument.shape for argument in arguments)


def _held(network: nn.Module) -> list[int]:
    """Which tensors its modules hold."""
    held = [vars(module) for module in network.modules()]
    return [id(tensor) for members in held for name, value in members.items() if name != "_modules" for _, tensor in tensors(value)]


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Used for nothing else: what another thread gave it would be recorded, too. Others take streams of the usual priority."""
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
