"""Makes raw maps: from a method's parts to one plane a sample."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cutaway_server.introspection.cam.method import Needs
from cutaway_server.introspection.cam.random_cam import random_cam
from cutaway_server.introspection.look import INPUT, Look
from cutaway_server.introspection.map_shapes import fused, joined
from cutaway_server.introspection.plan_cams import PlannedCam
from cutaway_server.introspection.reruns import Bench, MapRuns
from cutaway_server.models.gap_head import GapHead
from cutaway_server.models.layer_table import Layer

_BRIGHTNESS = (0.9, 1.0, 1.1)  # of augmentation


class DidNotRun(Exception):
    """A target layer did not, for this input."""


class MapMaker:
    """Makes the maps of one call.

    Args:
        head: the network's, for methods that weigh by it.
        seed: of all that is drawn; each map draws anew.
    """

    def __init__(self, bench: Bench, network: nn.Module, head: GapHead | None, seed: int) -> None:
        self._bench = bench
        self._network = network
        self._head = head
        self._seed = seed

    def draw(self) -> torch.Generator:
        """Random numbers of a map's own: they do not depend on what else is asked for."""
        return torch.Generator().manual_seed(self._seed)

    def plane(self, planned: PlannedCam, look: Look) -> Tensor:
        """The raw map, [N, …] float32.

        Raises:
            NoGradient, DidNotRun: it cannot be made; says why.
        """
        return self._finished(planned, self._each_layer(planned, look))

    def random_plane(self, planned: PlannedCam, look: Look) -> Tensor:
        """What the map should beat, [N, …] float32: that of random weights at the same layers, or noise at the input."""
        draw = self.draw()
        if not planned.layers:
            return torch.rand(planned.shape, generator=draw).to(look.x.device)
        return self._finished(planned, [joined(random_cam(_held(look, layer), draw), planned.join) for layer in planned.layers])

    def plane_of(self, planned: PlannedCam, like: Look, x: Tensor) -> Tensor:
        """The raw map of another input, explaining the same classes."""
        return self.plane(planned, self.another_look(planned, like, x))

    def another_look(self, planned: PlannedCam, like: Look, x: Tensor) -> Look:
        """Another pass, on another input, for the map's layers."""
        record = planned.method.needs in (Needs.GRADIENT, Needs.CURVATURE)
        return self._bench.look(like, x, planned.layers, record=record)

    def _finished(self, planned: PlannedCam, planes: list[Tensor]) -> Tensor:
        cut = [plane.relu() if planned.relu else plane for plane in planes]
        return fused(cut, planned.fusion) if len(cut) > 1 else cut[0]

    def _each_layer(self, planned: PlannedCam, look: Look) -> list[Tensor]:
        """The map at each layer, before it is cut at 0: the mean over augmentations where they are asked for."""
        planes = self._joined(planned, look)
        if not planned.augment:
            return planes
        total = [plane.clone() for plane in planes]
        variants = [(factor, flip) for factor in _BRIGHTNESS for flip in (False, True) if (factor, flip) != (1.0, False)]
        for factor, flip in variants:
            x = look.x * factor
            turned = self._joined(planned, self.another_look(planned, look, x.flip(-1) if flip else x))
            for plane, more in zip(total, turned, strict=True):
                plane += more.flip(-1) if flip else more
        return [plane / (len(variants) + 1) for plane in total]

    def _joined(self, planned: PlannedCam, look: Look) -> list[Tensor]:
        return [joined(self._parts(planned, look, layer), planned.join) for layer in planned.layers or (None,)]

    def _parts(self, planned: PlannedCam, look: Look, layer: Layer | None) -> Tensor:
        """What each channel adds, [N, C, …] float32."""
        method, target = planned.method, planned.target
        source = look.x if layer is None else _held(look, layer)
        name = INPUT if layer is None else layer.name
        arguments: dict[Needs, Callable[[], tuple[object, ...]]] = {
            Needs.ACTIVATION: lambda: (),
            Needs.HEAD: lambda: (self._head_rows(look.question(target).classes),),
            Needs.GRADIENT: lambda: (look.gradient(target, name).float(),),
            Needs.CURVATURE: lambda: look.curvature(target, name),
            Needs.CHANCE: lambda: (self.draw(),),
            Needs.RUNS: lambda: (MapRuns(self._bench, look, look.question(target), layer, planned.options, self.draw()),),
        }
        return method.parts(source, *arguments[method.needs]())

    def _head_rows(self, classes: Tensor) -> Tensor:
        assert self._head is not None
        linear = self._network.get_submodule(self._head.linear)
        assert isinstance(linear, nn.Linear)
        return linear.weight.detach().float()[classes]


def _held(look: Look, layer: Layer) -> Tensor:
    activation = look.activation(layer.name)
    if activation is None:
        raise DidNotRun("it did not run for this input")
    return activation
