"""Against captum."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from captum.attr import (
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerFeatureAblation,
    LayerGradCam,
    LayerGradientXActivation,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

import cutaway
from cutaway_server.models.model import Model

from .served import LANE_BATCH, Served, apart, served

BOTH = pytest.mark.parametrize(("network", "layer"), [("resnet", "layer4"), ("lite0", "_conv_head")])
EACH = pytest.mark.parametrize("network", ["resnet", "lite0", "smooth"])


@pytest.fixture
def running(request: pytest.FixtureRequest, network: str) -> Served:
    return request.getfixturevalue(network)


@BOTH
def test_grad_cam(running: Served, layer: str) -> None:
    own = running.network()
    oracle = LayerGradCam(own, own.get_submodule(layer))
    for relu in (True, False):
        expected = oracle.attribute(running.x, target=running.classes, relu_attributions=relu)
        assert apart(running.map("grad-cam", layer, relu=relu), expected[:, 0]) <= 1e-7


@pytest.mark.parametrize(("model", "layer"), [("mnist", "conv1"), ("mnist", "conv2"), ("mnist-gap", "features.conv3")])
@pytest.mark.parametrize("relu", [None, False])
def test_grad_cam_of_built_in_networks(
    live: cutaway.Client, models: dict[str, Model], x: np.ndarray, model: str, layer: str, relu: bool | None
) -> None:
    network = models[model].network
    seen = live.introspect(model, x[:20], cams=[cutaway.Cam("grad-cam", layer, relu=relu)])
    classes = torch.from_numpy(seen.logits.argmax(1))
    oracle = LayerGradCam(network, network.get_submodule(layer))
    expected = oracle.attribute(torch.from_numpy(x[:20]), target=classes, relu_attributions=relu is None)
    found = seen.cams[0]
    assert found.relu is (relu is None)
    np.testing.assert_allclose(found.map, expected.detach().numpy()[:, 0], atol=1e-6)


@BOTH
def test_hires_cam(running: Served, layer: str) -> None:
    own = running.network()
    expected = LayerGradientXActivation(own, own.get_submodule(layer)).attribute(running.x, target=running.classes)
    assert apart(running.map("hires-cam", layer, relu=False), expected.sum(1)) <= 1e-7
    assert apart(running.map("hires-cam", layer, relu=False, channels="each"), expected) <= 1e-7


@pytest.mark.parametrize(("network", "layer"), [("lite0", "_blocks.0._swish"), ("smooth", "2"), ("averaged", "3")])
def test_ablation_cam(running: Served, layer: str) -> None:
    own = running.network()

    def score(x: Tensor) -> Tensor:  # captum puts several batches into one there, and does not know their classes
        scores = own(x)
        return scores[range(len(scores)), running.classes * (len(scores) // 3)]

    oracle = LayerFeatureAblation(score, own.get_submodule(layer))
    activation = torch.from_numpy(running.look(layers=[layer]).activations[layer])
    channels = torch.arange(activation.shape[1])[None, :, None, None].expand(1, *activation.shape[1:])
    settings = {"layer_baselines": 0, "layer_mask": channels, "perturbations_per_eval": LANE_BATCH // 3}
    with torch.no_grad():
        lost = oracle.attribute(running.x, **settings)
    weights = lost / running.scores[range(3), running.classes][:, None, None, None]
    assert apart(running.map("ablation-cam", layer, relu=False), (weights * activation).sum(1)) <= 2.7e-6


@EACH
def test_saliency(running: Served) -> None:
    expected = Saliency(running.network()).attribute(running.leaf(), target=running.classes, abs=False)
    assert apart(running.map("saliency", channels="each"), expected) <= 1e-7
    assert apart(running.map("saliency"), expected.abs().amax(1)) <= 1e-7


@EACH
def test_input_x_gradient(running: Served) -> None:
    expected = InputXGradient(running.network()).attribute(running.leaf(), target=running.classes)
    assert apart(running.map("input-x-gradient", channels="each"), expected) <= 1e-7
    assert apart(running.map("input-x-gradient"), expected.sum(1)) <= 5e-7


@EACH
def test_integrated_gradients(running: Served) -> None:
    """At points that both have exactly, in batches of one size: a last bit opens or closes a ReLU."""
    steps = 8
    settings = {"method": "riemann_middle", "n_steps": steps, "internal_batch_size": LANE_BATCH}
    expected = IntegratedGradients(running.network()).attribute(running.leaf(), target=running.classes, **settings)
    assert apart(running.map("integrated-gradients", channels="each", steps=steps), expected) <= 1.2e-6


@pytest.mark.parametrize("network", ["smooth"])
def test_integrated_gradients_of_any_number_of_steps(running: Served) -> None:
    oracle = IntegratedGradients(running.network())
    expected = oracle.attribute(running.leaf(), target=running.classes, method="riemann_middle", n_steps=50)
    assert apart(running.map("integrated-gradients", channels="each", steps=50), expected.float()) <= 1.2e-6


@pytest.mark.parametrize(
    ("network", "window", "stride"),
    [("lite0", [32, 48], [24, 40]), ("smooth", [5, 5], [2, 2]), ("smooth", [3, 5], [3, 4]), ("smooth", [14, 20], [14, 20])],
)
def test_occlusion(running: Served, window: list[int], stride: list[int]) -> None:
    settings = {"sliding_window_shapes": (3, *window), "strides": (3, *stride), "perturbations_per_eval": LANE_BATCH // 3}
    with torch.no_grad():
        expected = Occlusion(running.network()).attribute(running.x, target=running.classes, baselines=0, **settings)
    assert apart(running.map("occlusion", window=window, stride=stride), expected[:, 0]) <= 1e-6


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations:UserWarning")
@pytest.mark.parametrize("network", ["resnet", "averaged"])
def test_guided_backprop(running: Served) -> None:
    own = running.network()
    for module in own.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # captum's hooks ask for it
    expected = GuidedBackprop(own).attribute(running.leaf(), target=running.classes)
    assert apart(running.map("guided-backprop", channels="each"), expected) <= 1e-7


@pytest.fixture
def bent() -> Iterator[Served]:
    """Its gradient changes much within the noise."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Softplus(beta=8), nn.Flatten(), nn.Linear(6 * 4 * 5, 3))
    with served(network, torch.randn(2, 2, 6, 7)) as running:
        yield running


@pytest.mark.parametrize("network", ["bent"])
def test_smooth_grad_comes_to_the_same_mean(running: Served) -> None:
    """Both draw noise: they differ by as much as means of so many draws do, and by no more."""
    steps = 1000
    found = running.map("smooth-grad", channels="each", steps=steps, seed=0)
    oracle = NoiseTunnel(Saliency(running.network()))
    torch.manual_seed(5)
    for sample, x in enumerate(running.x[:, None]):
        noise = {"nt_samples": steps, "stdevs": 0.15 * float(x.max() - x.min()), "target": running.classes[sample], "abs": False}
        mean = oracle.attribute(x, nt_type="smoothgrad", **noise)
        variance = oracle.attribute(x, nt_type="vargrad", **noise)
        distance = (torch.from_numpy(found[sample]) - mean[0]) / (2 * variance[0] / steps).sqrt()
        assert distance.abs().max() < 5
        assert 0.5 < (distance**2).mean() < 2
        plain = Saliency(running.network()).attribute(x.clone().requires_grad_(), target=running.classes[sample], abs=False)
        assert ((mean - plain)[0] / (variance[0] / steps).sqrt()).abs().max() > 20  # else this test would hold of a saliency


def test_one_call_makes_maps_of_several_classes(averaged: Served) -> None:
    own = averaged.network()
    wanted: list[int | list[int]] = [0, 4, [3, 1, 0]]
    seen = averaged.look(*(cutaway.Cam("grad-cam", "2", class_index=index) for index in wanted))
    for found, classes in zip(seen.cams, wanted, strict=True):
        expected = LayerGradCam(own, own[2]).attribute(averaged.x, target=classes, relu_attributions=True)
        assert apart(found.map, expected[:, 0]) <= 1e-7
        np.testing.assert_array_equal(found.classes, np.broadcast_to(classes, 3))
