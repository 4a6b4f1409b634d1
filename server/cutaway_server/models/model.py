"""A network that is ready to serve: its input specs, labels, layer table, and how it is mirrored."""

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from cutaway_server.errors import NotIntrospectable
from cutaway_server.models.engine_choice import EAGER, EngineChoice
from cutaway_server.models.gap_head import GapHead
from cutaway_server.models.layer_table import LayerTable
from cutaway_server.models.mirror import Mirror
from cutaway_server.models.outputs import pick
from cutaway_server.models.preprocessing import ImageSpec
from cutaway_server.models.scores import ScoresKind

Shape = tuple[int, ...]
_FOLDERS = re.compile(r"(?<![\w.:/])(?:/[^/\s'\"]+)+/")  # of an absolute path


class NotServable(ValueError):
    """A network that cannot be served. The message says why in one line that callers may read; its cause is for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why.encode("utf-8", "replace").decode())  # it may quote a file: lone surrogates cannot be sent


def said(error: BaseException) -> str:
    """What an error of others' code says, in one line that callers may read."""
    return readable(str(error))[:300] or type(error).__name__


def readable(text: str) -> str:
    """A text in one line that callers may read: files by their names, without their folders."""
    return printable(_FOLDERS.sub("", " ".join(text.split())))


def printable(text: str) -> str:
    """A text that any client can show."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        name: as the forward method names it.
        dtype: of a model-ready tensor.
        shape: of one; -1 for the batch, which comes first, and for axes whose size may vary.
        image: how pixels become one; None where only model-ready tensors are taken.
        least, most: sizes that each axis may have; empty where all but the batch are fixed. The batch counts as 1.
    """

    name: str
    dtype: torch.dtype
    shape: Shape
    image: ImageSpec | None = None
    least: Shape = ()
    most: Shape = ()

    @property
    def usual(self) -> Shape:
        """The shape of one sample that it is prepared with: that of photographs, or else the least."""
        fixed = [size if size >= 0 else self.least[axis] for axis, size in enumerate(self.shape) if axis]
        if self.image and self.least:
            fixed[-2:] = [self.image.height, self.image.width]
        return tuple(fixed)

    def fits(self, shape: Iterable[int]) -> bool:
        """Whether a tensor of this shape may be an input, whatever its batch."""
        sizes = tuple(shape)[1:]
        if not self.least:
            return sizes == self.shape[1:]
        if len(sizes) != len(self.shape) - 1:
            return False
        return all(low <= size <= high for low, size, high in zip(self.least[1:], sizes, self.most[1:], strict=True))


@dataclass(frozen=True)
class Model:
    """A network under a name and a version, checked and ready.

    Attributes:
        network: what Predict runs; in eval mode; it never carries a hook of ours.
        head: path of the scores in what the network puts out; empty where that is a tensor.
        class_count: 0 where the scores are no [N, classes].
        score_classes: along axis 1 of the scores, which may have more axes; 0 where they have none.
        scores_shape: of the scores; -1 for the batch, and for sizes that may go with the input's.
        scores_dtype: of the scores.
        layers: empty where it cannot be introspected.
        gap_head: the global average and linear layer that it ends in; None where it does not.
        forward_seconds: a forward pass of one sample, as measured; 0 where it cannot be introspected.
        no_input_gradient: why no gradient can be taken with respect to the first input; empty where it can.
        keeps_state: whether a forward pass writes state that the next one may see half written, should it not end.
        not_introspectable: why not; empty where it can.
        make_mirror: a new private instance that shares all parameters and buffers.
        list_layers: the layer table for other sizes of the inputs than the usual.
        weights_digest: SHA-256, hexadecimal.
        file_digest: SHA-256 of the file that the weights came from, hexadecimal; empty where there is none.
        file_bytes: of that file, where its weights are no parameters, as those of ONNX.
        autocast: dtype that operations run in where PyTorch deems that safe; None for the weights' own.
        engine: what runs Predict: "eager" is PyTorch, operation by operation.
        onnx: a file of the same network as ONNX, where there is one.
    """

    name: str
    version: str
    network: nn.Module
    inputs: tuple[InputSpec, ...]
    head: str
    scores_kind: ScoresKind
    class_count: int
    score_classes: int
    scores_shape: Shape
    scores_dtype: torch.dtype
    labels: tuple[str, ...]
    layers: LayerTable
    gap_head: GapHead | None
    forward_seconds: float
    no_input_gradient: str
    keeps_state: bool
    not_introspectable: str
    make_mirror: Callable[[], Mirror]
    list_layers: Callable[[tuple[Shape, ...]], LayerTable]
    weights_digest: str
    device: torch.device
    file_digest: str = ""
    file_bytes: int = 0
    autocast: torch.dtype | None = None
    engine: EngineChoice = EAGER
    onnx: Path | None = None

    @property
    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def weight_bytes(self) -> int:
        """What its parameters and buffers take in memory; about that, where they are an engine's own."""
        return self.file_bytes + sum(tensor.nbytes for tensor in chain(self.network.parameters(), self.network.buffers()))

    def check_introspectable(self) -> None:
        """Raises:
        NotIntrospectable: its inside cannot be shown; says why.
        """
        if self.not_introspectable:
            raise NotIntrospectable(self.name, self.not_introspectable)

    def precision(self) -> AbstractContextManager[object]:
        """Open around whatever runs the network."""
        return precision(self.device, self.autocast)

    def scores(self, network: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
        """What the network, or a mirror of it, says of these arguments. The caller keeps `precision` open."""
        return pick(network(*arguments), self.head)

    def at(self, arguments: tuple[Tensor, ...]) -> "Model":
        """The model as it is for inputs of these sizes: with their layer table."""
        if not any(spec.least for spec in self.inputs):
            return self
        sizes = tuple(tuple(argument.shape[1:]) for argument in arguments)
        usual = sizes == tuple(spec.usual for spec in self.inputs)
        inputs = tuple(replace(spec, shape=(-1, *size), least=(), most=()) for spec, size in zip(self.inputs, sizes, strict=True))
        return replace(self, inputs=inputs, layers=self.layers if usual else self.list_layers(sizes))

    def probe(self, batch: int) -> tuple[Tensor, ...]:
        """Arguments of the usual sizes, always the same."""
        return probe(self.inputs, batch, self.device)


def precision(device: torch.device, autocast: torch.dtype | None) -> AbstractContextManager[object]:
    """Lets operations run in another dtype where PyTorch deems that safe; nothing where that is None."""
    return nullcontext() if autocast is None else torch.autocast(device.type, autocast)


def probe(
    inputs: tuple[InputSpec, ...], batch: int, device: torch.device, sizes: tuple[Shape, ...] = (), seed: int = 0
) -> tuple[Tensor, ...]:
    """Random arguments, always the same of one seed: standard normal, random pixels, or zeros, as the dtype allows."""
    draw = torch.Generator().manual_seed(seed)
    shapes = sizes or tuple(spec.usual for spec in inputs)
    return tuple(_draw(spec.dtype, (batch, *shape), draw).to(device) for spec, shape in zip(inputs, shapes, strict=True))


def _draw(dtype: torch.dtype, shape: Shape, draw: torch.Generator) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, generator=draw).to(dtype)
    if dtype is torch.uint8:
        return torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    return torch.zeros(shape, dtype=dtype)


def shape_text(spec: InputSpec) -> str:
    """The shape as people write it: [N, 3, 64…512, 64…512]."""
    ranges = zip(spec.least or spec.shape, spec.most or spec.shape, strict=True)
    sizes = [str(low) if low == high else f"{low}…{high}" for low, high in ranges]
    return f"[{', '.join(['N', *sizes[1:]])}]"
