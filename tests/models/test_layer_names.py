"""Layer names, and what they stand for, against torchvision's `feature_extraction`, which finds both by tracing.

Each of its architectures is compared twice: with its tracer told to take the same modules as leaves, where names, order and
values must be equal, and with `get_graph_node_names` as everybody calls it. The differences are run from docs/layers.md.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

import cutaway
import cutaway_server
from cutaway_server.models.layer_table import LayerTable, build_layer_table
from cutaway_server.models.walk import Site, Walk
from models.node_names import Trace, copied, folded, node_names
from torchvision_shim import feature_extraction, models, ops

PAGE = (Path(__file__).parents[2] / "docs" / "layers.md").read_text()


# What Cutaway says


def table_of(network: nn.Module, *shape: int) -> LayerTable:
    return build_layer_table(network, lambda batch: (torch.randn(batch, *shape),))


def leaves(table: LayerTable) -> list[str]:
    return [layer.name for layer in table.firing if not layer.container]


class Outputs:
    """Visitor that copies what each layer puts out."""

    def __init__(self, table: LayerTable) -> None:
        self.values: dict[str, Any] = {}
        self._table = table

    def begin(self, site: Site, inputs: tuple[Any, ...]) -> None:
        pass

    def end(self, site: Site, what: Callable[..., Any], output: Any) -> None:
        self.values[self._table.by_site[site].name] = copied(output)


def outputs(network: nn.Module, table: LayerTable, x: Tensor) -> dict[str, Any]:
    seen = Outputs(table)
    with torch.no_grad(), Walk(network, seen, operations=True):
        network(x)
    return seen.values


def served(network: nn.Module, x: Tensor, *layers: str) -> cutaway.Introspection:
    with (
        cutaway_server.serve(network, x, name="mine", threads=1, max_batch=1) as server,
        cutaway.Client(server.address, timeout=30) as client,
    ):
        return client.introspect("mine", x.numpy(), layers=layers)


# What torchvision says


def extracted(network: nn.Module, x: Tensor, *names: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return feature_extraction.create_feature_extractor(network, list(names))(x)


def assert_same_bits(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


# Its architectures

ARCHITECTURES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_0": 32,
}


@pytest.mark.parametrize(("architecture", "size"), ARCHITECTURES.items())
def test_an_architecture_of_torchvision(architecture: str, size: int) -> None:
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    network = getattr(models, architecture)(weights=None, **options).eval()
    x = torch.randn(2, 3, size, size)
    table = table_of(network, 3, size, size)
    ours = outputs(network, table, x)
    empty = [path for path, module in network.named_modules() if isinstance(module, ops.StochasticDepth)]  # in eval mode
    trace = Trace(network, x, empty=empty)
    theirs = trace.layers
    parts = [node for node in trace.values if trace.is_part(node)]

    assert leaves(table) == list(theirs)
    assert_same_bits({name: ours[name] for name in theirs}, theirs)
    assert len(parts) == (26 if architecture == "shufflenet_v2_x0_5" else 0)
    for node in parts:
        whole, index = node.args
        assert_same_bits(ours[trace.names[whole]][index], trace.values[node])

    left_out = set(trace.names.values()) - theirs.keys()
    assert folded(network, leaves(table)) == [name for name in node_names(network) if name not in left_out]


def test_every_layer_of_resnet18_through_the_server() -> None:
    torch.manual_seed(0)
    network = models.resnet18(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    expected, scores = hooked_resnet(network, x)
    containers = [path for path, module in network.named_modules() if path and list(module.children())]
    seen = served(network, x, "*", *containers)

    assert list(seen.activations) == list(expected)
    assert len(expected) == 69 + 15
    for name, tensor in expected.items():
        np.testing.assert_array_equal(seen.activations[name], tensor.numpy(), err_msg=name)
    np.testing.assert_array_equal(seen.scores, scores.numpy())

    bn1, relu = seen.activations["bn1"], seen.activations["relu"]
    assert bn1.min() < 0
    np.testing.assert_array_equal(np.maximum(bn1, 0), relu)
    theirs = extracted(network, x, "bn1", "relu")  # the in-place ReLU writes over what its `bn1` is
    np.testing.assert_array_equal(theirs["bn1"].numpy(), relu)
    assert theirs["bn1"].data_ptr() == theirs["relu"].data_ptr()


def hooked_resnet(network: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Clones by plain hooks. An operation's output is the input of the module that is called next."""
    seen: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def after(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[path] = calls.get(path, 0) + 1
            seen[path if calls[path] == 1 else f"{path}_{calls[path] - 1}"] = output.clone()

        return hook

    def before(path: str, name: str, call: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if calls.get(path, 0) == call:
                seen[name] = inputs[0].clone()

        return hook

    handles = [module.register_forward_hook(after(path)) for path, module in network.named_modules() if path]
    for path, module in network.named_modules():
        if path.endswith(".relu"):
            handles.append(module.register_forward_pre_hook(before(path, f"{path.removesuffix('relu')}add", 1)))
    handles.append(network.get_submodule("fc").register_forward_pre_hook(before("fc", "flatten", 0)))
    with torch.no_grad():
        scores = network(x)
    for handle in handles:
        handle.remove()
    return seen, scores


# Where a name there stands for something else


def hooked(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output of each submodule's last call, cloned by a plain hook."""
    seen: dict[str, Tensor] = {}

    def after(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = output.clone()

        return hook

    handles = [module.register_forward_hook(after(path)) for path, module in network.named_modules() if path]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return seen


class Numbered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(3, 3, 1)
        self.conv_2 = nn.Conv2d(3, 3, 1)
        self.conv_3 = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_3(self.conv_2(self.conv_1(x)))


class FunctionFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(F.relu(x) - 1)


class KeepsTheFirst(nn.Module):
    """Its last node is not what it puts out."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.aux = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            self.aux(x)
            return x

    def __init__(self) -> None:
        super().__init__()
        self.block = self.Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 4)


def test_modules_that_are_numbered_by_the_networks_author(x: Tensor) -> None:
    network = Numbered().eval()
    expected = hooked(network, x)
    assert node_names(network) == ["x", "conv", "conv_1", "conv_2"]
    assert_same_bits(extracted(network, x, "conv_1")["conv_1"], expected["conv_2"])
    assert not torch.equal(expected["conv_1"], expected["conv_2"])
    with pytest.raises(ValueError, match="'conv_3' is not present"):
        extracted(network, x, "conv_3")

    seen = served(network, x, "*").activations
    assert list(seen) == ["conv_1", "conv_2", "conv_3"]
    for name, tensor in expected.items():
        np.testing.assert_array_equal(seen[name], tensor.numpy())


def test_a_module_whose_name_a_function_could_take(x: Tensor) -> None:
    network = FunctionFirst().eval()
    assert node_names(network) == ["x", "relu", "sub", "relu_1"]
    assert_same_bits(extracted(network, x, "relu")["relu"], x.relu())
    assert not torch.equal(x.relu(), hooked(network, x)["relu"])

    seen = served(network, x, "*").activations
    assert list(seen) == ["relu_1", "sub", "relu"]
    np.testing.assert_array_equal(seen["relu"], hooked(network, x)["relu"].numpy())
    np.testing.assert_array_equal(seen["relu_1"], x.relu().numpy())


def test_a_container_is_what_it_puts_out(x: Tensor) -> None:
    network = KeepsTheFirst().eval()
    expected = hooked(network, x)
    assert_same_bits(extracted(network, x, "block")["block"], expected["block.aux"])
    assert not torch.equal(expected["block"], expected["block.aux"])
    np.testing.assert_array_equal(served(network, x, "block").activations["block"], expected["block"].numpy())


# The differences that the docs list


class Empty(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


PARTS: dict[str, Callable[[], nn.Module | nn.Parameter]] = {
    **dict.fromkeys(("conv_1", "conv_2", "conv_3"), lambda: nn.Conv2d(3, 3, 1)),
    **dict.fromkeys(("relu", "act", "act_1", "x"), nn.ReLU),
    "bias": lambda: nn.Parameter(torch.randn(1)),
    "block": lambda: ops.Conv2dNormActivation(3, 3),
    "empty": Empty,
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "normed": lambda: parametrizations.weight_norm(Own()),
    "stage": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()),
}


class Small(nn.Module):
    """A network from the text of its forward: statements and a last expression, parted by semicolons.

    It has those of the PARTS that the text, or what is said beside it, names.
    """

    def __init__(self, code: str, beside: str = "") -> None:
        super().__init__()
        for name in dict.fromkeys(re.findall(r"self\.(\w+)", f"{code} {beside}")):
            if name in PARTS:
                setattr(self, name, PARTS[name]())
        *statements, last = code.split("; ")
        source = "\n    ".join(["def forward(self, x):", *statements, f"return {last}"])
        names: dict[str, Any] = {"torch": torch, "F": F, "ops": ops}
        exec(source, names)
        self._forward = names["forward"]

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def both(code: str, beside: str = "") -> tuple[list[str] | None, list[str]]:
    """The names of torchvision, None where it cannot trace, and of Cutaway."""
    network = Small(code, beside).eval()
    ours = [layer.name for layer in table_of(network, 3, 4, 4).firing]
    try:
        return node_names(network)[1:], ours
    except (fx.proxy.TraceError, TypeError):
        return None, ours


def listed(cell: str) -> list[str] | None:
    return {"none": [], "cannot be traced": None}.get(cell, re.findall(r"`([^`]+)`", cell))


def rows_under(first_cell: str) -> list[list[str]]:
    _, _, table = PAGE.partition(f"\n| {first_cell} |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


@pytest.mark.parametrize("row", rows_under("in `forward`"), ids=lambda row: row[0])
def test_a_difference_that_the_docs_list(row: list[str]) -> None:
    said, theirs, ours, _ = row
    code = said.split("`")[1]
    assert both(code, said) == (listed(theirs), listed(ours))
    assert listed(theirs) != listed(ours)


def test_the_docs_list_differences_and_count_the_architectures() -> None:
    assert len(rows_under("in `forward`")) > 10
    assert "Over thirteen" in PAGE
    assert len(ARCHITECTURES) == 13


# Operations: one list with equal names, one in which two things are one call to PyTorch

SAME = """
x + 1; 1 + x; x - 1; 1 - x; x * 2; 2 * x; x / 2; 1 / x; x // 2; 2 // x; x % 2; 2 % x; x ** 2; 2 ** x; x @ x; -x; +x; abs(x)
x > 0; x >= 0; x < 0; x <= 0; x == 0; x != 0; 0 < x; ~(x > 0); (x > 0) & (x < 1); (x > 0) | (x < 1); (x > 0) ^ (x < 1)
x.int() << 1; x.int() >> 1; 1 << x.int().abs(); 1 >> x.int().abs(); 1 & x.int(); 1 | x.int(); 1 ^ x.int(); x[0]; x[:, 0]
x[..., None]; x.sub(1); x.mul(2); x.pow(2); x.neg(); x.matmul(x); x.abs(); x.eq(0); x.gt(0); x.floor_divide(2)
x.true_divide(2); x.clone().relu_(); x.view(-1); x.flatten(1); x.reshape(2, -1); x.permute(0, 1, 3, 2); x.transpose(1, 2)
x.mean((2, 3)); x.sum(); x.max(dim=1); x.softmax(1); x.sigmoid(); x.contiguous(); x.unsqueeze(0); x.squeeze(); x.chunk(3, 1)
x.float(); x.to(torch.float64); x.detach(); x.clone(); x.repeat(1, 2, 1, 1); x.argmax(1); x.masked_fill(x > 0, 0); x.flip(1)
x.clone().clamp_(0); x.split(1, 1); x.expand(-1, -1, 4, 4); torch.add(x, 1); torch.sub(x, 1); torch.mul(x, 2)
torch.div(x, 2); torch.matmul(x, x); torch.pow(x, 2); torch.bitwise_and(x > 0, x < 1); torch.cat([x, x], 1)
torch.cat(tensors=[x, x], dim=1); torch.stack([x, x]); torch.flatten(x, 1); torch.relu(x); torch.sigmoid(x)
torch.softmax(x, 1); torch.einsum('nchw->nc', x); torch.where(x > 0, x, 0); torch.clamp(x, 0); torch.topk(x, 2)
torch.zeros_like(x); torch.ops.aten.relu(x); torch.ops.aten.relu.default(x); torch.special.expit(x); torch.linalg.norm(x)
torch.fft.fft(x); F.relu(x); F.relu(x, inplace=True); F.relu(input=x); F.relu6(x); F.leaky_relu(x); F.gelu(x); F.silu(x)
F.mish(x); F.hardswish(x); F.max_pool2d(x, 2); F.max_pool2d(x, 2, return_indices=True); F.avg_pool2d(x, 2)
F.adaptive_avg_pool2d(x, 1); F.adaptive_max_pool2d(x, 1); F.lp_pool2d(x, 2, 2); F.dropout(x, 0.5, self.training)
F.dropout2d(x, 0.5, self.training); F.log_softmax(x, dim=1); F.pad(x, (1, 1)); F.interpolate(x, scale_factor=2)
F.interpolate(input=x, scale_factor=2); F.layer_norm(x, (4,)); F.group_norm(x, 1); F.instance_norm(x)
F.local_response_norm(x, 2); F.normalize(x); F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2); F.unfold(x, 2)
F.one_hot(x.argmax(1)); F.conv2d(x, x.new_ones(1, 3, 2, 2)); F.batch_norm(x, None, None, training=True)
F.scaled_dot_product_attention(x, x, x)
"""

IN_PLACE = ["+= 1", "-= 1", "*= 2", "/= 2", "//= 2", "%= 2", "**= 2", "@= x"]
IN_PLACE_INT = ["<<= 1", ">>= 1", "&= 1", "|= 1", "^= 1"]


@pytest.mark.parametrize(
    "code",
    re.split("; |\n", SAME.strip())
    + [f"y = x.clone(); y {op}; y" for op in IN_PLACE]
    + [f"y = x.int(); y {op}; y" for op in IN_PLACE_INT],
)
def test_an_operation_has_the_name_that_torchvision_gives_it(code: str) -> None:
    theirs, ours = both(code)
    assert ours == theirs
    assert ours


@pytest.mark.parametrize(
    ("method", "operator"),
    [
        ("x.div(2)", "x / 2"),
        ("x.remainder(2)", "x % 2"),
        ("x.positive()", "+x"),
        ("x.int().bitwise_and(1)", "x.int() & 1"),
        ("x.int().bitwise_or(1)", "x.int() | 1"),
        ("x.int().bitwise_xor(1)", "x.int() ^ 1"),
        ("x.add_(1)", "x + 1"),
        ("x.sub_(1)", "x - 1"),
        ("x.mul_(2)", "x * 2"),
        ("x.div_(2)", "x / 2"),
        ("x.remainder_(2)", "x % 2"),
        ("x.floor_divide_(2)", "x // 2"),
        ("x.pow_(2)", "x ** 2"),
    ],
)
def test_a_method_that_an_operator_becomes_has_the_operators_name(method: str, operator: str) -> None:
    theirs, ours = both(method)
    assert ours == both(operator)[0] == both(operator)[1]
    assert ours != theirs


# What is no layer


def test_a_parametrized_module_is_a_leaf_or_a_container_as_its_class_is() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
            self.own = parametrizations.spectral_norm(Own())
            self.older = nn.utils.spectral_norm(nn.Conv2d(3, 3, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.older(self.own(self.conv(x)))

    network = Net().eval()
    table = table_of(network, 3, 4, 4)
    assert [layer.name for layer in table.firing] == ["conv", "own.conv2d", "own", "older"]
    assert leaves(table) == ["conv", "own.conv2d", "older"]
    reasons = {layer.name: layer.never_fires for layer in table if layer.never_fires}
    assert reasons["conv.parametrizations.weight.0"] == "it computes a parameter, whenever that is read"
    assert reasons.keys() == {path for path, _ in network.named_modules() if "parametrizations" in path}


def test_what_never_fires_says_why_and_keeps_its_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.held = nn.ModuleList([self.one])
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.held[0](self.one(x)), self.linear.weight)

    table = table_of(Net().eval(), 4)
    assert [layer.name for layer in table.firing] == ["one", "one_1", "linear_1"]
    assert {layer.name: layer.never_fires for layer in table if layer.never_fires} == {
        "held": "it only holds others and is never called itself",
        "held.0": "it is the same module as 'one', under whose name its calls are listed",
        "linear": "the probes did not call it as a module",
    }
