"""Against pytorch-grad-cam: the raw map, caught before it is scaled, and the final one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import tqdm
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from torch import Tensor, nn

import cutaway

from .served import LANE_BATCH, Served, apart, served

SIX = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "xgrad-cam": pytorch_grad_cam.XGradCAM,
    "layer-cam": pytorch_grad_cam.LayerCAM,
    "hires-cam": pytorch_grad_cam.HiResCAM,
    "element-wise-grad-cam": pytorch_grad_cam.GradCAMElementWise,
    "shapley-cam": pytorch_grad_cam.ShapleyCAM,
}
AFTER_A_RELU = [("resnet", "layer4"), ("resnet", "layer2"), ("lite0", "_blocks.0._swish"), ("averaged", "3")]
BEFORE_ONE = [("lite0", "_conv_head"), ("smooth", "2")]  # where XGrad-CAM divides by sums near 0, and they add an epsilon to them


@pytest.fixture(autouse=True)
def no_thread_of_its_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


def theirs(
    method: Callable[..., Any], network: Served, layer: str, target: type = ClassifierOutputTarget, **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The raw map and the final one."""
    raw: list[np.ndarray] = []
    own = network.network()
    with method(own, [own.get_submodule(layer)]) as cam:
        make = cam.get_cam_image

        def kept(*arguments: object) -> np.ndarray:
            made = make(*arguments)
            raw.append(made.detach().numpy() if isinstance(made, Tensor) else made)
            return raw[0]

        cam.get_cam_image = kept
        final = cam(network.x, [target(index) for index in network.classes], **settings)
    return raw[0], final


@pytest.fixture
def running(request: pytest.FixtureRequest, network: str) -> Served:
    return request.getfixturevalue(network)


@pytest.mark.parametrize(
    ("network", "layer", "name"),
    [(*place, name) for name in SIX for place in (AFTER_A_RELU if name == "xgrad-cam" else AFTER_A_RELU + BEFORE_ONE)],
)
def test_gradient_cams(running: Served, layer: str, name: str) -> None:
    """They add up to 1280 channels one after the other, in float32."""
    raw, final = theirs(SIX[name], running, layer)
    cam = cutaway.Cam(name, layer, class_index=running.classes, normalisation="min-max", upsampling="bilinear")
    seen = running.look(cam)
    assert apart(seen.cams[0].map, np.maximum(raw, 0)) <= 1.2e-6
    assert apart(stretched(seen.scaled[0].map), final) <= 3e-6


def stretched(maps: np.ndarray) -> np.ndarray:
    """They scale once more after all: enlarged maps no longer touch 0 and 1."""
    low, high = (edge(maps, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    return (maps - low) / (high - low)


@pytest.mark.parametrize(("network", "layer"), [("smooth", "2"), ("smooth", "0"), ("lite0", "_conv_head")])
def test_shapley_cam_of_a_probability(running: Served, layer: str) -> None:
    raw, _ = theirs(pytorch_grad_cam.ShapleyCAM, running, layer, ClassifierOutputSoftmaxTarget)
    found = running.map("shapley-cam", layer, score="probability")
    assert apart(found, np.maximum(raw, 0)) <= 2e-6
    assert apart(running.map("grad-cam", layer, score="probability"), np.maximum(raw, 0)) > 1e-2  # the Hessian counts


def test_grad_cam_plus_plus() -> None:
    """They add 1e-6 to a sum of squares of gradients: of large gradients, that is nothing."""
    torch.manual_seed(4)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 10, 32),
        nn.SiLU(),
        nn.Linear(32, 5),
    )
    network[-1].weight.data *= 1e6
    with served(network, torch.randn(3, 3, 12, 14)) as running:
        for layer in ("1", "3"):
            raw, _ = theirs(pytorch_grad_cam.GradCAMPlusPlus, running, layer)
            found = running.map("grad-cam++", layer)
            assert apart(found, np.maximum(raw, 0)) <= 1e-6


@pytest.mark.parametrize("network", ["lite0"])
@pytest.mark.parametrize("layer", ["_blocks.0", "_blocks.0._swish"])
def test_score_cam(running: Served, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs enlarges masks with align_corners, of which the paper says nothing: here it does as maps are enlarged.

    Weights are exponentials of scores of about 10: the last bit of a score is 1e-6 of its weight.
    """
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", partial(nn.Upsample, mode="bilinear", align_corners=False))
    monkeypatch.setattr(pytorch_grad_cam.ScoreCAM, "batch_size", LANE_BATCH, raising=False)
    raw, _ = theirs(pytorch_grad_cam.ScoreCAM, running, layer)
    assert apart(running.map("score-cam", layer), np.maximum(raw, 0)) <= 1e-5


@pytest.mark.parametrize(("network", "layer"), [("lite0", "_blocks.0._swish"), ("averaged", "3")])
def test_ablation_cam_after_a_relu(running: Served, layer: str) -> None:
    """Elsewhere theirs takes a large negative number for nothing."""
    raw, _ = theirs(partial(pytorch_grad_cam.AblationCAM, batch_size=LANE_BATCH), running, layer)
    assert apart(running.map("ablation-cam", layer, relu=False), raw) <= 3.8e-5


@pytest.mark.parametrize(
    ("name", "method"), [("eigen-cam", pytorch_grad_cam.EigenCAM), ("eigen-grad-cam", pytorch_grad_cam.EigenGradCAM)]
)
@pytest.mark.parametrize(
    ("network", "layer"), [("resnet", "layer4"), ("resnet", "layer2"), ("lite0", "_blocks.15"), ("smooth", "2")]
)
def test_principal_components(running: Served, layer: str, name: str, method: type) -> None:
    """The sign of theirs is arbitrary."""
    raw, _ = theirs(method, running, layer)
    found = running.map(name, layer, relu=False)
    sign = np.sign((raw * found).sum((1, 2), keepdims=True))
    assert apart(found, raw * sign) <= 4.6e-7


@pytest.mark.parametrize("network", ["lite0"])
def test_smoothing_by_eigenvectors(running: Served) -> None:
    raw, _ = theirs(pytorch_grad_cam.GradCAM, running, "_blocks.15", eigen_smooth=True)
    found = running.map("grad-cam", "_blocks.15", channels="principal", relu=False)
    sign = np.sign((raw * found).sum((1, 2), keepdims=True))
    assert apart(found, raw * sign) <= 1e-6
