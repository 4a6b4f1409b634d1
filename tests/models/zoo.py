"""Networks in the styles that people write, one small class each. `ZOO` has what makes each; input is [N, 2, 6, 6], output [N, 3].

Where a style hides its modules or its state from PyTorch, the class says how a second instance could go wrong.
"""

import functools
import itertools
import threading
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from torch.nn.utils import spectral_norm as old_spectral_norm
    from torch.nn.utils import weight_norm as old_weight_norm


class Plain(nn.Module):
    """What most styles below are a variation of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.act = nn.ReLU()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)))


class Widen(nn.Module):
    """A block that keeps height and width."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


# Modules and where they are kept


class SharedModule(Plain):
    """One module under two names, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.mid

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.mid(self.act(self.conv(x))))
        return self.head(self.act(self.again(x)))


class TiedWeights(nn.Module):
    """Two modules, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.first = nn.Linear(72, 72)
        self.second = nn.Linear(72, 72)
        self.second.weight = self.first.weight
        self.head = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.flat(x))))


class ListsAndDictsOfModules(Plain):
    """ModuleList, ModuleDict and ParameterList, which are never called themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([Widen(2), Widen()])
        self.by_name = nn.ModuleDict({"norm": nn.BatchNorm2d(4)})
        self.scales = nn.ParameterList([torch.full((1,), 2.0), torch.full((1,), 3.0)])

    def forward(self, x: Tensor) -> Tensor:
        for step, scale in zip(self.steps, self.scales, strict=True):
            x = step(x) * scale
        return self.head(self.by_name["norm"](x))


class PlainList(Plain):
    """Its order of layers is a plain list of registered modules."""

    def __init__(self) -> None:
        super().__init__()
        self.order = [self.conv, (self.act, [self.head])]

    def forward(self, x: Tensor) -> Tensor:
        conv, (act, (head,)) = self.order
        return head(act(conv(x)))


class PlainDict(Plain):
    """Plain dicts of modules, one by name, one with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name = {"stem": self.conv, "tail": {"act": self.act}}
        self.by_stage = defaultdict(nn.Identity, {2: self.head})

    def forward(self, x: Tensor) -> Tensor:
        return self.by_stage[2](self.by_name["tail"]["act"](self.by_name["stem"](x)))


class ModulesAsKeys(Plain):
    """A dict whose keys are modules."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = {self.conv: 2.0, self.act: 0.5}

    def forward(self, x: Tensor) -> Tensor:
        for module in (self.conv, self.act):
            x = module(x) * self.scale.get(module, 1.0)
        return self.head(x)


class UnregisteredModules(Plain):
    """Modules in a plain list alone, which PyTorch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Conv2d(4, 4, 1), Widen()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for module in self.hidden:
            x = module(x)
        return self.head(x)


class UnregisteredNorm(Plain):
    """A BatchNorm that eval() does not reach: it goes on writing its running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.BatchNorm2d(4)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden[0](self.conv(x)))


class SiblingReference(Plain):
    """A module that calls another one, to which it has a reference past `nn.Module.__setattr__`."""

    class Caller(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return self.sibling(x)

    def __init__(self) -> None:
        super().__init__()
        self.caller = SiblingReference.Caller()
        object.__setattr__(self.caller, "sibling", self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.caller(x)))


class ParentReference(Plain):
    """A child that calls its parent's other children."""

    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.family = [parent]

        def forward(self, x: Tensor) -> Tensor:
            (parent,) = self.family
            return parent.act(parent.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.child = ParentReference.Child(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.child(x))


class LinkedList(nn.Module):
    """Many modules, each with a reference to the next: nothing here may go by recursion."""

    class Link(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.bias

    def __init__(self) -> None:
        super().__init__()
        self.links = nn.ModuleList(LinkedList.Link() for _ in range(250))
        for one, other in zip(self.links, list(self.links)[1:], strict=False):
            one.next = [other]
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))

    def forward(self, x: Tensor) -> Tensor:
        for link in list(self.links)[::25]:
            x = link.next[0](link(x))
        return self.head(x)


class Cycle(Plain):
    """A list that holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: list[Any] = [self.conv]
        self.loop.append(self.loop)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.loop[1][1][0](x)))


# Modules behind functions and objects


class BoundMethod(Plain):
    """Its forward goes through bound methods kept as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.run = self.features
        self.steps = [self.classify]

    def features(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))

    def classify(self, x: Tensor) -> Tensor:
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.steps[0](self.run(x))


class Partial(Plain):
    """functools.partial over itself and over a module."""

    def __init__(self) -> None:
        super().__init__()
        self.run = functools.partial(Partial.features, self, again=functools.partial(self.act))

    def features(self, x: Tensor, again: Callable[[Tensor], Tensor]) -> Tensor:
        return again(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x))


class Closure(Plain):
    """A lambda over itself."""

    def __init__(self) -> None:
        super().__init__()
        self.run = lambda x: self.act(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x))


class ClosureOverParameter(Plain):
    """A lambda over itself that uses a parameter and calls no module."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1,), 3.0))
        self.scaled = lambda x: x * self.gamma

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.scaled(self.conv(x))))


class WeakReference(Plain):
    """A child that finds its parent's convolution by a weak reference."""

    class Child(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv_ref = weakref.ref(conv)

        def forward(self, x: Tensor) -> Tensor:
            conv = self.conv_ref()
            assert conv is not None
            return conv(x)

    def __init__(self) -> None:
        super().__init__()
        self.child = WeakReference.Child(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.child(x)))


class HolderObject(Plain):
    """Modules in an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = SimpleNamespace(conv=self.conv, rest=SimpleNamespace(act=self.act))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.parts.rest.act(self.parts.conv(x)))


class PatchedForward(Plain):
    """The forward of an instance replaced by a closure, as libraries that wrap networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(Widen(), nn.ReLU())
        old = self.block.forward
        self.block.forward = lambda x: old(x) + x  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.conv(x)))


class PatchedLeaf(Plain):
    """The same with a leaf: the closure ends in the forward of the module that it was made for, and calls no other."""

    def __init__(self) -> None:
        super().__init__()
        old = self.conv.forward
        self.conv.forward = lambda x: old(x) * 2  # type: ignore[method-assign]


class PatchedLeafThatKeeps(Plain):
    """The same, and it writes on the module that it was made for."""

    def __init__(self) -> None:
        super().__init__()
        conv, old = self.conv, self.conv.forward

        def forward(x: Tensor) -> Tensor:
            conv.last = x
            return old(x)

        conv.forward = forward  # type: ignore[method-assign]


class Delegate(nn.Module):
    """Wraps a network past `nn.Module.__setattr__` and passes on whatever it lacks."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "wrapped", Plain())
        self.outside = nn.Linear(3, 3)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["wrapped"], name)

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.head(self.act(self.conv(x))))


class Slots(Plain):
    """An attribute that is not in the instance's dict."""

    __slots__ = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "scale", 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale)


class OwnClass(Plain):
    """A subclass of a PyTorch module that does not call it as one."""

    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

        def __call__(self, x: Tensor) -> Tensor:
            return self.forward(x)

    def __init__(self) -> None:
        super().__init__()
        self.conv = OwnClass.Scaled(2, 4, 3)


# Modules that no hook sees


class DirectForward(Plain):
    """Calls `.forward()` of a leaf and of a container."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head.forward(self.act.forward(self.conv.forward(x)))

    def by_hand(self, x: Tensor) -> dict[str, Tensor]:
        conv = F.conv2d(x, self.conv.weight, self.conv.bias)
        return {"conv2d": conv, "relu": conv.clamp(min=0)}


class FunctionalWeights(Plain):
    """Uses the weights of its modules without calling them."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.conv.weight, self.conv.bias)
        return F.linear(F.relu(x).mean((2, 3)), self.head[2].weight)

    def by_hand(self, x: Tensor) -> dict[str, Tensor]:
        conv = self.conv(x)
        mean = self.act(conv).mean((2, 3))
        return {"conv2d": conv, "relu": self.act(conv), "mean": mean, "linear": mean @ self.head[2].weight.T}


class KeywordCalls(Plain):
    """Calls its modules with keywords."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.act(input=self.conv(input=x)))


# Locks


class LockInside(Plain):
    """Computes under locks of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.rlock = threading.Lock(), threading.RLock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock, self.rlock:
            return super().forward(x)


class ConditionInside(Plain):
    """Computes under a condition: a copy that shares it makes Predict wait for a slow reader of Introspect."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def forward(self, x: Tensor) -> Tensor:
        with self.changed:
            return super().forward(x)


class ThreadInside(Plain):
    """Computes a layer in a thread of its own: a copy that shares the thread waits for it, and so does Predict."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = ThreadPoolExecutor(1)

    def work(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # a thread's own
            return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.thread.submit(self.work, x).result()))


class LockOfTheClass(Plain):
    """Computes under a lock that all instances share."""

    lock: AbstractContextManager[Any] = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with LockOfTheClass.lock:
            return super().forward(x)


# Weights that are made from others


class OldSpectralNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv = old_spectral_norm(self.conv)


class NewSpectralNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.spectral_norm(self.conv)


class OldWeightNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv = old_weight_norm(self.conv)


class NewWeightNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.conv)


class Orthogonal(Plain):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.orthogonal(self.head[2])


class Pruned(Plain):
    def __init__(self) -> None:
        super().__init__()
        prune.random_unstructured(self.conv, "weight", amount=0.5)
        prune.ln_structured(self.head[2], "weight", amount=1, n=2, dim=1)


class Lazy(Plain):
    """Shapes that the first input decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3)
        self.norm = nn.LazyBatchNorm2d()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.conv(x))))


class ClippedWeights(Plain):
    """Holds the norm of its weights down in each forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data = torch.renorm(self.conv.weight.data, p=2, dim=0, maxnorm=0.5)
        return super().forward(x)


class ParameterWithAttribute(Plain):
    """A parameter that carries a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.weight.scale = 2.0  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x) * getattr(self.conv.weight, "scale", 1.0))


class PlainTensor(Plain):
    """A constant that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.4, 0.6]).view(1, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.mean)


class NonPersistentBuffer(Plain):
    """A buffer that is not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(1, 2, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.mean)


class NumbersInConstructor(Plain):
    """Reads numbers out of tensors while it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0.5, 1, 2)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.rates[0])


class EachOneDifferent(Plain):
    """Decides on something when it is made, each time otherwise, and keeps it outside its state."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = next(_SHIFTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x).roll(self.shift, dims=1)))


_SHIFTS = itertools.cycle(range(4))


# Hooks of the network's own


class OwnHooks(Plain):
    """Hooks that change what a layer takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
        self.conv.register_forward_hook(lambda module, inputs, output: output * 2)


class OwnHookIsAMethod(Plain):
    """A hook that is a method of the network and keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self.conv.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen["conv"] = output

    def forward(self, x: Tensor) -> Tensor:
        self.act(self.conv(x))
        return self.head(self.seen["conv"])


class OwnHookOverSelf(OwnHookIsAMethod):
    """A hook that is a lambda over the network: a copy would write into the original and read what is old."""

    def __init__(self) -> None:
        super().__init__()
        self.conv._forward_hooks.clear()
        self.conv.register_forward_hook(lambda module, inputs, output: self.seen.update(conv=output))


class OwnHookOverList(Plain):
    """A hook that collects in a list which the forward method reads: a copy would share the list."""

    def __init__(self) -> None:
        super().__init__()
        seen: list[Tensor] = []
        self.take = seen.pop
        self.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.act(self.conv(x))
        return self.head(self.take())


class HooksInForward(Plain):
    """Puts a hook on and takes it off within each forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        with self.conv.register_forward_hook(lambda module, inputs, output: output + 1):
            return super().forward(x)


# Wrappers


class InDataParallel(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.DataParallel(Widen(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.inner(x)))


def data_parallel() -> nn.Module:
    return nn.DataParallel(Plain())


def compiled() -> nn.Module:
    return torch.compile(Plain(), backend="eager")


def compiled_in_place() -> nn.Module:
    network = Plain()
    network.compile(backend="eager")
    return network


def compiled_inside() -> nn.Module:
    network = Plain()
    network.head.compile(backend="eager")
    return network


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(Plain())


def graph_module() -> nn.Module:
    return fx.symbolic_trace(FunctionsAfterModules())


class FunctionsAfterModules(Plain):
    """Functions and methods between the modules."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)) + 1
        return self.head(x.sub(0.5))


# State that a forward pass writes


class StateInForward(Plain):
    """Keeps a tensor on itself from one module to the next, as graph attention layers do."""

    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.alpha = x.mean((2, 3), keepdim=True)
            self.last = {"x": [x]}
            return self.finish(x)

        def finish(self, x: Tensor) -> Tensor:
            return (x * self.alpha).sub(self.last["x"][0])

    def __init__(self) -> None:
        super().__init__()
        self.scale = StateInForward.Scale()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.scale(self.conv(x))))


class StateInHolder(Plain):
    """Hands a tensor from one module to a later one in an object: a copy that shares it mixes up the two forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.context = SimpleNamespace()

    def forward(self, x: Tensor) -> Tensor:
        self.context.skip = self.conv(x)
        return self.head(self.act(self.context.skip) + self.context.skip)


class StateInHolderForAWhile(StateInHolder):
    """The same, and the object is empty again at the end: nothing but another forward pass at the same time would notice."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        finally:
            del self.context.skip


class StateInClosure(Plain):
    """The same with a list that two functions share."""

    def __init__(self) -> None:
        super().__init__()
        stack: list[Tensor] = []
        self.push, self.pop = lambda x: stack.append(x), lambda: stack.pop()

    def forward(self, x: Tensor) -> Tensor:
        self.push(self.conv(x))
        x = self.act(x)
        return self.head(self.pop())


class StateInDictOfTwo(Plain):
    """One dict in two modules: a copy that gives each its own has the second read what is old."""

    class Writer(Widen):
        def forward(self, x: Tensor) -> Tensor:
            self.shared["mean"] = x.mean((0, 2, 3)).sum()
            return super().forward(x)

    class Reader(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.shared["mean"]

    def __init__(self) -> None:
        super().__init__()
        self.writer, self.reader = StateInDictOfTwo.Writer(2), StateInDictOfTwo.Reader()
        self.writer.shared = self.reader.shared = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.reader(self.writer(x)))


class StateInGlobal(Plain):
    """The same in a global, which a factory's instances share too."""

    def forward(self, x: Tensor) -> Tensor:
        _GLOBAL["skip"] = self.conv(x)
        return self.head(self.act(_GLOBAL["skip"]) - _GLOBAL["skip"])


_GLOBAL: dict[str, Tensor] = {}


class StateInClass(Plain):
    """The same on the class."""

    skip: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        StateInClass.skip = self.conv(x)
        return self.head(self.act(StateInClass.skip) - StateInClass.skip)


class ModulesInGlobal(Plain):
    """Its modules in a registry, where the latest instance replaces all before it."""

    def __init__(self) -> None:
        super().__init__()
        _REGISTRY["conv"] = self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(_REGISTRY["conv"](x)))


_REGISTRY: dict[str, nn.Module] = {}


class ThreadLocalState(Plain):
    """Keeps a tensor for the thread that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()

    def forward(self, x: Tensor) -> Tensor:
        self.local.skip = self.conv(x)
        return self.head(self.act(self.local.skip) + self.local.skip)


class CachedGrid(Plain):
    """Makes a constant at its first forward pass, in whatever mode that runs, and keeps it."""

    grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.grid is None or self.grid.shape[2:] != x.shape[2:]:
            self.grid = torch.linspace(0, 1, x.shape[3], device=x.device).expand(1, 1, *x.shape[2:])
        return self.head(x * self.grid)


class CountingBuffer(Plain):
    """Counts its forward passes in a buffer, in place; no output depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


class CountingAttribute(Plain):
    """The same with numbers of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.passes, self.by_size = 0, defaultdict(int)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.by_size[len(x)] += 1
        return super().forward(x)


class CountingHolder(Plain):
    """The same in an object, which a copy would share."""

    def __init__(self) -> None:
        super().__init__()
        self.stats = SimpleNamespace(passes=0)

    def forward(self, x: Tensor) -> Tensor:
        self.stats.passes += 1
        return super().forward(x)


class ReplacedBuffer(Plain):
    """Replaces a buffer in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = x.mean()
        return super().forward(x - self.mean)


class ScratchTensor(Plain):
    """Writes into a tensor that it keeps: a copy that shares it writes into the original's."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.mean.copy_(x.mean((0, 2, 3)))
        return self.head(self.act(x) - self.mean.sum())


class ScratchBuffer(ScratchTensor):
    """The same with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        del self.mean
        self.register_buffer("mean", torch.zeros(4), persistent=False)


class RemembersTheLastInput(Plain):
    """What it gives depends on what it saw before."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x, self.before = x - self.before, x.mean()
        return super().forward(x)


class Random(Plain):
    """Draws at random in each forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, training=True))


class ExtraState(Plain):
    """Puts a dict that it writes into its state dict, from where a second instance takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def get_extra_state(self) -> dict[str, Tensor]:
        return self.kept

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.kept = state

    def forward(self, x: Tensor) -> Tensor:
        self.kept["skip"] = self.conv(x)
        return self.head(self.act(self.kept["skip"]) + self.kept["skip"])


# What a forward pass does to its tensors


class InPlaceAfter(Plain):
    """Operations in place on what the hooked layers gave."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x += 1
        x[:, 0] = 0
        return self.head(x.mul_(2).clamp_(max=3))


class InPlaceOnInput(Plain):
    """Normalises its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).div_(0.25))


class ViewsOfOneTensor(Plain):
    """Layers that put out views of one memory, and nested values."""

    class Split(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            one, other = x.chunk(2, dim=1)
            return {"halves": (one, other), "first": x[:, :1]}

    def __init__(self) -> None:
        super().__init__()
        self.split = ViewsOfOneTensor.Split()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        parts = self.split(x)
        parts["first"].neg_()
        one, other = parts["halves"]
        return self.head(torch.cat([other, one], dim=1))


class OtherDtypes(Plain):
    """Layers in other dtypes; NaN on the way and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.mask = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.narrow(x.bfloat16().flatten(1))
        self.wide(x.double().flatten(1))
        self.mask(x.flatten(1) > 0)
        return self.head(x.log())


class ComplexInside(Plain):
    """Layers that put out what does not travel."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2)
        turned = torch.complex(x, x.roll(1)) * 1j
        return self.head((self.act(turned.conj().imag) + turned.abs())[..., None])


class NotEveryTime(Plain):
    """How often a layer runs depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for _ in range(len(x)):
            x = self.act(x)
        return self.head(x)


ZOO: dict[str, Callable[[], nn.Module]] = {
    style.__name__: style
    for style in list(globals().values())
    if isinstance(style, type) and issubclass(style, Plain | LinkedList | TiedWeights | Delegate)
} | {maker.__name__: maker for maker in (data_parallel, compiled, compiled_in_place, compiled_inside, scripted, graph_module)}
