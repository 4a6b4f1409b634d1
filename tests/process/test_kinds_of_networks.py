"""Networks of many sorts, each served: sizes that vary, several outputs, half precision, memory that does not suffice."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

import cutaway
from cutaway_server.models.model import InputSpec, Model, NotServable
from cutaway_server.models.prepare import prepare
from cutaway_server.models.presets import PRESETS
from cutaway_server.models.scores import ScoresKind
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings

QUIET = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "threads": 1, "lanes": 1, "max_batch": 1, "log_level": "error"}


class Small(nn.Module):
    """Takes pictures of any size."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2)
        self.fc = nn.Linear(12, 5)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class Several(Small):
    """As training code likes it: a dict with the scores, and more."""

    def forward(self, x: Tensor) -> dict[str, object]:
        features = self.features(x)
        return {"features": features, "heads": (self.fc(features.mean((2, 3))), self.fc(features.amax((2, 3))))}


class Hungry(Small):
    """Wants more memory than there is for pictures that begin with a 7."""

    def forward(self, x: Tensor) -> Tensor:
        if (x[:, 0, 0, 0] == 7).any():
            torch.empty(1 << 60)
        return super().forward(x)


RANGED = InputSpec("x", torch.float32, (-1, 3, -1, -1), PRESETS["imagenet"], (1, 3, 16, 16), (1, 3, 256, 320))
FIXED = InputSpec("x", torch.float32, (-1, 3, 32, 32))


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    torch.manual_seed(3)
    made = [
        prepare(Small(), name="ranged", inputs=(RANGED,), factory=Small),
        prepare(Several(), name="several", inputs=(FIXED,), head="heads.1", factory=Several),
        prepare(Small(), name="half", inputs=(FIXED,), factory=Small, autocast=torch.bfloat16),
        prepare(Hungry(), name="hungry", inputs=(FIXED,), factory=Hungry),
    ]
    return {model.name: model for model in made}


@pytest.fixture(scope="module")
def client(models: dict[str, Model]) -> Iterator[cutaway.Client]:
    with Server(list(models.values()), load_settings(QUIET)) as server, cutaway.Client(server.address, timeout=30) as connected:
        yield connected


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# Sizes that vary


def test_the_sizes_are_told(client: cutaway.Client) -> None:
    (spec,) = client.model("ranged").inputs
    assert (spec.shape, spec.min_shape, spec.max_shape) == ((-1, 3, -1, -1), (1, 3, 16, 16), (-1, 3, 256, 320))


@pytest.mark.parametrize("size", [(16, 16), (224, 224), (33, 320), (256, 17)])
def test_any_size_within(client: cutaway.Client, models: dict[str, Model], size: tuple[int, int]) -> None:
    x, network = drawn(2, 3, *size), models["ranged"].network
    with torch.no_grad():
        expected, features = network(x), network.conv2(torch.relu(network.conv1(x)))
    np.testing.assert_allclose(client.predict("ranged", x.numpy()).scores, expected, rtol=1e-5, atol=1e-6)
    seen = client.introspect(
        "ranged", x.numpy(), layers=["conv2", "relu_1"], cams=[cutaway.Cam("grad-cam", "conv2"), cutaway.Cam("saliency")]
    )
    np.testing.assert_allclose(seen.activations["conv2"], features, rtol=1e-5, atol=1e-5)
    planned = {capture.layer: capture for capture in seen.started.captures}
    assert planned["conv2"].shape == tuple(features.shape)
    assert seen.started.cams[0].shape == seen.cams[0].map.shape == (2, *features.shape[2:])
    assert seen.started.cams[1].shape == seen.cams[1].map.shape == (2, *size)
    explained = LayerGradCam(network, network.conv2).attribute(x, target=expected.argmax(1)).detach()[:, 0]
    np.testing.assert_allclose(seen.cams[0].map, explained.clamp(min=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(15, 16), (16, 321), (257, 16)])
def test_a_size_beyond(client: cutaway.Client, size: tuple[int, int]) -> None:
    with pytest.raises(cutaway.InvalidArgument, match=r"expected FLOAT32 tensor \[N, 3, 16…256, 16…320\]"):
        client.predict("ranged", drawn(1, 3, *size).numpy())


def test_photographs_come_at_the_size_of_their_preset(client: cutaway.Client) -> None:
    pixels = np.zeros((1, 300, 400, 3), np.uint8)
    seen = client.introspect("ranged", pixels, layout="NHWC", layers=["conv1"])
    assert seen.activations["conv1"].shape == (1, 8, 224, 224)


# Several outputs


def test_the_head_that_is_named(client: cutaway.Client, models: dict[str, Model]) -> None:
    x, network = drawn(3, 3, 32, 32), models["several"].network
    with torch.no_grad():
        output = network(x)
    np.testing.assert_array_equal(client.predict("several", x.numpy()).scores, output["heads"][1])
    seen = client.introspect("several", x.numpy(), top_k=1, cams=[cutaway.Cam("grad-cam", "conv2"), cutaway.Cam("occlusion")])
    np.testing.assert_array_equal(seen.prediction.scores, output["heads"][1])
    leaf = network.conv2(torch.relu(network.conv1(x))).detach().requires_grad_()
    scores = network.fc(torch.relu(leaf).amax((2, 3)))
    (gradient,) = torch.autograd.grad(scores.amax(1).sum(), leaf)
    expected = (gradient.mean((2, 3), keepdim=True) * leaf).sum(1).clamp(min=0).detach()
    np.testing.assert_allclose(seen.cams[0].map, expected, rtol=1e-4, atol=1e-6)
    assert not seen.failures


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            "",
            r"several tensors; name one of them as its head: 'features' \[2, 12, 15, 15\], 'heads.0' \[2, 5\], 'heads.1' \[2, 5\]",
        ),
        ("out", "there is no tensor 'out' in what the network gives: 'features'"),
        ("heads", "there is no tensor 'heads'"),
        ("heads.7", r"there is no tensor 'heads\.7'"),
    ],
)
def test_a_head_that_is_none(head: str, says: str) -> None:
    with pytest.raises(NotServable, match=says):
        prepare(Several(), name="several", inputs=(FIXED,), head=head)


# What the scores are declared to be

LAST = {
    ScoresKind.LOGITS: nn.Identity(),
    ScoresKind.PROBABILITIES: nn.Softmax(1),
    ScoresKind.LOG_PROBABILITIES: nn.LogSoftmax(1),
    ScoresKind.SIGMOID: nn.Sigmoid(),
}
# Log-probabilities are logits, too, and probabilities are what sigmoids may give.
TRUE = {(kind, kind) for kind in ScoresKind} | {
    (ScoresKind.LOG_PROBABILITIES, ScoresKind.LOGITS),
    (ScoresKind.PROBABILITIES, ScoresKind.SIGMOID),
    (ScoresKind.SIGMOID, ScoresKind.LOGITS),
}


@pytest.mark.parametrize("declared", ScoresKind)
@pytest.mark.parametrize("given", ScoresKind)
def test_scores_that_are_not_what_they_are_declared(given: ScoresKind, declared: ScoresKind) -> None:
    network = nn.Sequential(Small(), LAST[given])
    if (given, declared) in TRUE:
        assert prepare(network, name="n", inputs=(FIXED,), scores_kind=declared).scores_kind is declared
        return
    with pytest.raises(NotServable, match=f"the scores are declared {declared.value}, but for a probe"):
        prepare(network, name="n", inputs=(FIXED,), scores_kind=declared)


# Half precision


def test_half_precision_where_pytorch_deems_it_safe(client: cutaway.Client, models: dict[str, Model]) -> None:
    x, network = drawn(2, 3, 32, 32), models["half"].network
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network(x)
    answer = client.predict("half", x.numpy())
    np.testing.assert_array_equal(answer.scores.astype(np.float32), expected.float())
    layers = {layer.name: layer for layer in client.model("half").layers}
    assert layers["conv2"].dtype == "bfloat16"
    pooled = cutaway.Capture("relu_1", pool="mean")
    seen = client.introspect("half", x.numpy(), layers=["conv2", pooled], cams=[cutaway.Cam("grad-cam", "conv2")])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = network.conv2(torch.relu(network.conv1(x)))
    np.testing.assert_array_equal(np.asarray(seen.activations["conv2"], np.float32), features.float())
    means = features.relu().float().mean((2, 3), keepdim=True)
    np.testing.assert_allclose(np.asarray(seen.activations["relu_1"], np.float32), means, rtol=2**-7)  # half a place of bfloat16
    assert seen.cams[0].map.dtype == np.float32
    full = LayerGradCam(network, network.conv2).attribute(x, target=expected.float().argmax(1)).detach()[:, 0].clamp(min=0)
    np.testing.assert_allclose(seen.cams[0].map, full, atol=0.02 * float(full.max()))


# Memory that does not suffice


def test_out_of_memory_is_the_callers_alone(client: cutaway.Client, models: dict[str, Model]) -> None:
    good, bad = drawn(1, 3, 32, 32), drawn(1, 3, 32, 32)
    bad[0, 0, 0, 0] = 7
    with torch.inference_mode():
        expected = models["hungry"].network(good)
    for ask in (client.predict, lambda *given: client.introspect(*given, layers=["conv1", "fc"])):
        with pytest.raises(cutaway.Error, match="the memory of cpu did not suffice for this call of 'hungry'") as refused:
            ask("hungry", bad.numpy())
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        np.testing.assert_array_equal(client.predict("hungry", good.numpy()).scores, expected)
        seen = client.introspect("hungry", good.numpy(), layers=["fc"])
        np.testing.assert_array_equal(seen.activations["fc"], expected)
