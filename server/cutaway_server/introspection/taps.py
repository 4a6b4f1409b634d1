"""What hangs on the network while it runs."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from cutaway_server.errors import NotIntrospectable
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.events import CaptureSubject
from cutaway_server.introspection.plan import CaptureKind, PlannedCapture
from cutaway_server.introspection.sender import Sender
from cutaway_server.models.layer_table import Layer, argument
from cutaway_server.models.leaves import hold
from cutaway_server.models.walk import Site, tensors


class EarlyStop(Exception):
    """Ends a forward pass of which nothing more is wanted. An Exception: a BaseException would skip `always_call` hooks."""


class Taps:
    """Visitor that captures what the plan names, and holds what gradients are taken of.

    Attributes:
        began: when the forward pass did, on the monotonic clock; the one who runs it says so.
        ended_early: whether it ended the forward pass after the last layer wanted.
        held: what gradients and maps are made of, by layer and path.
    """

    def __init__(self, call: Call, sender: Sender) -> None:
        self.sender = sender
        self.began = 0.0
        self.ended_early = False
        self._next = 0
        self.held: dict[str, dict[str, Tensor]] = {}
        self._call = call
        self._plan = call.plan
        self._by_site = call.plan.model.layers.by_site
        self._wanted: dict[tuple[str, CaptureKind], list[PlannedCapture]] = defaultdict(list)
        for capture in self._plan.captures:
            self._wanted[capture.layer.name, capture.kind].append(capture)
        self._holding = {layer.name for layer in self._plan.gradient_layers}
        self._keeping = {layer.name for planned in self._plan.cams for layer in planned.layers}
        self._left = {capture.layer.name for capture in self._plan.captures} | self._keeping

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
        if self._plan.names_operations:
            self._check_way(layer)
        if layer is None:
            return None
        self._call.last_layer = layer.name
        if layer.name in self._left:
            self._capture(layer, CaptureKind.OUTPUT, output)
            if layer.name in self._holding:
                output, self.held[layer.name] = hold(output)
            elif layer.name in self._keeping and isinstance(output, Tensor):
                self.held[layer.name] = {"": output.detach().clone()}
            self._left.discard(layer.name)
        if not self._left and self._plan.may_stop_early:
            self.ended_early = True
            raise EarlyStop
        return output

    def _check_way(self, layer: Layer | None) -> None:
        """Operations are named by their order: where that is not the probes', a name may mean another operation."""
        self._next += 1
        if layer is None or layer.index != self._next - 1:
            after = f" after layer {self._call.last_layer!r}" if self._call.last_layer else ""
            way = f"with this input it takes another way{after} than with the probes, so names of functions are not certain"
            self._call.stop(NotIntrospectable(self._plan.model.name, f"{way}; name modules only"))
            self._call.check()

    def missing(self) -> list[PlannedCapture]:
        """Outputs and inputs wanted of layers that did not run."""
        missed = (capture for capture in self._plan.captures if capture.layer.name in self._left)
        return [capture for capture in missed if capture.kind is not CaptureKind.GRADIENT]

    def _capture(self, layer: Layer, kind: CaptureKind, value: Any) -> None:
        for capture in self._wanted.get((layer.name, kind), ()):
            after = time.monotonic() - self.began if kind is CaptureKind.OUTPUT else None
            for path, tensor in tensors(value):
                self.sender.capture(CaptureSubject.of(capture, path), tensor, capture.reduction, after)
