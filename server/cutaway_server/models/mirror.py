"""Mirrors: private second instances of a network that share its parameters and buffers and have hooks of their own."""

import threading
import time
import zlib
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutaway_server.models.tensor_bytes import is_sendable, raw_bytes
from cutaway_server.models.walk import Site, Tree, Walk, tensors

_HOOK_DICTS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
_MACHINERY = frozenset({"concurrent", "logging", "multiprocessing", "queue", "threading"})  # its state is its own, and changes
_BLOCK = 32_768  # bytes
_LOCKS = (type(threading.Lock()), type(threading.RLock()))


class Mirror:
    """A network that one call holds alone, and the hooks it had when it was new.

    Attributes:
        tree: its modules, for walks.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.tree = Tree(network)
        self._hooks = [vars(module)[name] for module in network.modules() for name in _HOOK_DICTS]
        self._dicts = [*self._hooks, *(module._forward_hooks_always_called for module in network.modules())]
        self._baseline = [dict(entries) for entries in self._dicts]
        self._resting = self._count()

    def live_hooks(self) -> int:
        """How many hooks stand in its hook dicts beyond those of the baseline."""
        return self._count() - self._resting

    def is_clean(self) -> bool:
        """Whether its hook dicts equal their baseline."""
        return self._dicts == self._baseline

    def _count(self) -> int:
        return sum(map(len, self._hooks))


def mirror_from_factory(network: nn.Module, factory: Callable[[], nn.Module], arguments: tuple[Tensor, ...]) -> Mirror:
    """A second instance from the network's own factory: its closures, weak references and patched forwards are its own.

    Made on the meta device, so nothing is initialised; then each parameter and buffer is replaced by the served one.

    Args:
        arguments: of a first forward pass: what a network does once, as lazy modules take off hooks, is no change later.
    """
    with torch.device("meta"):
        twin = factory()
    if not set(network.modules()).isdisjoint(twin.modules()):
        raise ValueError("the factory must make every module anew: what is done to a mirror must not be done to the network")
    state = network.state_dict()
    for name, value in state.items():
        state[name] = _for_gradients(value)
    twin.load_state_dict(state, assign=True)
    twins = dict(twin.named_modules())
    for path, module in network.named_modules():
        for name in module._non_persistent_buffers_set:
            twins[path]._buffers[name] = _for_gradients(module._buffers[name])
    twin.eval().requires_grad_(False)
    with torch.no_grad():
        twin(*(argument.clone() for argument in arguments))
    return Mirror(twin)


def mirror_by_references(network: nn.Module) -> Mirror:
    """A copy of the module tree alone, for a network without a factory.

    Parameters and buffers are shared; every reference from one module to another is turned to the copy, also in lists, dicts, bound
    methods and partials. Closures, weak references and foreign objects still lead to the original: `check_mirror` sees it.
    """
    return Mirror(_Copies().of(network).eval())


class _Copies:
    """Copies modules and what leads from one to another. Each thing has one copy, so two that shared a dict share its copy."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}  # by id, with what was copied: it may not be freed and its id given anew
        self._left: list[nn.Module] = []  # empty copies still: a chain of modules may be longer than Python's stack

    def of(self, network: nn.Module) -> nn.Module:
        """The copy of a network."""
        copy: nn.Module = self._turned(network)
        while self._left:
            module = self._left.pop()
            attributes = vars(module).copy()  # at once: Predict may add one meanwhile
            vars(self._turned(module)).update({name: self._turned(value) for name, value in attributes.items()})
        return copy

    def _turned(self, value: Any) -> Any:
        """The value's copy; what is neither a module nor leads to one as these do is its own."""
        if id(value) in self._made:
            return self._made[id(value)][1]
        if isinstance(value, nn.Module):
            self._left.append(value)
            return self._keep(value, object.__new__(type(value)))
        if isinstance(value, nn.Parameter):
            copy = self._keep(value, nn.Parameter(_for_gradients(value.detach()), requires_grad=False))
            vars(copy).update(vars(value))
            return copy
        if isinstance(value, Tensor):
            return self._keep(value, _for_gradients(value))
        if isinstance(value, _LOCKS):
            return self._keep(value, threading.Lock() if isinstance(value, _LOCKS[0]) else threading.RLock())
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self._turned(value.__self__))
        if isinstance(value, partial):
            keywords = {key: self._turned(member) for key, member in value.keywords.items()}
            return partial(self._turned(value.func), *map(self._turned, value.args), **keywords)
        return self._turned_container(value)

    def _turned_container(self, value: Any) -> Any:
        """Lists and their like are copied even where no module is in them: what a forward pass writes stays in its mirror."""
        if type(value) in (dict, OrderedDict, defaultdict):
            copy = self._keep(value, defaultdict(value.default_factory) if isinstance(value, defaultdict) else type(value)())
            copy.update((self._turned(key), self._turned(member)) for key, member in value.copy().items())
            return copy
        if type(value) is list:
            copy = self._keep(value, [])
            copy.extend(map(self._turned, value))
            return copy
        if type(value) in (tuple, set, frozenset):
            return self._keep(value, type(value)(map(self._turned, value)))
        return value

    def _keep(self, value: Any, copy: Any) -> Any:
        self._made[id(value)] = value, copy
        return copy


def _for_gradients(value: Any) -> Any:
    """What Predict makes as it runs are inference tensors, which no gradient may pass: of these a copy, all else itself."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def check_mirror(network: nn.Module, mirror: Mirror, one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> str:
    """Runs the network and its mirror, first apart, then side by side, and compares what every layer gives.

    Run it before the network serves: while it runs, the network carries hooks.

    Args:
        one, other: arguments of one shape.

    Returns:
        Why the mirror does not show what the network does, in one sentence; empty where it does.
    """
    # Threads, even for one pass alone, as Predict and lanes have: the main thread's bits may differ from theirs.
    with _frozen(network), ThreadPoolExecutor(2, thread_name_prefix="check") as threads:
        return _compared(network, mirror, one, other, threads)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient, as in mirrors: PyTorch multiplies matrices in another order where one does."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


def _compared(
    network: nn.Module, mirror: Mirror, one: tuple[Tensor, ...], other: tuple[Tensor, ...], threads: ThreadPoolExecutor
) -> str:
    began = time.monotonic()
    (expected_one,), (expected_other,), (again,) = (_run_in_turns(threads, (network, x)) for x in (one, other, other))
    if again != expected_other:
        return f"{_where(again, expected_other)} does not give the same each time for the same input"

    state, strays = _state(network), _Notes()
    with Walk(network, strays, operations=False):
        (copied,) = _run_in_turns(threads, (mirror.network, one))
    if strays.given:
        path = min(site.path for site, *_ in strays.given)
        return f"a private copy of it still runs the original's module {path!r}, which it reaches by a reference of its own"
    if copied != expected_one:
        return f"{_where(copied, expected_one)} does not run or give the same in a private copy of it as in the network itself"
    after = _state(network)
    written = [path for path in state | after if state.get(path) != after.get(path)]
    if written:
        return f"a private copy of it writes to {min(written)!r}, which it shares with the network itself"

    patience = 1 + 10 * (time.monotonic() - began)
    beside = _run_in_turns(threads, (mirror.network, other), (network, one), patience=patience)
    if not beside:
        return "a private copy of it and the network itself wait for each other: they share a lock"
    for given, expected in zip(beside, (expected_other, expected_one), strict=True):
        if given != expected:
            return f"{_where(given, expected)} gives something else while a private copy of the network runs at the same time"
    return ""


class _Notes:
    """Visitor that notes what every layer gives, in order.

    Args:
        turn: called wherever a layer begins or ends.
    """

    def __init__(self, turn: Callable[[], None] = lambda: None) -> None:
        self.given: list[tuple[Site, Any]] = []
        self._turn = turn

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        self._turn()

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        self.given.append((site, [(path, _fingerprint(tensor)) for path, tensor in tensors(output)]))
        self._turn()


def _where(given: Iterable[tuple[Site, Any]], expected: Iterable[tuple[Site, Any]]) -> str:
    """The first layer at which two runs part."""
    mine, theirs = next((mine, theirs) for mine, theirs in zip_longest(given, expected) if mine != theirs)
    site = (theirs or mine)[0]
    return f"layer {'.'.join(part for part in (site.path, site.op) if part)!r}"


class _Turns:
    """Has forward passes run side by side, from layer to layer in turn: as threads of their own might, and always the same.

    Args:
        patience: how long one waits for its turn, in seconds; None means for ever. When that is over, all run on freely.
    """

    def __init__(self, runners: int, patience: float | None) -> None:
        self.stuck = False
        self._patience = patience
        self._order = deque(range(runners))
        self._changed = threading.Condition()

    def wait(self, runner: int) -> None:
        """Returns when it is the runner's turn."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.stuck or self._order[0] == runner, self._patience):
                self.stuck = True
                self._changed.notify_all()

    def pass_on(self, runner: int) -> None:
        """Gives the turn to the next one and waits for it to come back."""
        with self._changed:
            self._order.rotate(-1)
            self._changed.notify_all()
        self.wait(runner)

    def leave(self, runner: int) -> None:
        """The runner is done."""
        with self._changed:
            self._order.remove(runner)
            self._changed.notify_all()


def _run_in_turns(
    threads: ThreadPoolExecutor, *runs: tuple[nn.Module, tuple[Tensor, ...]], patience: float | None = None
) -> list[list[tuple[Site, Any]]]:
    """What every layer gave in each of these forward passes, which run in turns; empty where one waits for another in vain."""
    turns = _Turns(len(runs), patience)

    def run(runner: int, network: nn.Module, arguments: tuple[Tensor, ...]) -> list[tuple[Site, Any]]:
        notes = _Notes(partial(turns.pass_on, runner))
        try:
            turns.wait(runner)
            with torch.no_grad(), Walk(network, notes, operations=True):
                network(*(argument.clone() for argument in arguments))  # it may write into them
        finally:
            turns.leave(runner)
        return notes.given

    running = [threads.submit(run, runner, *arguments) for runner, arguments in enumerate(runs)]
    given = [done.result() for done in running]
    return [] if turns.stuck else given


def _state(network: nn.Module) -> dict[str, Any]:
    """All tensors and numbers that a network keeps, by their paths: in modules, containers and objects of other kinds."""
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}
    left: list[tuple[str, Any]] = [("", network)]
    while left:
        path, value = left.pop()
        if isinstance(value, Tensor):
            found[path] = _fingerprint(value)
        elif isinstance(value, bool | int | float | complex | str | bytes):
            found[path] = repr(value)  # NaN is not equal to itself
        elif id(value) not in seen:
            seen[id(value)] = value
            for name, member in _members(value):
                own = str(name) in ("_modules", "_parameters", "_buffers")
                left.append((path if own else f"{path}.{name}".lstrip("."), member))
    return found


def _members(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list | tuple | set | frozenset | deque):
        return enumerate(value)
    if isinstance(value, type | ModuleType | FunctionType) or type(value).__module__.partition(".")[0] in _MACHINERY:
        return ()
    return getattr(value, "__dict__", {}).items()


def _fingerprint(tensor: Tensor) -> tuple[Any, ...]:
    content = _checksum(raw_bytes(tensor)) if is_sendable(tensor) else 0  # what other tensors hold never leaves the server
    return tensor.dtype, tuple(tensor.shape), content


def _checksum(raw: memoryview) -> int:
    """A CRC of large blocks, added up as integers across and along, and of the rest: adding is ten times as fast as a CRC."""
    whole = len(raw) // _BLOCK * _BLOCK
    blocks = np.frombuffer(raw[:whole], np.uint64).reshape(-1, _BLOCK // 8)
    return zlib.crc32(raw[whole:], zlib.crc32(blocks.sum(axis=1), zlib.crc32(blocks.sum(axis=0))))
