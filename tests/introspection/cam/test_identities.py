"""What must hold of the maps whatever a library says: identities of the papers, and of the settings that all maps share."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from cutaway_server.introspection.cam import METHODS

from .served import Served, apart, served

LINEAR = ["grad-cam", "hires-cam", "input-x-gradient", "integrated-gradients", "occlusion"]  # in the score


def score_of(running: Served, x: torch.Tensor) -> np.ndarray:
    """Of each sample's class."""
    with torch.no_grad():
        return running.network()(x)[range(len(x)), running.classes].numpy()


def total(maps: np.ndarray) -> np.ndarray:
    return maps.sum(tuple(range(1, maps.ndim)), dtype=float)


@pytest.fixture(params=["resnet", "averaged", "lite0"])
def pooled(request: pytest.FixtureRequest) -> tuple[Served, str, nn.Linear]:
    """A network that ends in a global average and one linear layer, the layer that is averaged, and the linear one."""
    running: Served = request.getfixturevalue(request.param)
    layer, linear = {"resnet": ("layer4", "fc"), "averaged": ("3", "6"), "lite0": ("_swish_1", "_fc")}[request.param]
    module = running.network().get_submodule(linear)
    assert isinstance(module, nn.Linear)
    return running, layer, module


def test_of_an_average_and_a_linear_layer(pooled: tuple[Served, str, nn.Linear]) -> None:
    running, layer, linear = pooled
    cells = running.map("hires-cam", layer)[0].size
    cam = running.map("cam", layer)
    assert apart(cells * running.map("hires-cam", layer, relu=False), cam) <= 1e-6
    assert apart(cells * running.map("grad-cam", layer), cam.clip(0)) <= 1e-6
    assert apart(running.map("xgrad-cam", layer, relu=False), running.map("grad-cam", layer, relu=False)) <= 1e-6
    assert apart(cells * running.map("shapley-cam", layer, relu=False), cam) <= 1e-6  # no curvature
    weights, bias = (values.detach().numpy()[running.classes] for values in (linear.weight, linear.bias))
    assert apart(cam, np.einsum("nk,nkhw->nhw", weights, running.look(layers=[layer]).activations[layer])) <= 1e-6
    for logits in (total(running.map("hires-cam", layer, relu=False)) + bias, cam.mean((1, 2)) + bias):
        np.testing.assert_allclose(logits, score_of(running, running.x), rtol=1e-6)


def test_ablation_before_a_linear_layer(averaged: Served) -> None:
    """What a channel's loss costs is its weight times its mean."""
    seen = averaged.look(cutaway.Cam("ablation-cam", "3", averaged.classes, relu=False), layers=["3"])
    activation, scores = seen.activations["3"], seen.scores[range(3), averaged.classes]
    lost = averaged.network()[6].weight.detach().numpy()[averaged.classes] * activation.mean((2, 3))
    expected = np.einsum("nk,nkhw->nhw", lost / scores[:, None], activation)
    assert apart(seen.cams[0].map, expected) <= 2e-5  # a difference of scores that are nearly the same


def test_integrated_gradients_add_up(smooth: Served) -> None:
    """To the score less that of nothing, the better the more steps there are."""
    expected = score_of(smooth, smooth.x) - score_of(smooth, torch.zeros_like(smooth.x))
    errors = [np.abs(total(smooth.map("integrated-gradients", steps=steps)) / expected - 1).max() for steps in (4, 16, 64, 256)]
    assert all(after < before / 8 for before, after in pairwise(errors[:3]))  # the midpoint rule: by the square of the steps
    assert errors[-1] < 1e-4


def test_occlusion_of_everything(smooth: Served, lite0: Served) -> None:
    for running in (smooth, lite0):
        lost = score_of(running, running.x) - score_of(running, torch.zeros_like(running.x))
        found = running.map("occlusion", window=list(running.x.shape[2:]))
        np.testing.assert_allclose(found, np.broadcast_to(lost[:, None, None], found.shape), rtol=1e-5)


def test_an_occluding_window_of_one_size_for_all_axes(smooth: Served) -> None:
    alike = smooth.maps(
        *(cutaway.Cam("occlusion", window=size, stride=step) for size, step in ((4, None), ([4, 4], 2), (4, [2, 2])))
    )
    np.testing.assert_array_equal(alike[0], alike[1])
    np.testing.assert_array_equal(alike[0], alike[2])


@pytest.fixture(scope="module")
def linear() -> Iterator[Served]:
    """Linear all through: its gradient is the same everywhere."""
    torch.manual_seed(6)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5 * 3 * 5, 4))
    with served(network, torch.randn(3, 2, 7, 9)) as running:
        yield running


def test_of_a_linear_network(linear: Served) -> None:
    for layer in ("0", "1"):
        assert apart(linear.map("shapley-cam", layer, relu=False), linear.map("grad-cam", layer, relu=False)) == 0
    gradient = linear.map("saliency", channels="each")
    assert apart(linear.map("smooth-grad", channels="each", seed=1), gradient) <= 1e-6
    own = linear.map("input-x-gradient", channels="each")
    assert apart(linear.map("integrated-gradients", channels="each"), own) <= 1e-6
    pixels = linear.map("occlusion", window=1, stride=1)
    assert apart(pixels, own.sum(1)) <= 1e-5
    np.testing.assert_allclose(total(own), score_of(linear, linear.x) - score_of(linear, torch.zeros_like(linear.x)), rtol=1e-5)


@pytest.mark.parametrize("method", LINEAR)
def test_a_contrast_is_a_difference(smooth: Served, method: str) -> None:
    others = [(index + 1) % 5 for index in smooth.classes]
    one, other, contrast = smooth.look(
        cutaway.Cam(method, class_index=smooth.classes, relu=False),
        cutaway.Cam(method, class_index=others, relu=False),
        cutaway.Cam(method, class_index=smooth.classes, against=others, relu=False),
    ).cams
    assert apart(contrast.map, one.map - other.map) <= 5e-6
    assert list(contrast.classes) == smooth.classes
    assert list(contrast.against) == others


@pytest.mark.parametrize("method", ["grad-cam", "hires-cam", "saliency", "input-x-gradient"])
def test_a_probability_by_the_chain_rule(smooth: Served, method: str) -> None:
    """Where the map is linear in the gradient: d p_c = p_c (d y_c - sum_j p_j d y_j)."""
    each = [cutaway.Cam(method, class_index=index, relu=False, channels="each") for index in range(5)]
    *single, found = smooth.maps(
        *each, cutaway.Cam(method, class_index=smooth.classes, relu=False, channels="each", score="probability")
    )
    logits = np.stack(single, axis=1).astype(float)  # [N, 5, …]
    p = torch.softmax(smooth.scores.double(), 1).numpy()
    rows = range(3)
    mean = np.einsum("nc,nc...->n...", p, logits)
    expected = p[rows, smooth.classes][:, None, None, None] * (logits[rows, smooth.classes] - mean)
    assert apart(found, expected) <= 5e-6


def test_the_best_classes(smooth: Served) -> None:
    order = smooth.scores.argsort(dim=1, descending=True)
    for method in ("grad-cam", "score-cam", "occlusion"):
        best = smooth.look(cutaway.Cam(method, top_k=3)).cams
        for rank, found in enumerate(best):
            assert found.rank == rank
            assert list(found.classes) == order[:, rank].tolist()
            np.testing.assert_array_equal(found.map, smooth.map(method, class_index=found.classes))
        np.testing.assert_array_equal(best[0].map, smooth.maps(cutaway.Cam(method))[0])  # the predicted class


def test_fusion_by_hand(lite0: Served) -> None:
    layers = ["_blocks.4", "_blocks.10", "_conv_head"]
    planes = [torch.from_numpy(found) for found in lite0.maps(*(cutaway.Cam("layer-cam", layer) for layer in layers))]
    low, high = ([edge(plane, dim=(1, 2), keepdim=True) for plane in planes] for edge in (torch.amin, torch.amax))
    scaled = [(plane - bottom) / (top - bottom) for plane, bottom, top in zip(planes, low, high, strict=True)]
    size = planes[0].shape[1:]
    alike = torch.stack([nn.functional.interpolate(plane[:, None], size, mode="bilinear")[:, 0] for plane in scaled])
    for fusion, expected in (("mean", alike.mean(0)), ("max", alike.amax(0)), ("product", alike.prod(0))):
        (found,) = lite0.look(cutaway.Cam("layer-cam", layers, fusion=fusion)).cams
        assert apart(found.map, expected) <= 3e-7
        assert (found.layers, found.fusion) == (tuple(layers), fusion)


@pytest.mark.parametrize("method", ["grad-cam", "eigen-cam", "cam"])
def test_augmentation_by_hand(lite0: Served, method: str) -> None:
    """The mean over six variants, each turned back, of the class of the input as it is."""
    classes = lite0.scores.argmax(1).tolist()
    (found,) = lite0.look(cutaway.Cam(method, augment=True)).cams
    total = np.zeros_like(found.map)
    for factor in (0.9, 1.0, 1.1):
        for flip in (False, True):
            x = lite0.x * factor
            x = x.flip(-1) if flip else x
            (plane,) = lite0.look(cutaway.Cam(method, class_index=classes, relu=False), x=x).cams
            total += plane.map[..., ::-1] if flip else plane.map
    expected = total / 6 if method == "cam" else (total / 6).clip(0)
    assert apart(found.map, expected) <= 1e-6
    assert list(found.classes) == classes
    assert found.augment


def test_random_cam(lite0: Served) -> None:
    """A control: of chance, but of the channels' span, the same again by the same seed."""
    seen = lite0.look(
        cutaway.Cam("random-cam", relu=False), cutaway.Cam("random-cam", class_index=7, relu=False), layers=["_swish_1"], seed=1
    )
    first, of_another_class = seen.cams
    assert seen.started.seed == 1
    np.testing.assert_array_equal(first.map, of_another_class.map)
    np.testing.assert_array_equal(first.map, lite0.map("random-cam", relu=False, seed=1))
    assert apart(lite0.map("random-cam", relu=False, seed=2), first.map) > 0.1


def test_random_cam_lies_in_the_span_of_the_channels(averaged: Served) -> None:
    """With weights from -1 to 1."""
    seen = averaged.look(cutaway.Cam("random-cam", "3", relu=False), layers=["3"], seed=3)
    for plane, activation in zip(seen.cams[0].map, seen.activations["3"], strict=True):
        channels = activation.reshape(len(activation), -1).T.astype(float)
        weights, *_ = np.linalg.lstsq(channels, plane.ravel().astype(float), rcond=None)
        np.testing.assert_allclose(channels @ weights, plane.ravel(), atol=1e-6 * np.abs(plane).max())
        assert np.abs(weights).max() <= 1 + 1e-5
        assert weights.std() > 0.2  # 0.58 is to be expected


@pytest.mark.parametrize("method", [method.name for method in METHODS.values() if not method.chance])
def test_samples_do_not_know_of_each_other(smooth: Served, averaged: Served, method: str) -> None:
    """Each has the map that it has alone, also beside one whose numbers overflow."""
    running = averaged if method in ("cam", "guided-backprop") else smooth
    together = running.map(method)
    for sample, index in enumerate(running.classes):
        alone = running.look(cutaway.Cam(method, class_index=index), x=running.x[[sample]]).cams[0]
        assert apart(alone.map, together[[sample]]) <= 1e-5
    overflowing = running.x.clone()
    overflowing[1] = 3e38
    beside = running.look(cutaway.Cam(method, class_index=running.classes), x=overflowing).cams[0]
    assert apart(beside.map[[0, 2]], together[[0, 2]]) <= 1e-5
    assert {note.sample for note in beside.notes} <= {1}


def test_a_map_at_a_functional_operation(live: cutaway.Client, x: np.ndarray) -> None:
    """relu_1 is no module: its gradient is that of the view that follows, by the chain rule."""
    seen = live.introspect("mnist", x[:3], layers=["relu_1"], gradients=["view"], cams=[cutaway.Cam("grad-cam", "relu_1")])
    gradient = seen.gradients["view"].reshape(3, 20, 4, 4)
    expected = (gradient.mean((2, 3), keepdims=True) * seen.activations["relu_1"]).sum(1).clip(0)
    np.testing.assert_allclose(seen.cams[0].map, expected, atol=1e-6)
    assert seen.cams[0].layer == "relu_1"


@pytest.mark.parametrize("method", ["grad-cam", "smooth-grad", "occlusion", "ablation-cam"])
def test_relu_cuts_the_map(smooth: Served, method: str) -> None:
    whole, cut = (smooth.map(method, relu=relu, seed=4) for relu in (False, True))
    np.testing.assert_array_equal(cut, whole.clip(0))


def test_guided_backprop_of_relu6(lite0: Served) -> None:
    """By hooks: captum knows nn.ReLU only."""
    own = lite0.network()
    for module in own.modules():
        if isinstance(module, nn.ReLU6):
            module.register_full_backward_hook(lambda _module, gradients, _outer: (gradients[0].clamp(min=0),))
    x = lite0.leaf()
    own(x)[range(3), lite0.classes].sum().backward()
    assert x.grad is not None
    assert apart(lite0.map("guided-backprop", channels="each"), x.grad) <= 1e-6
