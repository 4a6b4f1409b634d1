"""`cutaway_server.serve`: a network of one's own, served from this very process."""

import os
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

import cutaway
import cutaway_server
from cutaway_server.models.model import NotServable
from server_process import wait_until


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.head(self.drop(x.flatten(1)))


class Tutorial(Own):
    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(super().forward(x), dim=1)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(2, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) - self.right(right)


class Moody(nn.Module):
    """Raises at what the example does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x == 1234).any()):
            raise RuntimeError("secret of /home/somebody/net.py")
        return self.fc(x)


class Tupled(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Counted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(dim=1)


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before)


def hooks(network: nn.Module) -> int:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in network.modules() for name in names)


def plain(network: nn.Module, *arguments: np.ndarray) -> np.ndarray:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    with torch.no_grad():
        scores = network(*map(torch.from_numpy, arguments)).numpy()
    for module, mode in modes.items():
        module.training = mode
    return scores


@pytest.mark.usefixtures("no_thread_stays")
def test_predict_and_introspect_equal_plain_pytorch(x: np.ndarray):
    torch.manual_seed(0)
    net = Own()
    net.drop.eval()  # a mixture of modes, which must come back as it was
    modes = [module.training for module in net.modules()]
    with cutaway_server.serve(net, torch.zeros(1, 3, 8, 8), name="mine", labels="abcde", threads=1, max_batch=1) as server:
        with cutaway.Client(server.address) as client:
            predicted = client.predict("mine", x, top_k=2)
            seen = client.introspect("mine", x, layers=["*"], inputs=["head"], gradients=["conv"])
            expected = plain(net, x)
        assert not net.training
        assert hooks(net) == 0
    assert [module.training for module in net.modules()] == modes
    assert hooks(net) == 0
    assert not any(parameter.grad is not None for parameter in net.parameters())

    np.testing.assert_array_equal(predicted.scores, expected)
    np.testing.assert_array_equal(seen.scores, expected)
    assert [top[0].label for top in predicted.top] == ["abcde"[best] for best in expected.argmax(1)]
    conv = plain(net.conv, x)
    np.testing.assert_array_equal(seen.activations["conv"], conv)
    np.testing.assert_array_equal(seen.activations["norm"], plain(net.norm, conv))
    np.testing.assert_array_equal(seen.activations["relu"], np.maximum(plain(net.norm, conv), 0))
    np.testing.assert_array_equal(seen.inputs["head"], seen.activations["relu"].reshape(3, -1))
    assert np.abs(seen.gradients["conv"]).max() > 0


@pytest.mark.usefixtures("no_thread_stays")
def test_threads_and_modes_come_back_after_an_error_in_the_block():
    net = Own()
    threads = torch.get_num_threads()
    inside = []

    def fails_while_serving() -> None:
        with cutaway_server.serve(net, torch.zeros(1, 3, 8, 8), name="mine", threads=threads + 1, lane_threads=threads + 1):
            inside.append((torch.get_num_threads(), net.training))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_while_serving()
    assert inside == [(threads, False)]
    assert net.training
    assert net.drop.training
    assert torch.get_num_threads() == threads


class Told(nn.Module):
    """Its scores: how many threads PyTorch uses, and the thread's priority."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return torch.tensor([[float(torch.get_num_threads()), float(nice)]]).expand(len(x), 2)


def test_each_forward_pass_has_its_threads_and_introspections_give_way_to_predict():
    x = np.zeros((1, 100_000), np.float32)  # enough to be decoded by several threads, were there any
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    less = 10 if sys.platform == "linux" else 0  # elsewhere threads have no priority of their own
    with (
        cutaway_server.serve(Told(), torch.from_numpy(x), name="told", threads=3, lane_threads=2) as server,
        cutaway.Client(server.address) as client,
    ):
        for _ in range(2):
            assert client.predict("told", x).scores.tolist() == [[3, nice]]
            assert client.introspect("told", x).scores.tolist() == [[2, nice + less]]


def test_log_probabilities(x: np.ndarray):
    net = Tutorial()
    with (
        cutaway_server.serve(net, torch.zeros(1, 3, 8, 8), name="t", scores_kind="log_probabilities", threads=1) as server,
        cutaway.Client(server.address) as client,
    ):
        predicted = client.predict("t", x, top_k=5)
    assert predicted.scores_kind == "log_probabilities"
    np.testing.assert_array_equal(predicted.scores, plain(net, x))
    with pytest.raises(cutaway.NotInAnswer):
        _ = predicted.logits
    for scores, top in zip(predicted.scores, predicted.top, strict=True):
        assert [one.index for one in top] == np.argsort(-scores).tolist()
        np.testing.assert_allclose([one.probability for one in top], np.exp(np.sort(scores)[::-1]), rtol=1e-6)


def test_two_inputs():
    net = Two()
    left, right = (np.random.default_rng(1).standard_normal((4, size)).astype(np.float32) for size in (3, 2))
    with (
        cutaway_server.serve(net, [torch.zeros(1, 3), torch.zeros(1, 2)], name="two", threads=1) as server,
        cutaway.Client(server.address) as client,
    ):
        first, second = (spec.name for spec in client.model("two").inputs)
        inputs = {second: right, first: left}  # in any order
        np.testing.assert_array_equal(client.predict("two", inputs).scores, plain(net, left, right))
        seen = client.introspect("two", inputs, layers=["left", "right"])
        np.testing.assert_array_equal(seen.activations["left"], plain(net.left, left))
        np.testing.assert_array_equal(seen.activations["right"], plain(net.right, right))
        with pytest.raises(cutaway.InvalidArgument, match=r"batches of \[4, 3\]"):
            client.predict("two", {first: left, second: right[:3]})
        with pytest.raises(cutaway.InvalidArgument, match=f"no input '{second}'"):
            client.predict("two", {first: left})
        np.testing.assert_array_equal(client.predict("two", inputs).scores, plain(net, left, right))


def test_a_network_that_raises():
    net = Moody()
    good, bad = np.zeros((1, 3), np.float32), np.full((1, 3), 1234, np.float32)
    with cutaway_server.serve(net, torch.zeros(1, 3), name="moody", threads=1) as server, cutaway.Client(server.address) as client:
        for _ in range(3):  # more often than there are lanes
            for call in (lambda x: client.predict("moody", x), lambda x: client.introspect("moody", x, layers=["fc"])):
                with pytest.raises(cutaway.Internal, match=r"^model 'moody' failed on this input; the server's log") as failed:
                    call(bad)
                assert "secret" not in failed.value.message
                assert "Traceback" not in failed.value.message
                np.testing.assert_array_equal(call(good).scores, plain(net, good))
    assert hooks(net) == 0


@pytest.mark.parametrize(
    ("net", "example", "says"),
    [
        (Tupled(), torch.zeros(1, 3), r"the network gives several tensors; name one of them as its head: '0' \[2, 3\]"),
        (Summed(), torch.zeros(1, 3), "the network must give one tensor whose first axis is the batch"),
        (Counted(), torch.zeros(1, 3), "the network must give floating-point scores"),
        (Own(), torch.zeros(1, 3), r"the network fails on \[2, 3\]: "),
    ],
)
@pytest.mark.usefixtures("no_thread_stays")
def test_not_servable(net: nn.Module, example: Tensor, says: str):
    with pytest.raises(NotServable, match=f"^{says}"), cutaway_server.serve(net, example, name="mine"):
        raise AssertionError("it must not be served")
    assert net.training


@pytest.mark.usefixtures("no_thread_stays")
def test_what_is_wrong_with_the_arguments():
    with pytest.raises(NotServable, match="2 labels for 5 classes"):
        cutaway_server.serve(Own(), torch.zeros(1, 3, 8, 8), name="mine", labels="ab").__enter__()
    with pytest.raises(ValidationError, match="max_bach"):
        cutaway_server.serve(Own(), torch.zeros(1, 3, 8, 8), name="mine", max_bach=1).__enter__()
