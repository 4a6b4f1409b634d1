"""A network that is ready to serve: its input specs, labels, layer table, and how it is mirrored."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from cutaway_server.errors import NotIntrospectable
from cutaway_server.models.gap_head import GapHead, find_gap_head
from cutaway_server.models.in_place import input_without_gradient, mark_layers_without_gradient
from cutaway_server.models.layer_table import LayerTable, build_layer_table
from cutaway_server.models.mirror import Mirror, check_mirror, mirror_by_references, mirror_from_factory
from cutaway_server.models.preprocessing import ImageSpec
from cutaway_server.models.scores import ScoresKind
from cutaway_server.models.state import keeps_state
from cutaway_server.models.strides import find_strides
from cutaway_server.models.tensor_bytes import SENDABLE
from cutaway_server.models.timing import time_layers

log = structlog.get_logger()


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        name: as the forward method names it.
        dtype: of a model-ready tensor.
        shape: of one; -1 for the batch, which comes first.
        image: how pixels become one; None where only model-ready tensors are taken.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    image: ImageSpec | None = None


@dataclass(frozen=True)
class Model:
    """A network under a name and a version, checked and ready.

    Attributes:
        network: what Predict runs; in eval mode; it never carries a hook of ours.
        class_count: 0 where the output is no [N, classes].
        score_classes: along axis 1 of the output, which may have more axes; 0 where it has none.
        layers: empty where it cannot be introspected.
        gap_head: the global average and linear layer that it ends in; None where it does not.
        forward_seconds: a forward pass of one sample, as measured; 0 where it cannot be introspected.
        no_input_gradient: why no gradient can be taken with respect to the first input; empty where it can.
        keeps_state: whether a forward pass writes state that the next one may see half written, should it not end.
        not_introspectable: why not; empty where it can.
        make_mirror: a new private instance that shares all parameters and buffers.
        weights_digest: SHA-256, hexadecimal.
    """

    name: str
    version: str
    network: nn.Module
    inputs: tuple[InputSpec, ...]
    scores_kind: ScoresKind
    class_count: int
    score_classes: int
    labels: tuple[str, ...]
    layers: LayerTable
    gap_head: GapHead | None
    forward_seconds: float
    no_input_gradient: str
    keeps_state: bool
    not_introspectable: str
    make_mirror: Callable[[], Mirror]
    weights_digest: str
    device: torch.device

    @property
    def engine(self) -> str:
        """What runs a forward pass: "eager" is PyTorch, operation by operation."""
        return "eager"

    @property
    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def check_introspectable(self) -> None:
        """Raises:
        NotIntrospectable: its inside cannot be shown; says why.
        """
        if self.not_introspectable:
            raise NotIntrospectable(self.name, self.not_introspectable)


class NotServable(ValueError):
    """A network that cannot be served; the message says why, for the one who serves it."""


def prepare(
    network: nn.Module,
    *,
    name: str,
    version: str = "1",
    inputs: tuple[InputSpec, ...],
    scores_kind: ScoresKind = ScoresKind.LOGITS,
    labels: Sequence[str] = (),
    factory: Callable[[], nn.Module] | None = None,
) -> Model:
    """Puts a network into eval mode, freezes it, runs it on probes, lists its layers and checks that a mirror shows what it does.

    Args:
        network: takes the inputs as positional arguments and gives one tensor, the batch first.
        factory: makes the network anew, with other weights: the better mirrors come from it.
    Raises:
        NotServable: the network does not run on its input spec, or gives no single tensor.
    """
    device = next(chain(network.parameters(), network.buffers()), torch.empty(0, device="cpu")).device

    def probe(batch: int) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(0)
        return tuple(_probe(spec, batch, draw).to(device) for spec in inputs)

    scores = _first_run(network, name, probe(2))

    def make_mirror() -> Mirror:
        return mirror_from_factory(network, factory, probe(2)) if factory else mirror_by_references(network)

    inside = _look_inside(network, make_mirror, scores_kind, probe)
    class_count = scores.shape[1] if scores.ndim == 2 else 0
    if labels and len(labels) != class_count:
        raise NotServable(f"{name}: {len(labels)} labels for {class_count} classes")
    return Model(
        name=name,
        version=version,
        network=network,
        inputs=inputs,
        scores_kind=scores_kind,
        class_count=class_count,
        labels=tuple(labels),
        score_classes=scores.shape[1] if scores.ndim >= 2 else 0,
        layers=inside.layers,
        gap_head=inside.gap_head,
        forward_seconds=inside.forward_seconds,
        no_input_gradient=inside.no_input_gradient,
        keeps_state=inside.keeps_state,
        not_introspectable=inside.reason,
        make_mirror=make_mirror,
        weights_digest=weights_digest(network),
        device=device,
    )


def _probe(spec: InputSpec, batch: int, draw: torch.Generator) -> Tensor:
    shape = (batch, *spec.shape[1:])
    if spec.dtype.is_floating_point:
        return torch.randn(shape, generator=draw).to(spec.dtype)
    if spec.dtype is torch.uint8:
        return torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    return torch.zeros(shape, dtype=spec.dtype)


def _first_run(network: nn.Module, name: str, arguments: tuple[Tensor, ...]) -> Tensor:
    try:
        network.eval()
        with torch.no_grad():  # no inference mode: what it makes now and keeps, as lazy modules do, the mirrors share
            scores = network(*arguments)
        for parameter in network.parameters():
            parameter.requires_grad_(False)  # which kernel runs may depend on it, and mirrors are frozen too
    except Exception as error:
        shapes = ", ".join(str(list(argument.shape)) for argument in arguments)
        raise NotServable(f"{name}: the network fails on {shapes}: {error}") from error
    if not isinstance(scores, Tensor) or scores.ndim == 0 or len(scores) != len(arguments[0]):
        raise NotServable(f"{name}: the network must give one tensor whose first axis is the batch")
    if unknown := {str(a.dtype) for a in arguments if a.dtype not in SENDABLE}:
        raise NotServable(f"{name}: inputs of {', '.join(unknown)} cannot be sent")
    if not scores.dtype.is_floating_point:
        raise NotServable(f"{name}: the network must give floating-point scores, not {scores.dtype}")
    return scores


class _Inside(NamedTuple):
    """What looking inside a network needs to know of it; or the reason why it cannot be looked into."""

    reason: str
    layers: LayerTable = LayerTable([])
    gap_head: GapHead | None = None
    forward_seconds: float = 0.0
    no_input_gradient: str = ""
    keeps_state: bool = False


def _look_inside(
    network: nn.Module,
    make_mirror: Callable[[], Mirror],
    kind: ScoresKind,
    probe: Callable[[int], tuple[Tensor, ...]],
) -> _Inside:
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        return _Inside("it is TorchScript, which takes no hooks; serve the eager network instead")
    if any("_orig_mod" in module._modules or module._compiled_call_impl for module in network.modules()):
        return _Inside("it is compiled, in part at least, which takes no hooks; serve the eager network instead")
    try:
        mirror = make_mirror()
        reason = check_mirror(network, mirror, probe(2), tuple(argument[1:] for argument in probe(3)))
        if reason:
            return _Inside(reason)
        layers, seconds = time_layers(mirror.network, build_layer_table(mirror.network, probe), probe(2))
        layers = mark_layers_without_gradient(mirror.network, layers, probe(2))
        layers = find_strides(mirror.network, layers, probe(2))
        return _Inside(
            reason="",
            layers=layers,
            gap_head=find_gap_head(mirror.network, layers, kind, probe(2)),
            forward_seconds=seconds,
            no_input_gradient=input_without_gradient(mirror.network, probe(2)),
            keeps_state=keeps_state(mirror.network, probe(2)),
        )
    except Exception as error:  # whatever a stranger's network raises: Predict serves it all the same
        log.warning("no introspection", exc_info=error)
        return _Inside("no private copy of it could be made and run; the server's log says why")


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers in order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(np.ascontiguousarray(raw.numpy()).data)
    return digest.hexdigest()
