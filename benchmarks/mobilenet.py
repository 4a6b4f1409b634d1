"""mobilenet_v2 with random weights: a server of it in a process of its own, and what is measured without a server."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from own_process import Running, running_server
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cutaway_server.models.mirror import mirror_from_factory
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare
from cutaway_server.models.walk import Walk
from torchvision_shim import models

NAME = "mobilenet_v2"
SHAPE = (3, 224, 224)


def network() -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return untrained().eval()


def untrained() -> nn.Module:
    made: nn.Module = models.mobilenet_v2(weights=None)
    return made


def convolutions() -> dict[str, int]:
    """The convolutions in order of execution, with the bytes that each puts out for one sample."""
    made, found = network(), {}
    for name, module in made.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output, name=name: found.update({name: output.nbytes}))
    with torch.no_grad():
        made(torch.zeros(1, *SHAPE))
    return found


def running_mobilenet(*, threads: int, lanes: int, mirrors: bool = True) -> AbstractContextManager[Running]:
    """A server of it.

    Args:
        mirrors: False serves a network that was never hooked nor mirrored, by a server that builds no mirrors.
    """
    return running_server(partial(_model, mirrors), threads=threads, lanes=lanes)


def _model(mirrors: bool) -> Model:
    inputs = (InputSpec("x", torch.float32, (-1, *SHAPE)),)
    model = prepare(network(), name=NAME, inputs=inputs, factory=untrained)
    if mirrors:
        return model
    return replace(model, network=network(), not_introspectable="it is measured without mirrors")


class _Cut(Exception):
    pass


def hooked(x: Tensor, layers: Sequence[str], *, cut: bool) -> Callable[[], dict[str, Any]]:
    """A call that takes copies of the layers' outputs by hooks of its own, in this process.

    Args:
        cut: whether the forward pass ends at the last of the layers, by an exception from its hook.
    """
    made = network()
    last = layers[-1] if cut else ""

    def call() -> dict[str, Any]:
        taken = {}

        def hook(name: str) -> Callable[..., None]:
            def take(module: nn.Module, inputs: Any, output: Tensor) -> None:
                taken[name] = output.clone()
                if name == last:
                    raise _Cut

            return take

        handles = [made.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
        try:
            with torch.no_grad():
                made(x)
        except _Cut:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return {name: tensor.numpy() for name, tensor in taken.items()}

    return call


def plain(x: Tensor) -> Callable[[], Tensor]:
    """A forward pass in this process."""
    made = network()

    def call() -> Tensor:
        with torch.no_grad():
            scores: Tensor = made(x)
            return scores

    return call


class _Nothing:
    """Visitor that does nothing."""

    def begin(self, site: Any, inputs: Any) -> None:
        pass

    def end(self, site: Any, what: Any, output: Any) -> None:
        pass


def walked(x: Tensor, *, forward: bool) -> Callable[[], None]:
    """The server's hooks put on all layers of a mirror and taken off again, and the mirror checked afterwards.

    Args:
        forward: whether the network runs in between, and all hooks fire.
    """
    mirror, visitor = mirror_from_factory(network(), untrained, (x,)), _Nothing()

    def call() -> None:
        with torch.no_grad(), Walk(mirror.tree, visitor, operations=True, begins=False):
            if forward:
                mirror.network(x)
        assert mirror.is_clean()

    return call
