"""Networks in every style: what an introspection shows is what plain hooks see on the network itself, or there is none.

A mirror that led back to the network somewhere would show wrong tensors only now and then: when Predict runs at the same time.
So Predict runs here between any two layers of a mirror.
"""

import functools
import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import cutaway
from cutaway_server.models.arrays import to_array
from cutaway_server.models.model import InputSpec, Model, NotServable
from cutaway_server.models.prepare import prepare
from cutaway_server.models.walk import Site, Walk, parametrizations, tensors
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from models.zoo import ZOO, Plain, StateInHolder

WAYS = ("factory", "references")  # how mirrors are made

# Why there is no introspection; all other styles have one, both ways.
COMPILED, SCRIPTED = "it is compiled", "it is TorchScript"
STRAY, WRITES, LOCKED = "still runs the original's module '{}'", "writes to '{}', which it shares", "they share a lock"
OTHER, BESIDE = "layer '{}' does not run or give the same in a private copy", "layer '{}' gives something else while a private copy"
UNSTEADY = "layer '{}' does not give the same each time"
FAILS = "no private copy of it could be made and run"
REFUSED = {
    # its parts lie where a copy of the module tree does not reach, but a factory makes them anew
    ("Closure", "references"): STRAY.format("act"),
    ("WeakReference", "references"): STRAY.format("conv"),
    ("HolderObject", "references"): STRAY.format("act"),
    ("PatchedForward", "references"): STRAY.format("block.0"),
    ("PatchedLeafThatKeeps", "references"): WRITES.format("conv.last"),
    ("Slots", "references"): FAILS,
    ("ConditionInside", "references"): LOCKED,
    ("ThreadInside", "references"): LOCKED,
    ("OwnHookOverSelf", "references"): WRITES.format("seen.conv"),
    ("OwnHookOverList", "references"): BESIDE.format("head.0"),
    ("StateInHolder", "references"): WRITES.format("context.skip"),
    ("StateInHolderForAWhile", "references"): FAILS,
    ("StateInClosure", "references"): BESIDE.format("head.0"),
    ("CountingHolder", "references"): WRITES.format("stats.passes"),
    # what a factory makes is not the same, or cannot be made without its weights
    ("UnregisteredModules", "factory"): OTHER.format("conv2d"),
    ("UnregisteredNorm", "factory"): FAILS,
    ("Delegate", "factory"): FAILS,
    ("Orthogonal", "factory"): FAILS,
    ("ParameterWithAttribute", "factory"): OTHER.format("mul"),
    ("PlainTensor", "factory"): FAILS,
    ("NumbersInConstructor", "factory"): FAILS,
    ("EachOneDifferent", "factory"): OTHER.format("roll"),
    ("ReplacedBuffer", "factory"): FAILS,
    ("ScratchTensor", "factory"): FAILS,
    ("ExtraState", "factory"): WRITES.format("kept.skip"),
    ("ModulesInGlobal", "factory"): OTHER.format("conv2d"),
    ("ModulesInGlobal", "references"): STRAY.format("conv"),
    ("UnregisteredNorm", "references"): UNSTEADY.format("add"),
    ("ScratchTensor", "references"): WRITES.format("mean"),
    # no two instances can run at the same time, or none gives the same twice
    **{("LockOfTheClass", way): LOCKED for way in WAYS},
    **{(style, way): BESIDE.format("sub") for style in ("StateInGlobal", "StateInClass") for way in WAYS},
    **{("CountingBuffer", way): UNSTEADY.format("add") for way in WAYS},
    **{("ScratchBuffer", way): WRITES.format("mean") for way in WAYS},
    **{("RemembersTheLastInput", way): UNSTEADY.format("sub") for way in WAYS},
    **{("Random", way): UNSTEADY.format("dropout") for way in WAYS},
    **{(style, way): COMPILED for style in ("compiled", "compiled_in_place", "compiled_inside") for way in WAYS},
    **{("scripted", way): SCRIPTED for way in WAYS},
}
ALL = [(style, way) for style in ZOO for way in WAYS]
SHOWN = [case for case in ALL if case not in REFUSED]

# Mirrors that lead to the original by a closure, which only reads what both share.
READING_CLOSURES = {("PatchedLeaf", "references"), ("ClosureOverParameter", "references")}


def spec(dtype: torch.dtype = torch.float32) -> tuple[InputSpec, ...]:
    return (InputSpec("x", dtype, (-1, 2, 6, 6)),)


def prepared(style: str) -> dict[tuple[str, str], Model]:
    factories = {"factory": ZOO[style], "references": None}
    return {
        (style, way): prepare(ZOO[style](), name=f"{style}-{way}", inputs=spec(), factory=factory)
        for way, factory in factories.items()
    }


@pytest.fixture(scope="module")
def zoo() -> dict[tuple[str, str], Model]:
    torch.manual_seed(0)
    locked = sorted({style for (style, _), why in REFUSED.items() if why == LOCKED})
    models: dict[tuple[str, str], Model] = {}
    with ThreadPoolExecutor() as threads:  # a lock that two instances share shows by their waiting
        for found in threads.map(prepared, locked):
            models |= found
    for style in [style for style in ZOO if style not in locked]:
        models |= prepared(style)
    return models


@pytest.fixture(scope="module")
def client(zoo: dict[tuple[str, str], Model]) -> Iterator[cutaway.Client]:
    settings = load_settings({"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "threads": 1, "lanes": 1, "max_batch": 1})
    with Server(list(zoo.values()), settings) as server, cutaway.Client(server.address, timeout=30) as connected:
        yield connected


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def other() -> Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(6))


# The oracle: plain PyTorch on the network itself


Captured = dict[tuple[str, str, str], Tensor]  # by layer, "input" or "output", path in a nested value


@dataclass
class Seen:
    """What one forward pass of the network showed: every module call by name, every operation in order, the scores."""

    modules: Captured
    operations: list[tuple[dict[str, Tensor], dict[str, Tensor]]]
    scores: Tensor


def copies(value: Any) -> dict[str, Tensor]:
    """As a client gets them: bfloat16 as float32."""
    taken = {path: tensor.detach().clone() for path, tensor in tensors(value)}
    return {path: tensor.float() if tensor.dtype is torch.bfloat16 else tensor for path, tensor in taken.items()}


def lone(inputs: tuple[Any, ...]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


def plain_hooks(network: nn.Module, x: Tensor) -> Seen:
    """Forward hooks that clone, and a mode that clones what each operation takes and gives."""
    modules: Captured = {}
    operations: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    calls: Counter[str] = Counter()
    running: list[str] = []

    def begin(path: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        running.append(f"{path}_{calls[path]}" if calls[path] else path)
        calls[path] += 1
        modules.update({(running[-1], "input", at): tensor for at, tensor in copies(lone(inputs)).items()})

    def end(path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        modules.update({(running[-1], "output", at): tensor for at, tensor in copies(output).items()})
        running.pop()

    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            taken = copies(lone(args))
            output = func(*args, **(kwargs or {}))
            operations.append((taken, copies(output)))
            return output

    handles = []
    for path, module in network.named_modules():
        if path and module not in parametrizations(network):
            handles.append(module.register_forward_pre_hook(functools.partial(begin, path), prepend=True))
            handles.append(module.register_forward_hook(functools.partial(end, path)))
    with torch.no_grad(), Recorder():
        scores = network(x.clone())
    for handle in handles:
        handle.remove()
    return Seen(modules, operations, scores.clone())


def same(one: Tensor | None, other: Tensor) -> bool:
    """Bit for bit; NaN is as good as NaN."""
    if one is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())


def assert_shows(model: Model, shown: Captured, seen: Seen) -> None:
    """Every layer in the table that ran: modules by their names, operations in their order."""
    remaining = iter(seen.operations)
    for layer in model.layers.firing:
        taken = {path: tensor for (name, kind, path), tensor in shown.items() if (name, kind) == (layer.name, "input")}
        given = {path: tensor for (name, kind, path), tensor in shown.items() if (name, kind) == (layer.name, "output")}
        assert layer.site is not None
        if layer.site.op:
            assert any(alike(taken, before) and alike(given, after) for before, after in remaining), layer.name
        else:
            assert alike(taken, {p: t for (name, kind, p), t in seen.modules.items() if (name, kind) == (layer.name, "input")})
            assert alike(given, {p: t for (name, kind, p), t in seen.modules.items() if (name, kind) == (layer.name, "output")})


def alike(shown: dict[str, Tensor], seen: dict[str, Tensor]) -> bool:
    sendable = {path: tensor for path, tensor in seen.items() if not tensor.is_complex()}
    return shown.keys() == sendable.keys() and all(same(shown[path], tensor) for path, tensor in sendable.items())


def contents(network: nn.Module) -> dict[str, Any]:
    """All that can be reached from a network, by path: tensors by value, flags and numbers, hooks by their keys."""
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}
    left: list[tuple[str, Any]] = [("", network)]
    while left:
        path, value = left.pop()
        if isinstance(value, Tensor):
            found[path] = value.requires_grad, value.grad, value.dtype, str(value.tolist())
        elif isinstance(value, bool | int | float | str | None):
            found[path] = value
        elif id(value) not in seen:
            seen[id(value)] = value
            found[path] = type(value)
            left += [(f"{path}.{name}", member) for name, member in members(value).items()]
    return found


def members(value: Any) -> dict[Any, Any]:
    """What an object leads to, where no copy of a module tree would look too."""
    if isinstance(value, dict):
        return {str(key): member for key, member in value.items()} | {f"key {place}": key for place, key in enumerate(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return dict(enumerate(value))
    if isinstance(value, FunctionType):
        return {place: cell.cell_contents for place, cell in enumerate(value.__closure__ or ())}
    if isinstance(value, MethodType):
        return {"self": value.__self__, "function": value.__func__}
    if isinstance(value, functools.partial):
        return {"function": value.func, "arguments": value.args, "keywords": value.keywords}
    if isinstance(value, weakref.ref):
        return {"to": value()}
    return vars(value) if isinstance(value, nn.Module | SimpleNamespace) else {}


def modules_from(network: nn.Module) -> set[int]:
    """Ids of all modules that can be reached from a network."""
    found: dict[int, Any] = {}
    left: list[Any] = [network]
    while left:
        value = left.pop()
        if id(value) not in found and not isinstance(value, Tensor):
            found[id(value)] = value
            left += members(value).values()
    return {key for key, value in found.items() if isinstance(value, nn.Module)}


# What is shown is right


@pytest.mark.parametrize(("style", "way"), SHOWN)
def test_a_real_server_shows_what_plain_hooks_see(
    zoo: dict[tuple[str, str], Model], client: cutaway.Client, x: Tensor, other: Tensor, style: str, way: str
) -> None:
    model = zoo[style, way]
    assert model.not_introspectable == ""
    network, firing = model.network, model.layers.firing
    names, fed = [layer.name for layer in firing], [layer.name for layer in firing if layer.inputs]
    floating = [layer for layer in firing if any(output.dtype.is_floating_point for output in layer.outputs)]
    gradients = [layer.name for layer in floating if not layer.no_gradient]  # to take them must not change what is captured
    expected = [plain_hooks(network, inputs) for inputs in (other, x)]
    before = contents(network)
    answers = [  # the first call leaves nothing in the mirror for the second
        client.introspect(model.name, other.numpy(), layers=names, inputs=fed, gradients=gradients),
        client.introspect(model.name, x.numpy(), layers=names, inputs=fed),
    ]
    assert contents(network) == before  # no hook, no .grad, no flag, nothing written
    for seen, plain in zip(answers, expected, strict=True):
        taken = {(one.layer, one.kind, one.path): torch.tensor(one.array) for one in seen.captures if one.kind != "gradient"}
        assert_shows(model, taken, plain)
        assert same(torch.tensor(seen.scores), plain.scores)
    assert same(torch.tensor(client.predict(model.name, x.numpy()).scores), expected[1].scores)


class Beside:
    """Visitor that copies what a mirror shows, and lets others run wherever a layer ends."""

    def __init__(self, model: Model, others: Callable[[], None]) -> None:
        self.shown: Captured = {}
        self._layers = model.layers.by_site
        self._others = others

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        self._take(site, "input", lone(inputs))

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        self._take(site, "output", output)
        self._others()

    def _take(self, site: Site, kind: str, value: Any) -> None:
        if site in self._layers:
            taken = {path: tensor for path, tensor in copies(value).items() if not tensor.is_complex()}
            self.shown.update({(self._layers[site].name, kind, path): tensor for path, tensor in taken.items()})


@pytest.mark.parametrize(("style", "way"), SHOWN)
def test_predict_and_another_mirror_run_between_any_two_layers(
    zoo: dict[tuple[str, str], Model], x: Tensor, other: Tensor, style: str, way: str
) -> None:
    model = zoo[style, way]
    serving = Eager(model)
    expected, predicted = plain_hooks(model.network, x), serving.run((to_array(other.clone()),)).copy()
    mirrors = [model.make_mirror() for _ in range(2)]  # after a prediction, as when a lane replaces its mirror

    def others() -> None:
        np.testing.assert_array_equal(serving.run((to_array(other.clone()),)), predicted)
        mirrors[1].network(other.clone())

    with ThreadPoolExecutor(1) as thread:
        beside = Beside(model, lambda: thread.submit(others).result(timeout=30))
        with torch.no_grad(), Walk(mirrors[0].network, beside, operations=True):
            scores = mirrors[0].network(x.clone())
    assert_shows(model, beside.shown, expected)
    assert same(scores, expected.scores)
    assert all(mirror.is_clean() and not mirror.live_hooks() for mirror in mirrors)


@pytest.mark.parametrize(("style", "way"), SHOWN)
def test_a_mirror_has_the_weights_and_no_module_of_the_network(zoo: dict[tuple[str, str], Model], style: str, way: str) -> None:
    model = zoo[style, way]
    mirror = model.make_mirror().network
    assert (modules_from(mirror) & modules_from(model.network) != set()) is ((style, way) in READING_CLOSURES)
    if style not in ("ClippedWeights", "ReplacedBuffer"):  # these replace their tensors in each forward pass
        held = {name: tensor.data_ptr() for name, tensor in model.network.state_dict().items() if isinstance(tensor, Tensor)}
        assert {name: tensor.data_ptr() for name, tensor in mirror.state_dict().items() if isinstance(tensor, Tensor)} == held


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("style", ["DirectForward", "FunctionalWeights"])
def test_what_no_hook_sees_is_what_one_computes_by_hand(
    zoo: dict[tuple[str, str], Model], client: cutaway.Client, x: Tensor, style: str, way: str
) -> None:
    model = zoo[style, way]
    with torch.no_grad():
        steps = model.network.by_hand(x)
    seen = client.introspect(model.name, x.numpy(), layers=list(steps))
    for name, step in steps.items():
        np.testing.assert_allclose(seen.activations[name], step, rtol=1e-6, err_msg=name)
    silent = {layer.name for layer in model.layers if layer.never_fires}
    assert {"conv", "act", "head"} - {layer.name for layer in model.layers.firing} <= silent
    with pytest.raises(cutaway.FailedPrecondition, match="the probes did not call it as a module"):
        client.introspect(model.name, x.numpy(), layers=["conv"])


# What is not shown


@pytest.mark.parametrize(("style", "way"), REFUSED)
def test_a_refusal_says_why_and_predict_is_right(
    zoo: dict[tuple[str, str], Model], client: cutaway.Client, x: Tensor, style: str, way: str
) -> None:
    model = zoo[style, way]
    assert re.search(REFUSED[style, way], model.not_introspectable)
    assert len(model.layers) == 0
    with pytest.raises(cutaway.FailedPrecondition, match=re.escape(model.not_introspectable)):
        client.introspect(model.name, x.numpy(), layers=["*"])
    assert all(not (module._forward_hooks or module._forward_pre_hooks) for module in model.network.modules()) or "Hook" in style
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in model.network.parameters())
    if (style, way) not in {(unsteady, way) for unsteady in ("Random", "RemembersTheLastInput")}:
        with torch.inference_mode():
            scores = model.network(x.clone()).clone()
        assert same(torch.tensor(client.predict(model.name, x.numpy()).scores), scores)


def reason(network: nn.Module, factory: Callable[[], nn.Module] | None, dtype: torch.dtype = torch.float32) -> str:
    return prepare(network, name="mine", inputs=spec(dtype), factory=factory).not_introspectable


class Scaled(Plain):
    """Gives the same whatever the scale, a power of two; its layers do not."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x) * self.scale) / self.scale)


def test_a_factory_whose_networks_differ_inside_only() -> None:
    assert reason(Scaled(2.0), Scaled) == f"{OTHER.format('mul')} of it as in the network itself"
    assert reason(Scaled(2.0), lambda: Scaled(2.0)) == ""


def test_a_factory_of_another_network() -> None:
    assert re.search(FAILS, reason(Plain(), lambda: nn.Sequential(Plain())))


def test_a_factory_that_gives_the_network_or_a_part_of_it_again() -> None:
    network = Plain()
    around = nn.Sequential(network)
    parameters = list(network.parameters())
    assert re.search(FAILS, reason(network, lambda: network))
    assert re.search(FAILS, reason(around, lambda: nn.Sequential(network)))
    assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))


def test_a_factory_whose_networks_share_what_they_write() -> None:
    context = SimpleNamespace()

    def factory() -> nn.Module:
        network = StateInHolder()
        network.context = context
        return network

    assert re.search(WRITES.format("context.skip"), reason(factory(), factory))


class Pixels(StateInHolder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 255)


def test_shared_state_shows_with_pixels_too() -> None:
    assert re.search(WRITES.format("context.skip"), reason(Pixels(), None, torch.uint8))


class AlwaysTraining(Plain):
    def eval(self) -> "AlwaysTraining":
        raise NotImplementedError("no eval()")


def test_a_network_without_an_eval_mode() -> None:
    with pytest.raises(NotServable, match=r"the network fails .*no eval\(\)"):
        reason(AlwaysTraining(), None)


def test_the_zoo_is_complete() -> None:
    assert set(REFUSED) < set(ALL)
    assert len(ZOO) > 60
