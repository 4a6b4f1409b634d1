"""Against torchcam, which is never asked for Grad-CAM++: what it makes (release 0.5.0) is not the paper's."""

import numpy as np
import pytest
from torch import Tensor
from torchcam import methods

import cutaway

from .served import Served, apart

GRADIENT_CAMS = [
    ("grad-cam", methods.GradCAM, 1e-7),
    ("layer-cam", methods.LayerCAM, 1e-7),
    ("xgrad-cam", methods.XGradCAM, 5e-7),  # they add 1e-8 to sums by which they divide, some of them nearly 0
]
LAYERS = ["_blocks.4", "_blocks.10", "_conv_head"]


def theirs(extractor: type, network: Served, *layers: str, normalized: bool = False, **settings: object) -> list[Tensor]:
    own = network.network()
    with extractor(own, list(layers), **settings) as cam:
        scores = own(network.x)
        return cam(class_idx=network.classes, scores=scores, normalized=normalized)


@pytest.mark.parametrize(("name", "extractor", "within"), GRADIENT_CAMS)
@pytest.mark.parametrize(("network", "layer"), [("resnet", "layer4"), ("resnet", "layer2"), ("lite0", "_conv_head")])
def test_gradient_cams(request: pytest.FixtureRequest, name: str, extractor: type, within: float, network: str, layer: str) -> None:
    served: Served = request.getfixturevalue(network)
    (expected,) = theirs(extractor, served, layer)
    assert apart(served.map(name, layer), expected) <= within


@pytest.mark.parametrize(
    ("network", "layer", "module", "linear"),
    [("resnet", "layer4", "layer4", "fc"), ("lite0", "_swish_1", "_swish", "_fc"), ("averaged", "3", "3", "6")],
)
def test_cam(request: pytest.FixtureRequest, network: str, layer: str, module: str, linear: str) -> None:
    """Of a module that runs twice they keep the last output."""
    served: Served = request.getfixturevalue(network)
    (expected,) = theirs(methods.CAM, served, module, fc_layer=linear)
    found = served.map("cam", layer)
    assert apart(found, expected) <= 1e-7
    assert network != "averaged" or (found < 0).any()  # neither cuts it


def test_score_cam_where_the_layer_is_as_large_as_the_input(averaged: Served, smooth: Served) -> None:
    """Elsewhere torchcam scales masks before it enlarges them, the paper after."""
    for served, layer in ((averaged, "1"), (averaged, "3"), (smooth, "0")):
        (expected,) = theirs(methods.ScoreCAM, served, layer)
        assert apart(served.map("score-cam", layer), expected) <= 2.1e-7


def test_finer_cam(resnet: Served, lite0: Served) -> None:
    for served, layer in ((resnet, "layer4"), (lite0, "_conv_head")):
        (expected,) = theirs(methods.FinerCAM, served, layer, gamma=0.6, num_references=3)
        assert apart(served.map("finer-cam", layer), expected) <= 1e-7


def test_fusion_by_the_largest(lite0: Served) -> None:
    expected = methods.GradCAM.fuse_cams(theirs(methods.GradCAM, lite0, *LAYERS, normalized=True))
    assert apart(lite0.map("grad-cam", LAYERS, fusion="max"), expected) <= 1e-6


def test_fusion_by_the_product(lite0: Served) -> None:
    (expected,) = theirs(methods.RefineCAM, lite0, *LAYERS, base_method=methods.GradCAM)
    assert apart(lite0.map("grad-cam", LAYERS, fusion="product"), expected) <= 1e-6


def test_scaled_by_minimum_and_maximum(lite0: Served) -> None:
    (expected,) = theirs(methods.GradCAM, lite0, "_conv_head", normalized=True)
    cam = cutaway.Cam("grad-cam", "_conv_head", class_index=lite0.classes, normalisation="min-max")
    found = lite0.look(cam).scaled[0].map
    assert apart(found, expected) <= 1e-6
    np.testing.assert_array_equal(found.min((1, 2)), 0)
    np.testing.assert_array_equal(found.max((1, 2)), 1)
