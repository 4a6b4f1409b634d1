"""A network that is ready to serve: its input specs, labels, layer table, and how it is mirrored."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from cutaway_server.errors import NotIntrospectable
from cutaway_server.models.gap_head import GapHead, find_gap_head
from cutaway_server.models.in_place import mark_layers_without_gradient
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
        layers: empty where it cannot be introspected.
        gap_head: the global average and linear layer that it ends in; None where it does not.
        forward_seconds: a forward pass of one sample, as measured; 0 where it cannot be introspected.
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
    labels: tuple[str, ...]
    layers: LayerTable
    gap_head: GapHead | None
    forward_seconds: float
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

    layers, gap_head, forward_seconds, stateful, reason = _look_inside(network, make_mirror, scores_kind, probe)
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
        layers=layers,
        gap_head=gap_head,
        forward_seconds=forward_seconds,
        keeps_state=stateful,
        not_introspectable=reason,
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


def _look_inside(
    network: nn.Module,
    make_mirror: Callable[[], Mirror],
    kind: ScoresKind,
    probe: Callable[[int], tuple[Tensor, ...]],
) -> tuple[LayerTable, GapHead | None, float, bool, str]:
    """The layer table, the head, a forward pass's seconds, whether it keeps state; and why all that cannot be, if so."""
    nothing = LayerTable([]), None, 0.0, False
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        return *nothing, "it is TorchScript, which takes no hooks; serve the eager network instead"
    if any("_orig_mod" in module._modules or module._compiled_call_impl for module in network.modules()):
        return *nothing, "it is compiled, in part at least, which takes no hooks; serve the eager network instead"
    try:
        mirror = make_mirror()
        reason = check_mirror(network, mirror, probe(2), tuple(argument[1:] for argument in probe(3)))
        if reason:
            return *nothing, reason
        layers, seconds = time_layers(mirror.network, build_layer_table(mirror.network, probe), probe(2))
        layers = mark_layers_without_gradient(mirror.network, layers, probe(2))
        layers = find_strides(mirror.network, layers, probe(2))
        head = find_gap_head(mirror.network, layers, kind, probe(2))
        return layers, head, seconds, keeps_state(mirror.network, probe(2)), ""
    except Exception as error:  # whatever a stranger's network raises: Predict serves it all the same
        log.warning("no introspection", exc_info=error)
        return *nothing, "no private copy of it could be made and run; the server's log says why"


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
