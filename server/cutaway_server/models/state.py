"""Whether a network writes state of its own while it runs: then a forward pass that did not end leaves it half written."""

from collections.abc import Callable
from itertools import chain
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
    watch = _Watch([module for module in network.modules() if not type(module).__module__.startswith("torch.nn.")])
    with torch.no_grad(), Walk(network, watch, operations=False):
        network(*(argument.clone() for argument in arguments))
    watch.look()
    return watch.changed


class _Watch:
    """Visitor that looks for changes."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.changed = False
        self._held = [_Held(module) for module in modules]

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """Nothing."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        """Looks."""
        self.look()

    def look(self) -> None:
        """Compares what the modules hold with what they held."""
        self.changed = self.changed or any(held.changed() for held in self._held)


class _Held:
    """What one module holds. Most of it cannot change unless another object takes its place, so there only that is looked at."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        attributes = self._attributes()
        self._objects = attributes
        self._before = {name: _print(value, _DEPTH) for name, value in attributes.items()}
        self._changeable = [name for name, value in attributes.items() if not _is_fixed(value)]

    def changed(self) -> bool:
        """Whether it holds something else."""
        now = self._attributes()
        if now.keys() != self._objects.keys():
            return True
        others = (name for name, value in now.items() if value is not self._objects[name])
        return any(_print(now[name], _DEPTH) != self._before[name] for name in chain(self._changeable, others))

    def _attributes(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self._module).items() if name not in _MODULES_OWN}


def _is_fixed(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_fixed, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes | nn.Module | type)


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
