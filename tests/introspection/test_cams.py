"""Class activation maps against the published formula in numpy and against captum."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam

import cutaway
from cutaway_server.models.model import Model


def test_cam_is_equation_2_of_zhou_et_al(live: cutaway.Client, models: dict[str, Model], x: np.ndarray) -> None:
    seen = live.introspect("mnist-gap", x[:20], layers=["features.relu5"], cams=[cutaway.Cam("cam")])
    weight, bias = (models["mnist-gap"].network.state_dict()[f"fc.{name}"].numpy() for name in ("weight", "bias"))
    classes = seen.logits.argmax(1)
    expected = np.einsum("nk,nkhw->nhw", weight[classes], seen.activations["features.relu5"])
    found = seen.cams[0]
    assert found.layer == "features.relu5"
    assert not found.relu
    np.testing.assert_array_equal(found.classes, classes)
    np.testing.assert_allclose(found.map, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        found.map.mean((1, 2)) + bias[classes], seen.logits.max(1), rtol=1e-4
    )  # the map adds up to the logit
    assert (found.map < 0).any()


@pytest.mark.parametrize(("model", "layer"), [("mnist", "conv1"), ("mnist", "conv2"), ("mnist-gap", "features.conv3")])
@pytest.mark.parametrize("relu", [None, False])
def test_grad_cam_is_captums(
    live: cutaway.Client, models: dict[str, Model], x: np.ndarray, model: str, layer: str, relu: bool | None
) -> None:
    network = models[model].network
    seen = live.introspect(model, x[:20], cams=[cutaway.Cam("grad-cam", layer, relu=relu)])
    classes = torch.from_numpy(seen.logits.argmax(1))
    oracle = LayerGradCam(network, network.get_submodule(layer))
    expected = oracle.attribute(torch.from_numpy(x[:20]), target=classes, relu_attributions=relu is None)
    found = seen.cams[0]
    assert found.relu is (relu is None)
    np.testing.assert_allclose(found.map, expected.detach().numpy()[:, 0], atol=1e-5)


def test_one_call_makes_maps_of_several_classes(live: cutaway.Client, models: dict[str, Model], x: np.ndarray) -> None:
    network, oracle_input = models["mnist"].network, torch.from_numpy(x[:3])
    wanted: list[int | list[int]] = [0, 7, [3, 1, 0]]
    seen = live.introspect("mnist", x[:3], cams=[cutaway.Cam("grad-cam", "conv2", class_index=index) for index in wanted])
    oracle = LayerGradCam(network, network.get_submodule("conv2"))
    for found, classes in zip(seen.cams, wanted, strict=True):
        expected = oracle.attribute(oracle_input, target=classes, relu_attributions=True)
        np.testing.assert_allclose(found.map, expected.detach().numpy()[:, 0], atol=1e-5)
        np.testing.assert_array_equal(found.classes, np.broadcast_to(classes, 3))


def test_a_cam_at_a_functional_operation(live: cutaway.Client, models: dict[str, Model], x: np.ndarray) -> None:
    """relu_1 is no module: its gradient is that of the view that follows, by the chain rule."""
    seen = live.introspect("mnist", x[:3], layers=["relu_1"], gradients=["view"], cams=[cutaway.Cam("grad-cam", "relu_1")])
    gradient = seen.gradients["view"].reshape(3, 20, 4, 4)
    expected = (gradient.mean((2, 3), keepdims=True) * seen.activations["relu_1"]).sum(1).clip(0)
    np.testing.assert_allclose(seen.cams[0].map, expected, atol=1e-6)


def test_placement_undoes_resize_and_crop(live: cutaway.Client) -> None:
    """A bright dot on a large, wide photograph: the map's peak lies where the dot is."""
    photograph = np.zeros((1, 280, 420), np.uint8)
    photograph[0, 100:120, 240:260] = 255
    found = live.introspect("mnist-gap", photograph, layers=["features.relu1"], cams=[cutaway.Cam("cam")])
    place = found.cams[0].placement[0]
    assert (place.scale_x, place.scale_y) == pytest.approx((20, 20))
    assert (place.offset_x, place.offset_y) == pytest.approx((70, 0))
    lit = found.activations["features.relu1"][0]
    spread = (lit - np.median(lit, axis=(1, 2), keepdims=True)).__abs__().sum(0)  # [28, 28]
    row, column = np.unravel_index(spread.argmax(), spread.shape)
    at = place.scale_x / 2 * (column + 0.5) + place.offset_x, place.scale_y / 2 * (row + 0.5) + place.offset_y
    assert at == pytest.approx((250, 110), abs=15)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("mnist", "conv1"),
        ("mnist", "relu"),
        ("mnist", "conv2"),
        ("mnist", "relu_1"),
        ("mnist-gap", "features.conv2"),
        ("mnist-gap", "features.relu5"),
    ],
)
def test_a_map_lies_where_its_cells_look(
    live: cutaway.Client, models: dict[str, Model], digits: np.ndarray, model: str, layer: str
) -> None:
    """Oracle: a NaN in a row of the input spreads to just those cells that see the row."""
    found = live.introspect(model, digits[:1], layers=[layer], cams=[cutaway.Cam("grad-cam", layer)])
    place, size = found.cams[0].placement[0], found.cams[0].map.shape[1]
    marked = torch.zeros(28, 1, 28, 28)
    for row in range(28):
        marked[row, :, row] = torch.nan
    seen = spread(models[model].network, marked, found.activations[layer].shape[1:])
    for cell in range(size):
        rows = [row for row in range(28) if seen[row, cell]]
        if model == "mnist" or (rows[0] > 0 and rows[-1] < 27):  # at the edges padding takes a part of what a cell sees
            looks_at = (rows[0] + rows[-1] + 1) / 2
            assert place.scale_y * (cell + 0.5) + place.offset_y == pytest.approx(looks_at, abs=0.51)
            assert place.scale_x * (cell + 0.5) + place.offset_x == pytest.approx(looks_at, abs=0.51)


def spread(network: torch.nn.Module, marked: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Which rows of the deepest map of this shape hold a NaN, [sample, row]."""
    maps = []
    with torch.no_grad():
        x = marked
        for step in steps(network):
            x = step(x)
            maps += [x] if x.shape[1:] == shape else []
    return maps[-1].isnan().any(1).any(2).numpy()


def steps(network: torch.nn.Module) -> list:
    if hasattr(network, "features"):
        return list(network.features)
    pool = torch.nn.MaxPool2d(2)
    return [network.conv1, pool, torch.relu, network.conv2, pool, torch.relu]
