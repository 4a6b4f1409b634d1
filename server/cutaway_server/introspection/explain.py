"""Gradients and maps, after the forward pass."""

import time

import torch
from torch import Tensor, nn

from cutaway_server.errors import NotHookable
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.cam import Needs
from cutaway_server.introspection.cam.cam import cam
from cutaway_server.introspection.cam.grad_cam import grad_cam
from cutaway_server.introspection.events import CamSubject, CaptureSubject, Failed
from cutaway_server.introspection.plan import CaptureKind, PlannedCam, PlannedCapture, Target
from cutaway_server.introspection.sender import Sender
from cutaway_server.models.layer_table import Layer
from cutaway_server.models.preprocessing import Placement
from cutaway_server.models.scores import probabilities

_NO_WAY = "nothing that PyTorch can differentiate leads from it to the score"


class Explanations:
    """One backward pass for each score, from the layers held on.

    Args:
        held: what gradients are taken of, by layer and path.
        scores: the network's.
        network: the mirror's, for the weights of its head.
        stages: where the seconds spent are added.
    """

    def __init__(
        self,
        call: Call,
        sender: Sender,
        *,
        held: dict[str, dict[str, Tensor]],
        scores: Tensor,
        network: nn.Module,
        stages: dict[str, float],
    ) -> None:
        self._call = call
        self._plan = call.plan
        self._sender = sender
        self._held = held
        self._scores = scores
        self._network = network
        self._stages = stages
        self._gradients: dict[Target, dict[tuple[str, str], Tensor | str]] = {}

    def send(self) -> None:
        """Sends first the gradients, then the maps; what cannot be made fails alone."""
        for capture in self._plan.captures:
            if capture.kind is CaptureKind.GRADIENT:
                self._send_gradient(capture)
        for planned in self._plan.cams:
            self._call.check()
            self._send_cam(planned)

    def _send_gradient(self, capture: PlannedCapture) -> None:
        self._call.check()
        layer = capture.layer
        field = f"captures[{capture.index}]"
        if layer.name not in self._held:
            self._call.put(Failed(CaptureSubject.of(capture), NotHookable(field, layer.name, _NO_WAY)))
        for path in self._held.get(layer.name, {}):
            subject = CaptureSubject.of(capture, path)
            gradient = self._gradient(capture.target, layer.name, path)
            if isinstance(gradient, str):
                self._call.put(Failed(subject, NotHookable(field, layer.name, gradient)))
            else:
                self._sender.capture(subject, gradient, capture.reduction, None)

    def _send_cam(self, planned: PlannedCam) -> None:
        field, layer = f"cams[{planned.index}]", planned.layer.name
        activation = self._held.get(layer, {}).get("")
        if activation is None:
            self._call.put(Failed(planned.index, NotHookable(field, layer, "it did not run for this input")))
            return
        classes = self._classes(planned.target)
        if planned.method.needs is Needs.HEAD:
            began = time.monotonic()
            plane = cam(activation.detach().float(), self._head_rows(classes))
        else:
            gradient = self._gradient(planned.target, layer, "")
            if isinstance(gradient, str):
                self._call.put(Failed(planned.index, NotHookable(field, layer, gradient)))
                return
            began = time.monotonic()
            plane = grad_cam(activation.detach().float(), gradient.float())
        plane = plane.relu() if planned.relu else plane
        self._stages["cam"] = self._stages.get("cam", 0.0) + time.monotonic() - began
        placements = tuple(self._placed(place, planned.layer, plane) for place in self._plan.placements)
        self._sender.send(CamSubject(planned, tuple(classes.tolist()), placements), plane)

    def _placed(self, picture: Placement, layer: Layer, plane: Tensor) -> Placement:
        """Where the map lies on the photograph: from its cells to the network's input, and from there on as the input lies."""
        rows, columns = plane.shape[1:]
        height, width = self._call.arguments[0].shape[2:]
        row, column = layer.stride or (height / rows, width / columns)
        return Placement(
            scale_x=picture.scale_x * column,
            scale_y=picture.scale_y * row,
            offset_x=picture.offset_x + picture.scale_x * (width - column * columns) / 2,
            offset_y=picture.offset_y + picture.scale_y * (height - row * rows) / 2,
        )

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

    def _gradient(self, target: Target, layer: str, path: str) -> Tensor | str:
        """D score / d what is held there, or why there is none."""
        if target not in self._gradients:
            began = time.monotonic()
            self._gradients[target] = self._backward(target)
            self._stages["gradient"] = self._stages.get("gradient", 0.0) + time.monotonic() - began
        return self._gradients[target][layer, path]

    def _backward(self, target: Target) -> dict[tuple[str, str], Tensor | str]:
        leaves = {(layer, path): tensor for layer, paths in self._held.items() for path, tensor in paths.items()}
        if not self._scores.requires_grad:
            return dict.fromkeys(leaves, _NO_WAY)
        with torch.enable_grad():
            scores = probabilities(self._scores, self._plan.model.scores_kind) if target.probability else self._scores
            # Samples are independent in eval mode: the gradient of the sum is each sample's own.
            score = scores.gather(1, self._classes(target)[:, None]).sum()
        try:
            gradients = _gradients(score, list(leaves.values()))
        except RuntimeError:  # one that cannot be had must not cost the others theirs
            return {where: _apart(score, leaf) for where, leaf in leaves.items()}
        found = zip(leaves, gradients, strict=True)
        return {where: _NO_WAY if gradient is None else gradient for where, gradient in found}


def _gradients(score: Tensor, leaves: list[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(score, leaves, retain_graph=True, allow_unused=True)


def _apart(score: Tensor, leaf: Tensor) -> Tensor | str:
    try:
        (gradient,) = _gradients(score, [leaf])
    except RuntimeError:
        return "the way from it to the score cannot be differentiated: the network overwrites what that would need"
    return _NO_WAY if gradient is None else gradient
