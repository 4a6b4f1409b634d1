"""Runs one introspection on a mirror: hooks on, forward pass, captures on their way at once, hooks off; then gradients and maps."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.errors import NetworkFailed, NotHookable, Refusal
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.cam import Needs
from cutaway_server.introspection.cam.cam import cam
from cutaway_server.introspection.cam.grad_cam import grad_cam
from cutaway_server.introspection.events import (
    PIECE_BYTES,
    CamSubject,
    CaptureSubject,
    Failed,
    Finished,
    Header,
    LayerCost,
    Piece,
    Predicted,
    ScoresSubject,
    Started,
)
from cutaway_server.introspection.plan import CaptureKind, Plan, PlannedCam, Target
from cutaway_server.metrics import Metrics
from cutaway_server.models.layer_table import Layer, argument
from cutaway_server.models.mirror import Mirror
from cutaway_server.models.scores import probabilities, top_classes
from cutaway_server.models.tensor_bytes import is_sendable, raw_bytes
from cutaway_server.models.walk import Site, Walk, tensors


class _EarlyStop(Exception):
    """Ends a forward pass of which nothing more is wanted. An Exception: a BaseException would skip `always_call` hooks."""


def run(call: Call, mirror: Mirror, metrics: Metrics) -> None:
    """Runs a call on a mirror that it holds alone. The mirror carries no hook of the call when this returns or raises.

    Raises:
        Refusal: what stopped the call, or NetworkFailed with the cause.
    """
    stages = {"wait": time.monotonic() - call.arrived}
    call.put(Started(call.plan))
    sender = _Sender(call, metrics)
    taps = _Taps(call, sender)
    scores = _forward(call, mirror, taps, stages, metrics)
    for layer, kind in taps.missing():
        why = NotHookable("captures", layer, "it did not run for this input")
        call.put(Failed(CaptureSubject(layer, kind), why))
    if call.plan.top_k is not None:
        assert scores is not None
        _predict(call, sender, scores)
    if scores is not None:
        _Explanations(call, sender, taps, scores, mirror.network, stages).send()
    call.put(Finished(stages, list(sender.costs.values()), sender.bytes_sent, taps.last_layer))


def _forward(call: Call, mirror: Mirror, taps: "_Taps", stages: dict[str, float], metrics: Metrics) -> Tensor | None:
    """The network's scores; None where it was ended early."""
    name = call.plan.model.name
    walk = Walk(mirror.network, taps, operations=call.plan.needs_operations)
    began = time.monotonic()
    scores = None
    with torch.no_grad():
        with walk:
            stages["register"] = time.monotonic() - began
            taps.began = time.monotonic()
            try:
                scores = mirror.network(*call.arguments)
            except _EarlyStop:
                metrics.early_stops.labels(name).inc()
            except Refusal:
                raise
            except Exception as error:
                call.check()  # the network may have wrapped what stopped the call
                raise NetworkFailed(name) from error
            ended = time.monotonic()
        removed = time.monotonic()
    call.check()
    captured = sum(cost.capture for cost in taps.sender.costs.values())
    stages |= {"forward": ended - taps.began - captured - taps.sender.blocked, "blocked": taps.sender.blocked, "capture": captured}
    stages["remove"] = removed - ended
    metrics.hook_register_seconds.labels(name).observe(stages["register"])
    metrics.hook_remove_seconds.labels(name).observe(stages["remove"])
    return scores


class _Sender:
    """Turns tensors into pieces and hands them on; keeps the accounts."""

    def __init__(self, call: Call, metrics: Metrics) -> None:
        self.bytes_sent = 0
        self.blocked = 0.0
        self.costs: dict[str, LayerCost] = {}
        self._call = call
        self._items = 0
        self._capture_seconds = metrics.hook_capture_seconds.labels(call.plan.model.name)
        self._captured_bytes = metrics.captured_bytes.labels(call.plan.model.name)

    def next_item(self) -> int:
        """The number of the item that is sent next."""
        return self._items + 1

    def capture(self, subject: CaptureSubject, tensor: Tensor, completed_after: float) -> None:
        """Copies a tensor as it is now, piece by piece: the network waits, so what it does next does not show."""
        began, blocked, sent = time.monotonic(), self.blocked, self.bytes_sent
        if not is_sendable(tensor):
            what = NotHookable("captures", subject.layer, f"tensors of {tensor.dtype} ({tensor.layout}) do not travel")
            self._call.put(Failed(subject, what))
            return
        self.send(subject, tensor, on_piece=self._captured_bytes.inc)
        seconds = time.monotonic() - began - (self.blocked - blocked)
        self._capture_seconds.observe(seconds)
        before = self.costs.get(subject.layer, LayerCost(subject.layer, 0.0, 0.0, 0))
        total = before.bytes + self.bytes_sent - sent
        self.costs[subject.layer] = LayerCost(subject.layer, completed_after, before.capture + seconds, total)

    def send(
        self,
        subject: CaptureSubject | ScoresSubject | CamSubject,
        tensor: Tensor,
        on_piece: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Sends one item."""
        self._items += 1
        data = raw_bytes(tensor)
        header: Header | None = Header(subject, tensor.dtype, tuple(tensor.shape), len(data))
        for offset in range(0, max(1, len(data)), PIECE_BYTES):
            piece = bytes(data[offset : offset + PIECE_BYTES])
            self.blocked += self._call.put(Piece(self._items, header, offset, piece))
            self.bytes_sent += len(piece)
            on_piece(len(piece))
            header = None


class _Taps:
    """Visitor that captures what the plan names, and holds what gradients are taken of."""

    def __init__(self, call: Call, sender: _Sender) -> None:
        self.sender = sender
        self.began = 0.0
        self.held: dict[str, dict[str, Tensor]] = {}
        self.last_layer = ""
        self._call = call
        self._plan = call.plan
        self._by_site = call.plan.model.layers.by_site
        self._kinds: dict[str, set[CaptureKind]] = defaultdict(set)
        for capture in self._plan.captures:
            self._kinds[capture.layer.name].add(capture.kind)
        self._holding = _held_layers(self._plan)
        self._left = set(self._kinds) | self._holding

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        self._call.check()
        layer = self._by_site.get(site)
        if layer and CaptureKind.INPUT in self._kinds.get(layer.name, ()):
            self._capture(layer, CaptureKind.INPUT, argument(inputs))

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        self._call.check()
        layer = self._by_site.get(site)
        if layer is None:
            return None
        self.last_layer = layer.name
        if layer.name in self._left:
            if CaptureKind.OUTPUT in self._kinds.get(layer.name, ()):
                self._capture(layer, CaptureKind.OUTPUT, output)
            if layer.name in self._holding:
                output = self._hold(layer, output)
            self._left.discard(layer.name)
        if not self._left and self._plan.may_stop_early:
            raise _EarlyStop
        return output

    def missing(self) -> list[tuple[str, CaptureKind]]:
        """Outputs and inputs wanted of layers that did not run."""
        kinds = (CaptureKind.OUTPUT, CaptureKind.INPUT)
        return [(name, kind) for name in sorted(self._left) for kind in kinds if kind in self._kinds.get(name, ())]

    def _capture(self, layer: Layer, kind: CaptureKind, value: Any) -> None:
        after = time.monotonic() - self.began
        expected = {tensor.path: tensor.batch_first for tensor in (layer.inputs if kind is CaptureKind.INPUT else layer.outputs)}
        for path, tensor in tensors(value):
            self.sender.capture(CaptureSubject(layer.name, kind, path, expected.get(path, False)), tensor, after)

    def _hold(self, layer: Layer, output: Any) -> Any:
        """Makes the layer's output a leaf of the graph, so that gradients are taken from here on and no further back.

        The network goes on with a clone: an in-place operation that follows does not reach what is held.
        """
        torch.set_grad_enabled(True)  # until the forward pass ends: the caller's no_grad() puts it back

        def hold(path: str, tensor: Tensor) -> Tensor:
            if not tensor.dtype.is_floating_point:
                return tensor
            held = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
            self.held.setdefault(layer.name, {})[path] = held
            return held.clone()

        return _replaced(output, hold)


class _Explanations:
    """Gradients and maps, made after the forward pass: one backward pass for each score, from the layers held on."""

    def __init__(
        self, call: Call, sender: _Sender, taps: _Taps, scores: Tensor, network: nn.Module, stages: dict[str, float]
    ) -> None:
        self._call = call
        self._plan = call.plan
        self._sender = sender
        self._held = taps.held
        self._scores = scores
        self._network = network
        self._stages = stages
        self._gradients: dict[Target, dict[tuple[str, str], Tensor | None]] = {}

    def send(self) -> None:
        """Sends first the gradients, then the maps; what cannot be made fails alone."""
        for capture in self._plan.captures:
            if capture.kind is CaptureKind.GRADIENT:
                self._send_gradient(capture.layer, capture.target)
        for planned in self._plan.cams:
            self._call.check()
            self._send_cam(planned)

    def _send_gradient(self, layer: Layer, target: Target) -> None:
        self._call.check()
        if layer.name not in self._held:
            self._call.put(Failed(CaptureSubject(layer.name, CaptureKind.GRADIENT), _no_gradient(layer)))
        for path in self._held.get(layer.name, {}):
            subject = CaptureSubject(layer.name, CaptureKind.GRADIENT, path, True)
            gradient = self._gradient(target, layer.name, path)
            if gradient is None:
                self._call.put(Failed(subject, _no_gradient(layer)))
            else:
                self._sender.send(subject, gradient)

    def _send_cam(self, planned: PlannedCam) -> None:
        activation = self._held.get(planned.layer.name, {}).get("")
        if activation is None:
            self._call.put(Failed(planned.index, NotHookable("cams", planned.layer.name, "it did not run for this input")))
            return
        classes = self._classes(planned.target)
        if planned.method.needs is Needs.HEAD:
            began = time.monotonic()
            plane = cam(activation.detach().float(), self._head_rows(classes))
        else:
            gradient = self._gradient(planned.target, planned.layer.name, "")
            if gradient is None:
                self._call.put(Failed(planned.index, _no_gradient(planned.layer)))
                return
            began = time.monotonic()
            plane = grad_cam(activation.detach().float(), gradient.float())
        plane = plane.relu() if planned.relu else plane
        self._stages["cam"] = self._stages.get("cam", 0.0) + time.monotonic() - began
        rows, columns = plane.shape[1:]
        height, width = self._call.arguments[0].shape[2:]
        placements = tuple(
            p._replace(scale_x=p.scale_x * width / columns, scale_y=p.scale_y * height / rows) for p in self._plan.placements
        )
        self._sender.send(CamSubject(planned, tuple(classes.tolist()), placements), plane)

    def _classes(self, target: Target) -> Tensor:
        """[N] int64: each sample's class."""
        if not target.classes:
            return self._scores.argmax(dim=1)
        return torch.tensor(target.classes, device=self._scores.device).expand(len(self._scores))

    def _head_rows(self, classes: Tensor) -> Tensor:
        head = self._plan.model.gap_head
        assert head is not None
        linear = self._network.get_submodule(head.linear)
        assert isinstance(linear, nn.Linear)
        return linear.weight.detach().float()[classes]

    def _gradient(self, target: Target, layer: str, path: str) -> Tensor | None:
        """D score / d what is held there; None where the score does not depend on it."""
        if target not in self._gradients:
            began = time.monotonic()
            self._gradients[target] = self._backward(target)
            self._stages["gradient"] = self._stages.get("gradient", 0.0) + time.monotonic() - began
        return self._gradients[target][layer, path]

    def _backward(self, target: Target) -> dict[tuple[str, str], Tensor | None]:
        leaves = {(layer, path): tensor for layer, paths in self._held.items() for path, tensor in paths.items()}
        if not self._scores.requires_grad:
            return dict.fromkeys(leaves)
        with torch.enable_grad():
            scores = probabilities(self._scores, self._plan.model.scores_kind) if target.probability else self._scores
            # Samples are independent in eval mode: the gradient of the sum is each sample's own.
            score = scores.gather(1, self._classes(target)[:, None]).sum()
        gradients = torch.autograd.grad(score, list(leaves.values()), retain_graph=True, allow_unused=True)
        return dict(zip(leaves, gradients, strict=True))


def _predict(call: Call, sender: _Sender, scores: Tensor) -> None:
    plan = call.plan
    top = top_classes(scores.detach(), plan.model.scores_kind, plan.top_k or 0)
    call.put(Predicted(sender.next_item(), top))
    sender.send(ScoresSubject(), scores)


def _held_layers(plan: Plan) -> set[str]:
    gradients = {capture.layer.name for capture in plan.captures if capture.kind is CaptureKind.GRADIENT}
    return gradients | {planned.layer.name for planned in plan.cams}


def _no_gradient(layer: Layer) -> Refusal:
    return NotHookable("captures", layer.name, "the score does not depend on what it put out")


def _replaced(value: Any, replace: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    """A nested value with each tensor replaced; the paths are those of `walk.tensors`."""
    if isinstance(value, Tensor):
        return replace(path, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_replaced(member, replace, f"{path}.{i}" if path else str(i)) for i, member in enumerate(value)))
    if isinstance(value, tuple | list):
        return type(value)(_replaced(member, replace, f"{path}.{i}" if path else str(i)) for i, member in enumerate(value))
    if isinstance(value, dict):
        return {key: _replaced(member, replace, f"{path}.{key}" if path else str(key)) for key, member in value.items()}
    return value
