"""From a network to a model: run on probes, listed, mirrored and checked."""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from cutaway_server.models.aside import mark_layers_aside
from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.gap_head import GapHead, find_gap_head
from cutaway_server.models.in_place import input_without_gradient, mark_layers_without_gradient
from cutaway_server.models.layer_table import LayerTable, build_layer_table
from cutaway_server.models.mirror import Mirror, check_mirror, mirror_by_references, mirror_from_factory
from cutaway_server.models.model import InputSpec, Model, NotServable, Shape, precision, said
from cutaway_server.models.model import probe as draw_probe
from cutaway_server.models.outputs import pick
from cutaway_server.models.scores import ScoresKind, contradiction
from cutaway_server.models.state import keeps_state
from cutaway_server.models.strides import find_strides
from cutaway_server.models.tensor_bytes import SENDABLE
from cutaway_server.models.timing import time_layers
from cutaway_server.models.walk import tensors

log = structlog.get_logger()
_KEPT_TABLES = 16  # of other sizes than the usual

Probe = Callable[[int], tuple[Tensor, ...]]


def prepare(
    network: nn.Module,
    *,
    name: str,
    version: str = "1",
    inputs: tuple[InputSpec, ...],
    head: str = "",
    scores_kind: ScoresKind = ScoresKind.LOGITS,
    labels: Sequence[str] = (),
    factory: Callable[[], nn.Module] | None = None,
    autocast: torch.dtype | None = None,
    not_hookable: str = "",
    file_digest: str = "",
    engine: str = "eager",
    onnx: Path | None = None,
) -> Model:
    """Puts a network into eval mode, freezes it, runs it on probes, lists its layers and checks that a mirror shows what it does.

    Args:
        network: takes the inputs as positional arguments. Where it gives several tensors, `head` names one.
        head: path of the scores, whose first axis is the batch.
        factory: makes the network anew, with other weights: the better mirrors come from it.
        not_hookable: why it can have no hooks, where that is known.
        engine: what runs it as it is.
        onnx: a file of the same network as ONNX, where there is one.
    Raises:
        NotServable: the network does not run on its input spec, or what it gives are no such scores.
    """
    device = next(chain(network.parameters(), network.buffers()), torch.empty(0, device="cpu")).device

    def probe(batch: int) -> tuple[Tensor, ...]:
        return draw_probe(inputs, batch, device)

    with precision(device, autocast):
        head, scores = _first_run(network, probe(2), head)
        _check_scores(scores, scores_kind)
        classes = scores.shape[1] if scores.ndim >= 2 else 0
        if labels and len(labels) != classes:
            raise NotServable(f"{len(labels)} labels for {classes} classes")

        def make_mirror() -> Mirror:
            return mirror_from_factory(network, factory, probe(2)) if factory else mirror_by_references(network)

        inside = _Inside(not_hookable) if not_hookable else _look_inside(network, make_mirror, head, scores_kind, probe)

    @lru_cache(_KEPT_TABLES)
    def list_layers(sizes: tuple[Shape, ...]) -> LayerTable:
        with precision(device, autocast):
            other = build_layer_table(make_mirror().network, lambda batch: draw_probe(inputs, batch, device, sizes))
        return other.with_facts_of(inside.layers)

    return Model(
        name=name,
        version=version,
        network=network,
        inputs=inputs,
        head=head,
        scores_kind=scores_kind,
        class_count=classes if scores.ndim == 2 else 0,
        labels=tuple(labels),
        score_classes=classes,
        scores_shape=_open_shape(scores, inputs),
        scores_dtype=scores.dtype,
        layers=inside.layers,
        gap_head=inside.gap_head,
        forward_seconds=inside.forward_seconds,
        no_input_gradient=inside.no_input_gradient,
        keeps_state=inside.keeps_state,
        not_introspectable=inside.reason,
        make_mirror=make_mirror,
        list_layers=list_layers,
        weights_digest=weights_digest(network),
        file_digest=file_digest,
        device=device,
        autocast=autocast,
        engine=EngineChoice(engine),
        onnx=onnx,
    )


def _first_run(network: nn.Module, arguments: tuple[Tensor, ...], head: str) -> tuple[str, Tensor]:
    """The path of the scores, and those of the first probe."""
    try:
        network.eval()
        with torch.no_grad():  # no inference mode: what it makes now and keeps, as lazy modules do, the mirrors share
            output = network(*arguments)
        for parameter in network.parameters():
            parameter.requires_grad_(False)  # which kernel runs may depend on it, and mirrors are frozen too
    except Exception as error:
        shapes = ", ".join(str(list(argument.shape)) for argument in arguments)
        raise NotServable(f"the network fails on {shapes}: {said(error)}") from error
    head = head or _only_tensor(output)
    try:
        scores = pick(output, head)
    except (LookupError, ValueError, TypeError) as error:
        raise NotServable(f"there is no tensor {head!r} in what the network gives: {_offers(output)}") from error
    if scores.ndim == 0 or len(scores) != len(arguments[0]):
        raise NotServable("the network must give one tensor whose first axis is the batch")
    if unknown := {str(a.dtype) for a in arguments if a.dtype not in SENDABLE}:
        raise NotServable(f"inputs of {', '.join(unknown)} cannot be sent")
    if not scores.dtype.is_floating_point:
        raise NotServable(f"the network must give floating-point scores, not {scores.dtype}")
    return head, scores


def _open_shape(scores: Tensor, inputs: tuple[InputSpec, ...]) -> Shape:
    """The shape of scores for any batch; of inputs that vary in size, for any of those."""
    varies = any(spec.least for spec in inputs)
    return (-1, *scores.shape[1:2], *(-1 if varies else size for size in scores.shape[2:]))


def _only_tensor(output: Any) -> str:
    paths = [path for path, _ in tensors(output)]
    if not paths:
        raise NotServable("the network must give one tensor whose first axis is the batch")
    if len(paths) > 1:
        raise NotServable(f"the network gives several tensors; name one of them as its head: {_offers(output)}")
    return paths[0]


def _offers(output: Any) -> str:
    return ", ".join(f"{path!r} {list(tensor.shape)}" for path, tensor in tensors(output)) or "none"


def _check_scores(scores: Tensor, kind: ScoresKind) -> None:
    if scores.ndim >= 2 and (reason := contradiction(scores, kind)):
        raise NotServable(f"the scores are declared {kind.value}, but {reason}")


class _Inside(NamedTuple):
    """What looking inside a network needs to know of it; or the reason why it cannot be looked into."""

    reason: str
    layers: LayerTable = LayerTable([])
    gap_head: GapHead | None = None
    forward_seconds: float = 0.0
    no_input_gradient: str = ""
    keeps_state: bool = False


def _look_inside(network: nn.Module, make_mirror: Callable[[], Mirror], head: str, kind: ScoresKind, probe: Probe) -> _Inside:
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
        layers = mark_layers_aside(mirror.network, layers, head, probe(2))
        layers = find_strides(mirror.network, layers, probe(2))
        return _Inside(
            reason="",
            layers=layers,
            gap_head=find_gap_head(mirror.network, layers, head, kind, probe(2)),
            forward_seconds=seconds,
            no_input_gradient=input_without_gradient(mirror.network, head, probe(2)),
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
