"""What Introspect streams is what plain PyTorch hooks with a clone see, on the same weights and threads, bit for bit."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
import cutaway_server
from cutaway_server.models.mnist.networks import GapNet, Net
from cutaway_server.models.model import Model


def module_outputs(network: nn.Module, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every submodule's output by the tutorial's way: a hook that stores a clone under the layer's name."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output.detach().clone().numpy()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules() if name]
    with torch.no_grad():
        network(torch.from_numpy(x))
    for handle in handles:
        handle.remove()
    return seen


def tutorial_steps(net: Net, x: np.ndarray) -> dict[str, np.ndarray]:
    """The tutorial's forward pass written out, each step under the name that the layer table gives it."""
    steps: dict[str, Tensor] = {}
    with torch.no_grad():
        steps["conv1"] = net.conv1(torch.from_numpy(x))
        steps["max_pool2d"] = F.max_pool2d(steps["conv1"], 2)
        steps["relu"] = F.relu(steps["max_pool2d"])
        steps["conv2"] = net.conv2(steps["relu"])
        steps["conv2_drop"] = steps["conv2"]
        steps["max_pool2d_1"] = F.max_pool2d(steps["conv2_drop"], 2)
        steps["relu_1"] = F.relu(steps["max_pool2d_1"])
        steps["view"] = steps["relu_1"].view(-1, 320)
        steps["fc1"] = net.fc1(steps["view"])
        steps["relu_2"] = F.relu(steps["fc1"])
        steps["dropout"] = steps["relu_2"]
        steps["fc2"] = net.fc2(steps["dropout"])
    return {name: step.numpy() for name, step in steps.items()}


def assert_same_bits(seen: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert seen.keys() == expected.keys()
    for name, array in expected.items():
        assert seen[name].dtype == array.dtype, name
        np.testing.assert_array_equal(seen[name], array, err_msg=name)


@pytest.mark.parametrize("batch", [1, 7])
def test_every_layer_of_the_tutorials_network(live: cutaway.Client, models: dict[str, Model], x: np.ndarray, batch: int) -> None:
    seen = live.introspect("mnist", x[:batch], layers=["*"])
    network = models["mnist"].network
    assert isinstance(network, Net)
    assert_same_bits(dict(seen.activations), tutorial_steps(network, x[:batch]))
    assert list(seen.activations) == list(tutorial_steps(network, x[:1]))  # in the order of execution
    for name, array in module_outputs(network, x[:batch]).items():
        np.testing.assert_array_equal(seen.activations[name], array, err_msg=name)


@pytest.mark.parametrize("batch", [1, 7])
def test_every_layer_of_the_gap_network(live: cutaway.Client, models: dict[str, Model], x: np.ndarray, batch: int) -> None:
    network = models["mnist-gap"].network
    assert isinstance(network, GapNet)
    seen = live.introspect("mnist-gap", x[:batch], layers=["*", "features"])
    assert_same_bits(dict(seen.activations), module_outputs(network, x[:batch]))


def test_a_glob_leaves_containers_out(live: cutaway.Client) -> None:
    table = live.model("mnist-gap").layers
    assert [layer.name for layer in table if layer.container] == ["features"]
    leaves = [layer.name for layer in table if not layer.container]
    assert list(live.introspect("mnist-gap", np.zeros((1, 1, 28, 28), np.float32), layers=["*"]).activations) == leaves


def test_input_of_the_next_layer_is_the_output_of_the_functional_relu(live: cutaway.Client, x: np.ndarray) -> None:
    seen = live.introspect("mnist", x[:3], layers=["relu", "view"], inputs=["conv2", "fc1"])
    np.testing.assert_array_equal(seen.inputs["conv2"], seen.activations["relu"])
    np.testing.assert_array_equal(seen.inputs["fc1"], seen.activations["view"])
    assert (seen.inputs["conv2"] >= 0).all()


@pytest.mark.parametrize("model", ["mnist", "mnist-gap"])
@pytest.mark.parametrize("batch", [1, 5])
def test_scores_are_those_of_predict_bit_for_bit(eager: cutaway.Client, x: np.ndarray, model: str, batch: int) -> None:
    predicted = eager.predict(model, x[:batch], top_k=3)
    plain = eager.introspect(model, x[:batch], layers=["*"], top_k=3)
    with_gradients = eager.introspect(model, x[:batch], cams=[cutaway.Cam("grad-cam")], top_k=3)
    for seen in (plain, with_gradients):
        np.testing.assert_array_equal(seen.logits, predicted.logits)
        assert seen.top == predicted.top


def test_captures_without_prediction_end_the_forward_pass_early(live: cutaway.Client, x: np.ndarray) -> None:
    with live.introspect_stream("mnist", x[:2], layers=["conv1"], without_prediction=True) as events:
        kinds = [type(event).__name__ for event in events]
    assert kinds == ["Started", "Activation", "Finished"]
    with live.introspect_stream("mnist", x[:2], layers=["conv1"], without_prediction=True) as events:
        assert list(events)[-1].last_layer == "conv1"
    with live.introspect_stream("mnist", x[:2], layers=["conv1"]) as events:
        assert list(events)[-1].last_layer == "fc2"


def test_gradients_are_those_of_autograd(live: cutaway.Client, models: dict[str, Model], x: np.ndarray) -> None:
    network = models["mnist"].network
    held: list[Tensor] = []
    handle = network.get_submodule("conv2").register_forward_hook(lambda module, inputs, output: held.append(output))
    scores = network(torch.from_numpy(x[:4]).requires_grad_())
    handle.remove()
    (expected,) = torch.autograd.grad(scores.max(dim=1).values.sum(), held)
    seen = live.introspect("mnist", x[:4], gradients=["conv2"])
    np.testing.assert_allclose(seen.gradients["conv2"], expected.numpy(), atol=1e-6)


class InPlace(nn.Module):
    """An in-place ReLU right after the layer of interest, and one activation module that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        x = self.act(x - 1)
        return self.fc(x.mean((2, 3)))


def test_a_capture_is_the_layers_output_though_an_in_place_operation_follows() -> None:
    torch.manual_seed(0)
    net = InPlace().eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        bn = net.bn(net.conv(x))
        first = bn.clone().relu()
    with cutaway_server.serve(net, x, name="mine", threads=1) as server, cutaway.Client(server.address) as client:
        seen = client.introspect(
            "mine", x.numpy(), layers=["bn", "act", "act_1"], gradients=["bn"], cams=[cutaway.Cam("grad-cam", "bn")]
        )
    assert bn.min() < 0
    np.testing.assert_array_equal(seen.activations["bn"], bn.numpy())
    np.testing.assert_array_equal(seen.activations["act"], first.numpy())
    np.testing.assert_array_equal(seen.activations["act_1"], (first - 1).relu().numpy())
    weights = seen.gradients["bn"].mean((2, 3), keepdims=True)
    np.testing.assert_allclose(seen.cams[0].map, (weights * bn.numpy()).sum(1).clip(0), atol=1e-6)


class Nested(nn.Module):
    """Layers that put out and take tuples and dicts, and one that does not run for every input."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return x + 1, {"double": x * 2}

    class Join(nn.Module):
        def forward(self, one: Tensor, other: dict[str, Tensor]) -> Tensor:
            return one + other["double"]

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.join, self.rare = Nested.Pair(), Nested.Join(), nn.Identity()
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 4:
            x = self.rare(x)
        return self.fc(self.join(*self.pair(x)))


def test_nested_values_come_by_path_and_what_did_not_run_says_so() -> None:
    net, x = Nested(), torch.randn(2, 5)
    with cutaway_server.serve(net, x, name="mine") as server, cutaway.Client(server.address) as client:
        seen = client.introspect("mine", x.numpy(), layers=["pair"], inputs=["join"])
        np.testing.assert_array_equal(seen.activations["pair"]["0"], (x + 1).numpy())
        np.testing.assert_array_equal(seen.activations["pair"]["1.double"], (x * 2).numpy())
        np.testing.assert_array_equal(seen.inputs["join"]["1.double"], (x * 2).numpy())
        lacking = client.introspect("mine", np.zeros((4, 5), np.float32), layers=["rare", "join"])
        assert "join" in lacking.activations
        with pytest.raises(cutaway.Error, match="did not run for this input"):
            lacking.activations["rare"]


class Aliases(nn.Module):
    """Writes to memory by another name than the layer gave it, and to memory that a gradient would need."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        first = y[:, :2]
        y += 1  # by its own name; `first` changes too
        z = self.act(y)
        z *= 2  # what sigmoid's gradient needs is gone
        return self.fc(z.mean((2, 3)) + first.mean())


def test_a_gradient_that_would_change_what_the_network_computes_is_refused() -> None:
    torch.manual_seed(0)
    network, x = Aliases().eval(), torch.randn(2, 1, 6, 6)
    with cutaway_server.serve(network, x, name="aliases") as server, cutaway.Client(server.address) as client:
        plain = client.introspect("aliases", x, layers=["*"])
        with pytest.raises(cutaway.FailedPrecondition, match="by another name"):
            client.introspect("aliases", x, gradients=["getitem"])
        with pytest.raises(cutaway.FailedPrecondition, match="by another name"):
            client.introspect("aliases", x, cams=[cutaway.Cam("grad-cam", "getitem")])
        seen = client.introspect("aliases", x, layers=["*"], gradients=["*"])
        assert_same_bits(dict(seen.activations), dict(plain.activations))
        np.testing.assert_array_equal(seen.scores, plain.scores)
        assert "getitem" not in seen.gradients
        # From before the overwritten sigmoid there is no way to the score; from behind it there is.
        seen = client.introspect("aliases", x, gradients=["conv", "fc"], cams=[cutaway.Cam("grad-cam", "conv")])
        assert [(failure.layer, failure.cam) for failure in seen.failures] == [("conv", None), (None, 0)]
        assert all("overwrites" in failure.message for failure in seen.failures)
        np.testing.assert_array_equal(seen.gradients["fc"], np.eye(3, dtype=np.float32)[seen.scores.argmax(1)])
