"""Where a map lies on the photograph, and in the network's input."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway_server.models.model import Model


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
