"""Follows one forward pass through a network and says, at each layer's begin and end, which layer it is.

Modules are followed by hooks, functional operations by a `TorchFunctionMode` and the stack of modules that are running. Nothing is
traced, so the network may be any Python, and what ran is what is reported.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode


@dataclass(frozen=True, slots=True)
class Site:
    """Where in a forward pass a layer runs: the nth call of a module, or of an operation within a module.

    Attributes:
        path: of the module; for an operation, of the innermost module that it runs in ("" for the network itself).
        op: name of the operation; empty for a module call.
        nth: how many calls of the same module, or of the same operation in the same module, came before.
    """

    path: str
    op: str
    nth: int


class Visitor(Protocol):
    """What is told of each layer. Raising ends the forward pass."""

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        """A layer is about to run on these positional arguments."""

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> Any:
        """A layer, the module or function `what`, has run; what is returned, unless None, takes the place of its output."""


class Tree:
    """The modules of a network as walks need them: found once, for many walks. The network must not get other modules meanwhile."""

    def __init__(self, root: nn.Module) -> None:
        no_layers = parametrizations(root)
        self.nodes = [
            _Node(module, _Frame(Site(path, "", 0), leaf=is_leaf(module) or module in no_layers), silent=module in no_layers)
            for path, module in named_modules(root).items()
        ]


class _Frame(NamedTuple):
    site: Site
    leaf: bool
    handled: BaseException | None = None  # that was being handled when it began


class _Node(NamedTuple):
    module: nn.Module
    first_call: _Frame
    silent: bool


class Walk:
    """Context manager around one forward pass: hooks every module while it is open, and none after.

    Args:
        root: the network, or its modules. It must be private to the caller: its hooks fire for whoever runs it.
        visitor: told of each layer.
        operations: whether functional operations are followed too.
        begins: whether the visitor is told of begins; a walk without costs less.
    """

    def __init__(self, root: nn.Module | Tree, visitor: Visitor, *, operations: bool, begins: bool = True) -> None:
        self._nodes = (root if isinstance(root, Tree) else Tree(root)).nodes
        self._visitor = visitor
        self._operations = _Operations(self) if operations else None
        self._unseen = _Unseen(self._operations)
        self._begins = begins
        self._running: list[_Frame] = [_Frame(Site("", "", 0), leaf=False)]
        self._counts: Counter[tuple[str, str]] = Counter()
        self._key = id(self)

    def __enter__(self) -> Self:
        # Into the hook dicts themselves: a handle for each, as register_forward_hook makes it, takes ten times as long.
        for node in self._nodes:
            before = node.module._forward_pre_hooks
            before[self._key] = self._begin(node)
            if len(before) > 1:  # before the module's own: what they compute, as the older weight_norm does, is the module's doing
                before.move_to_end(self._key, last=False)  # type: ignore[attr-defined]
            node.module._forward_hooks[self._key] = self._end(node)
            node.module._forward_hooks_always_called[self._key] = True
        if self._operations:
            self._operations.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._operations:
            self._operations.leave()
            self._operations = self._unseen.operations = None  # they lead back here: captures would wait for the garbage collector
        for node in self._nodes:
            node.module._forward_pre_hooks.pop(self._key, None)
            node.module._forward_hooks.pop(self._key, None)
            node.module._forward_hooks_always_called.pop(self._key, None)

    def _begin(self, node: _Node) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        first, calls, running = node.first_call, 0, self._running
        begins, visitor, unseen = self._begins and not node.silent, self._visitor, self._unseen

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal calls
            frame = first._replace(site=Site(first.site.path, "", calls)) if calls else first
            calls += 1
            running.append(frame if sys.exception() is None else frame._replace(handled=sys.exception()))
            if begins:
                with unseen:
                    visitor.begin(frame.site, inputs)

        return hook

    def _end(self, node: _Node) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        silent, running, visitor, unseen = node.silent, self._running, self._visitor, self._unseen

        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            frame = running.pop()
            if silent or (output is None and sys.exception() is not frame.handled):
                return None  # a helper of PyTorch's, or it raised
            with unseen:
                return visitor.end(frame.site, module, output)

        return hook

    def operation(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one functional operation, telling the visitor where it is a layer: tensors in, tensors out, not inside a leaf."""
        scope = self._running[-1]
        if scope.leaf or func.__name__ in _LOOKUPS or not any(True for _ in tensors([args, kwargs])):
            return func(*args, **kwargs)
        path, op = scope.site.path, operation_name(func)
        site = Site(path, op, self._counts[path, op])
        if self._begins:
            self._visitor.begin(site, args)
        output = func(*args, **kwargs)
        if not any(True for _ in tensors(output)):  # x.size(0), x.dim()
            return output
        self._counts[path, op] += 1
        replaced = self._visitor.end(site, func, output)
        return output if replaced is None else replaced


class _Unseen:
    """Context manager for the visitor's own operations, which are not the network's."""

    def __init__(self, operations: "_Operations | None") -> None:
        self.operations = operations

    def __enter__(self) -> None:
        if self.operations:
            self.operations.paused = True

    def __exit__(self, *error: object) -> None:
        if self.operations:
            self.operations.paused = False


class _Operations(TorchFunctionMode):
    """Active in the one thread that entered it.

    It stays active inside PyTorch's own modules, too, where it lets everything pass: some of them, such as the transformers', ask
    whether any is, and compute in another way then.
    """

    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self._walk = walk
        self.paused = False

    def leave(self) -> None:
        """Ends it, and every mode that the network has left on top of it."""
        if self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            while _pop_mode() is not self:  # type: ignore[no-untyped-call]
                pass

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.paused:
            return func(*args, **(kwargs or {}))
        return self._walk.operation(func, args, kwargs or {})


def named_modules(root: nn.Module) -> dict[str, nn.Module]:
    """Each module below the root once, under the first of its paths."""
    return {path: module for path, module in root.named_modules() if path}


def parametrizations(root: nn.Module) -> set[nn.Module]:
    """The modules that compute parameters, as those of `weight_norm` do: they run when a parameter is read, and are no layers."""
    lists = (module for module in root.modules() if isinstance(module, parametrize.ParametrizationList))
    return {module for found in lists for module in found.modules()}


def is_leaf(module: nn.Module) -> bool:
    """Whether operations inside are the module's own doing: so with PyTorch's modules, its mere containers left out."""
    written = parametrize.type_before_parametrizations(module)
    return written.__module__.startswith("torch.nn.") and not isinstance(module, nn.Sequential)


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a nested value with their paths: "" for the value itself, else indices and keys joined by dots."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, tuple | list):
        for index, member in enumerate(value):
            yield from tensors(member, f"{path}.{index}" if path else str(index))
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from tensors(member, f"{path}.{key}" if path else str(key))


_LOOKUPS = frozenset({"__get__", "__set__", "__delete__"})  # x.shape, x.data: no operations
# What Python's operators become on a tensor, back to the names that torch.fx gives them.
_OPERATORS = {
    **{name: name for name in ("add", "sub", "mul", "matmul", "neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")},
    "div": "truediv",
    "remainder": "mod",
    "positive": "pos",
    "bitwise_and": "and_",
    "bitwise_or": "or_",
    "bitwise_xor": "xor",
    **{f"{name}_": name for name in ("add", "sub", "mul", "pow")},
    "div_": "truediv",
    "remainder_": "mod",
    "floor_divide_": "floordiv",
    "__and__": "and_",
    "__or__": "or_",
    "__rdiv__": "truediv",
    **{f"__r{name}__": name for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "matmul", "mod", "lshift", "rshift")},
    **{f"__i{name}__": name for name in ("lshift", "rshift", "xor")},
    "__iand__": "and_",
    "__ior__": "or_",
}


def operation_name(func: Callable[..., Any]) -> str:
    """What an operation is called: "relu", "max_pool2d"; "add" for `x + y` and `x += y`, "getitem" for `x[0]`."""
    name = func.__name__
    if is_method(func) or name.endswith("_"):  # `x **= 2` is no method of the tensor
        return _OPERATORS.get(name, name.strip("_") if name.startswith("__") else name)
    return name.replace(".", "_")  # torch.ops.aten.relu.default


def is_method(func: Callable[..., Any]) -> bool:
    """Whether an operation is a method of the tensor. Python's operators are, to PyTorch."""
    return getattr(Tensor, func.__name__, None) is func


def is_operator(func: Callable[..., Any]) -> bool:
    """Whether an operation is, as far as can be told, one of Python's operators: `x + y` and `x.add(y)` are the same call."""
    return func.__name__.startswith("__") or (is_method(func) and func.__name__ in _OPERATORS)
