"""Mirrors: private second instances of a network that share its parameters and buffers and have hooks of their own."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.walk import named_modules

_HOOK_DICTS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
_LOCKS = (type(threading.Lock()), type(threading.RLock()))


class Mirror:
    """A network that one call holds alone, and the hooks it had when it was new."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._modules = list(network.modules())
        self._baseline = self._hook_dicts()
        self._resting = self._count()

    def live_hooks(self) -> int:
        """How many hooks stand in its hook dicts beyond those of the baseline."""
        return self._count() - self._resting

    def is_clean(self) -> bool:
        """Whether its hook dicts equal their baseline."""
        return self._hook_dicts() == self._baseline

    def _count(self) -> int:
        return sum(len(getattr(module, name)) for module in self._modules for name in _HOOK_DICTS)

    def _hook_dicts(self) -> list[dict[int, Any]]:
        return [dict(getattr(module, name)) for module in self._modules for name in _HOOK_DICTS]


def mirror_from_factory(network: nn.Module, factory: Callable[[], nn.Module]) -> Mirror:
    """A second instance from the network's own factory: its closures, weak references and patched forwards are its own.

    Made on the meta device, so nothing is initialised; then each parameter and buffer is replaced by the served one.
    """
    with torch.device("meta"):
        twin = factory()
    twin.load_state_dict(network.state_dict(), assign=True)
    twins = dict(twin.named_modules())
    for path, module in network.named_modules():
        for name in module._non_persistent_buffers_set:
            twins[path]._buffers[name] = module._buffers[name]
    return Mirror(twin.eval().requires_grad_(False))


def mirror_by_references(network: nn.Module) -> Mirror:
    """A copy of the module tree alone, for a network without a factory.

    Parameters and buffers are shared; every reference from one module to another is turned to the copy, also in lists, dicts, bound
    methods and partials. Closures, weak references and foreign objects still lead to the original: `check_mirror` sees it.
    """
    copies: dict[int, nn.Module] = {id(module): object.__new__(type(module)) for module in network.modules()}
    for module in network.modules():
        turned = {name: _turned(value, copies) for name, value in vars(module).items()}
        turned["_parameters"] = {
            name: None if value is None else nn.Parameter(value.detach(), requires_grad=False)
            for name, value in module._parameters.items()
        }
        turned.pop("_compiled_call_impl", None)
        vars(copies[id(module)]).update(turned)
    return Mirror(copies[id(network)].eval())


def _turned(value: Any, copies: dict[int, nn.Module]) -> Any:
    """The value with modules replaced by their copies; containers are copied, so what a forward pass writes stays in its mirror."""
    turn = partial(_turned, copies=copies)
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if isinstance(value, MethodType):
        return MethodType(value.__func__, turn(value.__self__))
    if isinstance(value, partial):
        return partial(turn(value.func), *map(turn, value.args), **{key: turn(member) for key, member in value.keywords.items()})
    if isinstance(value, defaultdict):
        return defaultdict(value.default_factory, {key: turn(member) for key, member in value.items()})
    if type(value) in (dict, OrderedDict):
        return type(value)((key, turn(member)) for key, member in value.items())
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(turn, value))
    if isinstance(value, _LOCKS):
        return threading.Lock() if isinstance(value, _LOCKS[0]) else threading.RLock()
    return value


def check_mirror(network: nn.Module, mirror: Mirror, arguments: tuple[Tensor, ...]) -> str:
    """Runs one input through the network and its mirror, counting the calls of all modules in both.

    Run it before the network serves: while it runs, the network carries hooks.

    Returns:
        Why the mirror does not show what the network does, in one sentence; empty where it does.
    """
    original_calls, original_output = _count_calls(network, network, arguments)
    mirror_calls, mirror_output = _count_calls(mirror.network, mirror.network, arguments)
    strays, _ = _count_calls(network, mirror.network, arguments)
    if strays:
        return f"a private copy of it still runs the original's module {min(strays)!r}, which it reaches by a reference of its own"
    different = [path for path in original_calls | mirror_calls if original_calls.get(path) != mirror_calls.get(path)]
    if different:
        return f"module {min(different)!r} does not run as often in a private copy of it as in the network itself"
    if not _same(original_output, mirror_output):
        return "a private copy of it does not give the same output"
    return ""


def _count_calls(hooked: nn.Module, run: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[dict[str, int], Any]:
    counts: dict[str, int] = {}

    def count(path: str, *_: object) -> None:
        counts[path] = counts.get(path, 0) + 1

    handles = [module.register_forward_hook(partial(count, path)) for path, module in named_modules(hooked).items()]
    try:
        with torch.no_grad():
            return counts, run(*arguments)
    finally:
        for handle in handles:
            handle.remove()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)
