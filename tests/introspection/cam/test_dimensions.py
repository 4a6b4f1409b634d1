"""Networks of one and three axes in space, end to end: maps equal the formulas in numpy; what is nothing for them is refused."""

import re
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
import torch
from PIL import Image
from torch import nn

import cutaway
from cutaway_server.introspection.cam import METHODS

from . import formulas
from .formulas import OF_GRADIENTS, Array
from .served import Served, apart, served

AXES = {1: (17,), 2: (9, 12), 3: (5, 6, 7)}
LAYER = "2"  # of a network below


def network(axes: int) -> nn.Sequential:
    torch.manual_seed(axes)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 1]
    return nn.Sequential(
        conv(2, 6, 3, padding=1),
        nn.ReLU(),
        conv(6, 5, 3, stride=2, padding=1),
        nn.SiLU(),
        pool(2),
        nn.Flatten(),
        nn.Linear(5 * 2**axes, 8),
        nn.SiLU(),
        nn.Linear(8, 4),
    )


@pytest.fixture(scope="module", params=AXES)
def running(request: pytest.FixtureRequest) -> Iterator[Served]:
    axes: int = request.param
    with served(network(axes), torch.randn(3, 2, *AXES[axes])) as running:
        yield running


def precise(running: Served, start: int = 0) -> Callable[[Array], Array]:
    """The score of each sample's class from a layer on, in float64."""
    rest = running.network().double()[start:]

    def score(x: Array) -> Array:
        with torch.no_grad():
            return rest(torch.from_numpy(x).double())[range(len(x)), running.classes].numpy()

    return score


@pytest.mark.parametrize("method", sorted(set(OF_GRADIENTS) - {"finer-cam"}))  # whose score is not the one captured here
def test_of_activation_and_gradient(running: Served, method: str) -> None:
    how = METHODS[method]
    layer = None if how.at_input else "1"
    cam = cutaway.Cam(method, layer, class_index=running.classes, channels="each", relu=False)
    seen = running.look(cam, layers=["1"], gradients=[cutaway.Capture("1", class_index=running.classes)])
    source, gradient = seen.activations["1"], seen.gradients["1"]
    if how.at_input:
        x = running.leaf()
        running.network()(x)[range(3), running.classes].sum().backward()
        assert x.grad is not None
        source, gradient = running.x.numpy(), x.grad.numpy()
    expected = OF_GRADIENTS[method](source.astype(float), gradient.astype(float))
    assert apart(seen.cams[0].map, expected) <= 1e-6
    assert seen.cams[0].map.shape == source.shape


def test_principal_components(running: Served) -> None:
    seen = running.look(cutaway.Cam("eigen-cam", LAYER, relu=False), layers=[LAYER])
    activation = seen.activations[LAYER]
    assert apart(seen.cams[0].map, formulas.principal(activation.astype(float))) <= 1e-6
    assert seen.cams[0].map.shape == (3, *activation.shape[2:])


def test_ablation_cam(running: Served) -> None:
    seen = running.look(cutaway.Cam("ablation-cam", LAYER, class_index=running.classes, relu=False), layers=[LAYER])
    expected = formulas.ablation_cam(seen.activations[LAYER].astype(float), precise(running, 3))
    assert apart(seen.cams[0].map, expected.sum(1)) <= 2e-5  # differences of scores in float32


def test_score_cam(running: Served) -> None:
    seen = running.look(cutaway.Cam("score-cam", LAYER, class_index=running.classes, relu=False), layers=[LAYER])
    expected = formulas.score_cam(seen.activations[LAYER].astype(float), running.x.double().numpy(), precise(running))
    assert apart(seen.cams[0].map, expected.sum(1)) <= 1e-6


def test_occlusion(running: Served) -> None:
    expected = formulas.occlusion(running.x.double().numpy(), precise(running), window=3, stride=2)
    assert apart(running.map("occlusion", window=3, stride=2), expected) <= 3e-5


def test_integrated_gradients(running: Served) -> None:
    exact = running.network().double()

    def gradient(x: Array) -> Array:
        leaf = torch.from_numpy(x).requires_grad_()
        exact(leaf)[range(3), running.classes].sum().backward()
        assert leaf.grad is not None
        return leaf.grad.numpy()

    expected = formulas.integrated_gradients(running.x.double().numpy(), gradient, 10)
    assert apart(running.map("integrated-gradients", channels="each", steps=10), expected) <= 1e-6


def test_shapley_cam(running: Served) -> None:
    """By autograd's own product of the Hessian with a vector."""
    rest = running.network()[3:]
    activation = torch.from_numpy(running.look(layers=[LAYER]).activations[LAYER])

    def score(value: torch.Tensor) -> torch.Tensor:
        return rest(value)[range(3), running.classes].sum()

    _, product = torch.autograd.functional.hvp(score, activation, activation)
    gradient = torch.autograd.functional.jacobian(score, activation)
    space = tuple(range(2, activation.ndim))
    weights = (gradient - product / 2).mean(space, keepdim=True)
    assert apart(running.map("shapley-cam", LAYER, relu=False), (weights * activation).sum(1)) <= 1e-6


def test_forms(running: Served) -> None:
    size = tuple(running.x.shape[2:])
    cams = [cutaway.Cam("grad-cam", LAYER, normalisation="min-max", upsampling=how) for how in ("bilinear", "nearest")]
    fusion = cutaway.Cam("grad-cam", ["0", LAYER], fusion="product")
    seen = running.look(*cams, fusion, cutaway.Cam("grad-cam", "0"))
    scaled = formulas.scaled(seen.cams[0].map.astype(float))
    for found, shares in zip(seen.scaled[:2], (formulas.linear, formulas.nearest), strict=True):
        assert apart(found.map, formulas.resized(scaled, size, shares)) <= 1e-6
    first = formulas.scaled(seen.cams[3].map.astype(float))
    assert apart(seen.cams[2].map, first * formulas.resized(scaled, size, formulas.linear)) <= 1e-6


def test_pictures_are_of_planes(running: Served) -> None:
    cam = cutaway.Cam("grad-cam", LAYER, pictures=["heat-map"])
    size = running.x.shape[2:]
    if len(size) == 2:
        pictures = [Image.open(BytesIO(picture.png)) for picture in running.look(cam).pictures]
        assert [picture.size for picture in pictures] == [(size[1], size[0])] * 3
    else:
        says = r"cams\[0\]\.pictures: got pictures of a map .*; expected none: they are of maps"
        with pytest.raises(cutaway.InvalidArgument, match=says):
            running.look(cam)


def test_windows_have_as_many_sizes_as_the_input(running: Served) -> None:
    axes = running.x.ndim - 2
    says = r"cams\[0\]\.settings\.window: got \[2, 2, 2, 2\]; expected one size" + f", or {axes}"
    with pytest.raises(cutaway.InvalidArgument, match=says):
        running.look(cutaway.Cam("occlusion", window=[2, 2, 2, 2]))


def test_a_network_without_space() -> None:
    torch.manual_seed(8)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with served(net, torch.randn(3, 6)) as running:
        assert running.client.model("served").introspection.cam_methods == ()
        for method in METHODS:
            says = rf"^cams\[0\]\.\w+: {re.escape(method)} is not possible: \w.*; ."
            with pytest.raises(cutaway.FailedPrecondition, match=says):
                running.look(cutaway.Cam(method))
