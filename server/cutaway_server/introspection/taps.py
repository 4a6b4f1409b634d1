"""What hangs on the network while it runs."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cutaway_server.introspection.call import Call
from cutaway_server.introspection.events import CaptureSubject
from cutaway_server.introspection.plan import CaptureKind, Plan, PlannedCapture
from cutaway_server.introspection.sender import Sender
from cutaway_server.models.layer_table import Layer, argument
from cutaway_server.models.walk import Site, tensors


class EarlyStop(Exception):
    """Ends a forward pass of which nothing more is wanted. An Exception: a BaseException would skip `always_call` hooks."""


class Taps:
    """Visitor that captures what the plan names, and holds what gradients are taken of.

    Attributes:
        began: when the forward pass did, on the monotonic clock; the one who runs it says so.
        held: what gradients are taken of, by layer and path.
    """

    def __init__(self, call: Call, sender: Sender) -> None:
        self.sender = sender
        self.began = 0.0
        self.held: dict[str, dict[str, Tensor]] = {}
        self._call = call
        self._plan = call.plan
        self._by_site = call.plan.model.layers.by_site
        self._wanted: dict[tuple[str, CaptureKind], list[PlannedCapture]] = defaultdict(list)
        for capture in self._plan.captures:
            self._wanted[capture.layer.name, capture.kind].append(capture)
        self._holding = _held_layers(self._plan)
        self._left = {capture.layer.name for capture in self._plan.captures} | self._holding

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Takes inputs."""
        self._call.check()
        layer = self._by_site.get(site)
        if layer:
            self._capture(layer, CaptureKind.INPUT, argument(inputs))

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        """Takes outputs, and ends the forward pass where nothing more is wanted of it."""
        self._call.check()
        layer = self._by_site.get(site)
        if layer is None:
            return None
        self._call.last_layer = layer.name
        if layer.name in self._left:
            self._capture(layer, CaptureKind.OUTPUT, output)
            if layer.name in self._holding:
                output = self._hold(layer, output)
            self._left.discard(layer.name)
        if not self._left and self._plan.may_stop_early:
            raise EarlyStop
        return output

    def missing(self) -> list[PlannedCapture]:
        """Outputs and inputs wanted of layers that did not run."""
        missed = (capture for capture in self._plan.captures if capture.layer.name in self._left)
        return [capture for capture in missed if capture.kind is not CaptureKind.GRADIENT]

    def _capture(self, layer: Layer, kind: CaptureKind, value: Any) -> None:
        for capture in self._wanted.get((layer.name, kind), ()):
            after = time.monotonic() - self.began
            for path, tensor in tensors(value):
                self.sender.capture(CaptureSubject.of(capture, path), tensor, capture.reduction, after)

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


def _held_layers(plan: Plan) -> set[str]:
    gradients = {capture.layer.name for capture in plan.captures if capture.kind is CaptureKind.GRADIENT}
    return gradients | {planned.layer.name for planned in plan.cams}


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
