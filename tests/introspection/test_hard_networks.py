"""Networks that keep state, change their way, share memory or wrap what stops them: right, or refused."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

import cutaway
import cutaway_server
from cutaway_server.models.walk import Site, Walk

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


@contextmanager
def served(network: nn.Module, x: Tensor = X, **settings: object) -> Iterator[cutaway.Client]:
    torch.manual_seed(0)
    settings = {"threads": 1, "lanes": 1, "log_level": "error", **settings}
    with cutaway_server.serve(network, x, name="net", **settings) as server, cutaway.Client(server.address) as client:
        yield client


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


class Depth(Base):
    """State that is put back at the end of the forward pass."""

    depth = 0

    def forward(self, x: Tensor) -> Tensor:
        self.depth = self.depth + 1
        y = self.b(self.a(x) * self.depth)
        self.depth -= 1
        return y


class Slow(Base):
    """A flag while it runs, and time to be stopped in."""

    busy = False

    def forward(self, x: Tensor) -> Tensor:
        if self.busy:
            return x * 0 + 7
        self.busy = True
        y = self.a(x)
        end = time.monotonic() + (0.6 if (x == 1).all() else 0)
        while time.monotonic() < end:
            pass
        y = self.b(y)
        self.busy = False
        return y


def test_an_early_stop_leaves_no_state_behind() -> None:
    with served(Depth()) as client:
        before = client.introspect("net", X, layers=["a", "b"])
        for _ in range(3):
            client.introspect("net", X, layers=["a"], without_prediction=True)
        after = client.introspect("net", X, layers=["a", "b"])
        np.testing.assert_array_equal(after.activations["b"], before.activations["b"])
        np.testing.assert_array_equal(after.scores, client.predict("net", X).scores)


def test_a_deadline_leaves_no_state_behind() -> None:
    with served(Slow()) as client:
        with pytest.raises(cutaway.DeadlineExceeded):
            client.introspect("net", torch.ones(2, 4), layers=["b"], timeout=0.3)
        seen = client.introspect("net", X, layers=["a", "b"], timeout=30)
        np.testing.assert_array_equal(seen.scores, client.predict("net", X).scores)


class Retry(Base):
    """Recursion, and a call that fails and is made again, for some inputs only."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, again: bool = False) -> Tensor:
            if again:
                raise ValueError
            return self.fc(x)

    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x if x.max() < 100 else self(x - 1000) * 2)

    def __init__(self) -> None:
        super().__init__()
        self.m, self.rec = Retry.Inner(), Retry.Recursive()

    def forward(self, x: Tensor) -> Tensor:
        try:
            y = self.m(x, again=bool((x > 100).any()))
        except ValueError:
            y = self.m(x)
        return self.b(self.rec(x) + self.m(y))


@pytest.mark.parametrize("inputs", [[], ["b"]])
def test_calls_of_a_module_count_by_their_begins_whatever_is_asked_for(inputs: list[str]) -> None:
    network = Retry()
    far = X + 1000
    with served(network) as client, torch.no_grad():
        seen = client.introspect("net", far, layers=["rec", "m_1"], inputs=inputs)
        np.testing.assert_array_equal(seen.activations["rec"], network.rec(far))
        np.testing.assert_array_equal(seen.activations["m_1"], network.m(far))  # the first call failed, this is the second
        assert seen.activations["m_1"].shape == (2, 4)


class Branches(Base):
    """An operation more for some inputs."""

    def forward(self, x: Tensor) -> Tensor:
        if (x > 100).any():
            x = F.relu(x[:, :4] - 1000)
        return self.b(F.relu(self.a(x)))


def test_another_way_than_the_probes_makes_names_of_functions_uncertain() -> None:
    network = Branches()
    with served(network) as client, torch.no_grad():
        np.testing.assert_array_equal(client.introspect("net", X, layers=["relu"]).activations["relu"], F.relu(network.a(X)))
        with pytest.raises(cutaway.FailedPrecondition, match="names of functions are not certain; name modules only"):
            client.introspect("net", X + 1000, layers=["relu"])
        seen = client.introspect("net", X + 1000, layers=["a"])
        np.testing.assert_array_equal(seen.activations["a"], network.a(F.relu(X + 1000 - 1000)))


class Keeps(Base):
    """A block that keeps what it puts out, where its caller writes to it."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.saved = self.lin(x)
            return self.saved

    def __init__(self) -> None:
        super().__init__()
        self.blk = Keeps.Block()

    def forward(self, x: Tensor) -> Tensor:
        y = self.blk(x)
        self.blk.saved.mul_(100)
        return self.b(y)


class Mask(Base):
    """A bool first, sizes asked for, an in-place operation behind, and a forbidden write on a branch."""

    def forward(self, x: Tensor) -> Tensor:
        mask = x > 0
        y = self.a(x)
        n = y.size(0)
        y.relu_()
        halves = y.chunk(2, dim=1)
        y[:, :1].neg_()
        return self.b(torch.cat([halves[1], halves[0]], 1) * mask / n)


class Ordered(Base):
    """An output in a dict of another type."""

    class Block(nn.Module):
        def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
            return OrderedDict(y=x * 2, z=x * 3)

    def __init__(self) -> None:
        super().__init__()
        self.blk = Ordered.Block()

    def forward(self, x: Tensor) -> Tensor:
        out = self.blk(self.a(x))
        out.move_to_end("y")
        return self.b(out["y"] + out["z"])


@pytest.mark.parametrize("make", [Keeps, Mask, Ordered, Depth])
def test_gradients_change_nothing(make: Callable[[], nn.Module]) -> None:
    with served(make()) as client:
        model = client.model("net")
        assert model.introspection.available, model.introspection.reason
        plain = client.introspect("net", X, layers=["*"])
        given = 0
        for layer in (layer.name for layer in model.layers if not layer.never_fires):
            try:
                seen = client.introspect("net", X, layers=["*"], gradients=[layer])
            except cutaway.FailedPrecondition as error:
                assert "by another name" in error.message or "does in place" in error.message or "no floating" in error.message  # noqa: PT017
                continue
            np.testing.assert_array_equal(seen.scores, plain.scores)
            for name, value in plain.activations.items():
                if isinstance(value, np.ndarray):
                    np.testing.assert_array_equal(seen.activations[name], value)
            given += layer in seen.gradients
        assert given >= 2


def test_a_write_by_the_same_name_takes_no_gradient_away() -> None:
    class Same(Base):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.a(x))
            y += x
            return self.b(y)

    with served(Same()) as client:
        assert set(client.introspect("net", X, gradients=["*"]).gradients) == {"a", "act", "add", "b"}


class Functions(Base):
    """One module, then functions for a long time."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for _ in range(100):
            x = torch.tanh(x.repeat(20_000, 1))[:2]
        return x


def test_a_deadline_stops_between_functions_that_nobody_asked_for() -> None:
    with served(Functions()) as client:
        began = time.monotonic()
        client.introspect("net", X, layers=["a"])
        whole = time.monotonic() - began
        with pytest.raises(cutaway.DeadlineExceeded):
            client.introspect("net", X, layers=["a"], timeout=whole / 10)
        began = time.monotonic()
        client.introspect("net", X, layers=["a"], without_prediction=True)
        assert time.monotonic() - began < whole / 2  # the lane was free again


class Wraps(Base):
    """Catches everything that comes from its layers."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.b(self.a(x))
        except Exception as error:
            raise RuntimeError("the network failed") from error


def test_an_early_stop_that_the_network_wraps_is_one_all_the_same() -> None:
    network = Wraps()
    with served(network) as client, torch.no_grad():
        seen = client.introspect("net", X, layers=["a"], without_prediction=True)
        np.testing.assert_array_equal(seen.activations["a"], network.a(X))
        assert seen.prediction is None


def test_costs_come_in_order_of_execution_and_inputs_tell_no_end() -> None:
    with served(nn.Sequential(OrderedDict(a=nn.Linear(4, 4), b=nn.Sequential(OrderedDict(c=nn.Linear(4, 4)))))) as client:
        costs = client.introspect("net", X, layers=["a"], inputs=["b", "b.c"]).timings.layers
        assert [cost.layer for cost in costs] == ["a", "b.c", "b"]
        assert [cost.completed_after is None for cost in costs] == [False, True, True]
        assert costs[0].bytes == 32


def test_a_complex_example_is_refused_by_whoever_serves() -> None:
    with (
        pytest.raises(ValueError, match="complex64 cannot be sent"),
        served(nn.Flatten(), torch.zeros(2, 4, dtype=torch.complex64)),
    ):
        pass


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(F.relu(self.inside(x)).shape)


class Caught(Base):
    """Modules that raise, and a network that goes on: a leaf, one with layers inside, and one run while the error is handled."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong, self.raising = nn.Linear(3, 3), Raising()

    def forward(self, x: Tensor) -> Tensor:
        with suppress(RuntimeError):
            self.wrong(x)
        try:
            self.raising(x)
        except ValueError:
            x = self.b(x)
        return torch.tanh(self.a(F.relu(x)))


def test_layers_after_a_module_that_raised_have_their_own_names():
    torch.manual_seed(0)
    net = Caught()
    with served(net) as client:
        layers = [layer.name for layer in client.model("net").layers]
        seen = client.introspect("net", X, layers=["relu", "tanh", "b"])
    assert layers == ["raising.inside", "raising.relu", "b", "relu", "a", "tanh", "wrong"]  # the last never fires
    with torch.no_grad():
        np.testing.assert_array_equal(seen.activations["b"], net.b(X))
        np.testing.assert_array_equal(seen.activations["relu"], net.b(X).relu())
        np.testing.assert_array_equal(seen.activations["tanh"], net(X))


class Attending(nn.Module):
    """PyTorch's attention, in which it computes in another way while anybody looks."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention, self.head = attention, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.attention, nn.MultiheadAttention):
            return self.head(self.attention(x, x, x)[0].mean(1))
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[0, 3:] = True
        return self.head(F.relu(self.attention(x, src_key_padding_mask=mask)).mean(1))


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "attention",
    [lambda: nn.MultiheadAttention(8, 2, batch_first=True), encoder_layer, lambda: nn.TransformerEncoder(encoder_layer(), 2)],
    ids=["attention", "layer", "encoder"],
)
def test_attention(attention: Callable[[], nn.Module]):
    torch.manual_seed(0)
    net, x = Attending(attention()).eval(), torch.rand(2, 5, 8)
    given = []
    net.attention.register_forward_hook(lambda _m, _i, output: given.append(output))
    with torch.no_grad():
        scores = net(x)
    with served(net, x) as client:
        seen = client.introspect("net", x, layers=["attention", "head"])
    found = seen.activations["attention"]
    if isinstance(found, np.ndarray):
        np.testing.assert_allclose(found, given[0], atol=1e-6)
    else:
        np.testing.assert_allclose(found["0"], given[0][0], atol=1e-6)
    np.testing.assert_allclose(seen.activations["head"], scores, atol=1e-6)


class Passing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Moded(Base):
    """Enters a mode of its own in one layer, and leaves it or not."""

    def __init__(self, leaves: bool) -> None:
        super().__init__()
        self.mode, self.leaves = Passing(), leaves
        self.a.register_forward_pre_hook(lambda _m, _i: self.enter())

    def enter(self) -> None:
        self.mode.__enter__()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.leaves:
            self.mode.__exit__(None, None, None)
        return F.gelu(self.b(F.relu(x)))


def test_modes_of_the_network_are_neither_lost_nor_taken_for_ours():
    for leaves in (True, False):
        torch.manual_seed(0)
        net = Moded(leaves)
        walk_names: list[str] = []

        class Notes:
            def begin(self, site: Site, inputs: object) -> None:
                pass

            def end(self, site: Site, what: object, output: object) -> None:
                walk_names.append(site.path or site.op)  # noqa: B023

        with Passing() as mine:
            with torch.no_grad(), Walk(net, Notes(), operations=True):
                net(X)
            assert _get_current_function_mode_stack()[0] is mine
            assert len(_get_current_function_mode_stack()) == 1
        assert walk_names == ["a", "relu", "b", "gelu"]


class Detaching(Base):
    """For one input nothing leads from its first layer to the score."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y.detach() if (x == 1).all() else y)


def test_a_gradient_that_fails_says_which_capture_it_was_and_costs_the_others_nothing():
    torch.manual_seed(0)
    net = Detaching()
    with served(net) as client:
        seen = client.introspect("net", torch.ones(1, 4), layers=["b"], gradients=["a", "b"])
    with pytest.raises(cutaway.Error, match=r"captures\[1\]: layer 'a' .* nothing that PyTorch can differentiate"):
        seen.gradients["a"]
    assert seen.gradients["b"].tolist() == np.eye(4)[seen.scores.argmax(1)].tolist()
