"""Whether a network writes state of its own while it runs: then a forward pass that did not end leaves it half written."""

from collections.abc import Callable
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.walk import Site, Walk

_MODULES_OWN = frozenset(vars(nn.Module())) - {"_parameters", "_buffers"}
_DEPTH = 5  # how far objects are followed from a module


def keeps_state(network: nn.Module, arguments: tuple[Tensor, ...]) -> bool:
    """Runs the network once, and compares what its modules hold at each layer with what they held before.

    Args:
        network: private to the caller; it is hooked while this runs.
    """
    own = [module for module in network.modules() if not type(module).__module__.startswith("torch.nn.")]
    watch = _Watch(own)
    with torch.no_grad(), Walk(network, watch, operations=False):
        network(*(argument.clone() for argument in arguments))
    return watch.changed or _state(own) != watch.before


class _Watch:
    """Visitor that looks for changes."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.before = _state(modules)
        self.changed = False
        self._modules = modules

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        """Looks."""
        self.changed = self.changed or _state(self._modules) != self.before


def _state(modules: list[nn.Module]) -> list[Any]:
    return [(name, _print(value, _DEPTH)) for module in modules for name, value in vars(module).items() if name not in _MODULES_OWN]


def _print(value: Any, depth: int) -> Any:
    """Something that is equal as long as the value is."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if isinstance(value, Tensor):
        return id(value), value._version if not value.is_inference() else 0
    if isinstance(value, nn.Module | type) or not depth:
        return id(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_print(member, depth - 1) for member in value]
    if isinstance(value, dict):
        return [(_print(key, depth - 1), _print(member, depth - 1)) for key, member in value.items()]
    if isinstance(value, MethodType):
        return _print(value.__func__, depth - 1)
    if isinstance(value, FunctionType):
        return [_print(cell.cell_contents, depth - 1) for cell in value.__closure__ or () if cell != CellType()]
    return id(value), _print(getattr(value, "__dict__", None), depth - 1)
