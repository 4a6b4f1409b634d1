"""Reductions against numpy, over the wire."""

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
import cutaway_server
from cutaway import Capture


@pytest.fixture
def whole(live: cutaway.Client, x: np.ndarray) -> dict[str, np.ndarray]:
    return live.introspect("mnist", x[:7], layers=["*"]).activations


@pytest.mark.parametrize("bins", [0, 1, 16])
@pytest.mark.parametrize("layer", ["conv1", "relu", "fc2"])
def test_statistics_are_numpys(live: cutaway.Client, x: np.ndarray, whole: dict[str, np.ndarray], layer: str, bins: int) -> None:
    found = live.introspect("mnist", x[:7], layers=[Capture(layer, statistics=True, histogram_bins=bins)]).activations[layer]
    rows = whole[layer].reshape(7, -1).astype(np.float64)
    np.testing.assert_array_equal(found.minimum, rows.min(1))
    np.testing.assert_array_equal(found.maximum, rows.max(1))
    np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.std, rows.std(1), rtol=1e-12)
    np.testing.assert_array_equal(found.zeros, (rows == 0).mean(1))
    np.testing.assert_allclose(found.l2, np.linalg.norm(rows, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(found.non_finite, 0)
    assert found.histogram.shape == (7, bins)
    if bins:
        np.testing.assert_array_equal(found.histogram, [np.histogram(row, bins)[0] for row in rows])


@pytest.mark.parametrize("size", [1, 3, (4, 2)])
@pytest.mark.parametrize("method", ["mean", "max"])
def test_pooling_is_that_of_the_cells(
    live: cutaway.Client, x: np.ndarray, whole: dict[str, np.ndarray], method: str, size: int | tuple[int, int]
) -> None:
    found = live.introspect("mnist", x[:7], layers=[Capture("conv2", pool=method, size=size)]).activations["conv2"]
    rows, columns = (size, size) if isinstance(size, int) else size
    expected = np.empty((7, 20, rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            of_rows = slice(i * 8 // rows, -(-(i + 1) * 8 // rows))
            cell = whole["conv2"][:, :, of_rows, j * 8 // columns : -(-(j + 1) * 8 // columns)]
            expected[:, :, i, j] = getattr(cell, method)((2, 3))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [[3], [7, 0, 7], slice(None), slice(2, 5), slice(1, None, 4), slice(15, 99)])
def test_channels_by_index_and_range(
    live: cutaway.Client, x: np.ndarray, whole: dict[str, np.ndarray], channels: list[int] | slice
) -> None:
    seen = live.introspect("mnist", x[:7], layers=[Capture("conv2", channels=channels)])
    np.testing.assert_array_equal(seen.activations["conv2"], whole["conv2"][:, channels])
    np.testing.assert_array_equal(seen.captures[0].channels, np.arange(20)[channels])


@pytest.mark.parametrize(("layer", "k"), [("conv2", 1), ("conv2", 5), ("relu_1", 99), ("fc1", 4)])
def test_top_channels_are_those_of_the_largest_mean(
    live: cutaway.Client, x: np.ndarray, whole: dict[str, np.ndarray], layer: str, k: int
) -> None:
    seen = live.introspect("mnist", x[:7], layers=[Capture(layer, top_channels=k)])
    kept, values = seen.captures[0].channels, whole[layer]
    means = values.reshape(*values.shape[:2], -1).astype(np.float64).mean(2)
    assert kept.shape == (7, min(k, values.shape[1]))
    np.testing.assert_array_equal(np.take_along_axis(means, kept, 1), -np.sort(-means, axis=1)[:, :k])
    np.testing.assert_array_equal(seen.activations[layer], np.stack([values[i, kept[i]] for i in range(7)]))


def test_float16_is_numpys(live: cutaway.Client, x: np.ndarray, whole: dict[str, np.ndarray]) -> None:
    found = live.introspect("mnist", x[:7], layers=[Capture("*", precision="float16")]).activations
    assert list(found) == list(whole)
    for name, values in whole.items():
        assert found[name].dtype == np.float16
        np.testing.assert_array_equal(found[name], values.astype(np.float16))


def test_eight_bits_are_off_by_half_a_step_of_their_own_sample(
    live: cutaway.Client, x: np.ndarray, whole: dict[str, np.ndarray]
) -> None:
    found = live.introspect("mnist", x[:7], layers=[Capture("*", precision="affine8")])
    for name, values in whole.items():
        rows, back = values.reshape(7, -1), found.activations[name].reshape(7, -1)
        assert back.dtype == np.float32
        step = (np.maximum(rows.max(1), 0) - np.minimum(rows.min(1), 0)) / 255
        assert (np.abs(back - rows) <= step[:, None] * 0.5001).all(), name
        np.testing.assert_array_equal(back[rows == 0], 0)
    whole_bytes = sum(values.nbytes for values in whole.values())
    assert found.finished.bytes_sent < whole_bytes / 3.9


def test_top_channels_in_eight_bits(live: cutaway.Client, x: np.ndarray, whole: dict[str, np.ndarray]) -> None:
    seen = live.introspect("mnist", x[:7], layers=[Capture("conv1", top_channels=2, precision="affine8")])
    kept = seen.captures[0].channels
    expected = np.stack([whole["conv1"][i, kept[i]] for i in range(7)])
    np.testing.assert_allclose(seen.activations["conv1"], expected, atol=np.ptp(expected) / 255)


def test_gradients_and_inputs_are_reduced_too(live: cutaway.Client, x: np.ndarray) -> None:
    whole = live.introspect("mnist", x[:3], inputs=["fc1"], gradients=["conv2"])
    seen = live.introspect(
        "mnist", x[:3], inputs=[Capture("fc1", channels=slice(0, 320, 40))], gradients=[Capture("conv2", pool="mean")]
    )
    np.testing.assert_array_equal(seen.inputs["fc1"], whole.inputs["fc1"][:, ::40])
    np.testing.assert_allclose(seen.gradients["conv2"], whole.gradients["conv2"].mean((2, 3), keepdims=True), atol=1e-6)


def test_one_layer_in_several_ways_is_several_captures(live: cutaway.Client, x: np.ndarray) -> None:
    ways = [Capture("conv*"), Capture("conv1", statistics=True), Capture("conv1"), Capture("conv1", pool="mean")]
    of_class = [Capture("fc2", class_index=0), Capture("fc2", class_index=5), Capture("fc2", class_index=np.int64(0))]
    seen = live.introspect("mnist", x[:2], layers=ways, gradients=of_class)
    came = [(capture.capture, capture.layer, capture.kind) for capture in seen.captures]
    assert came == [
        (0, "conv1", "output"),
        (1, "conv1", "output"),
        (3, "conv1", "output"),
        (0, "conv2", "output"),
        (0, "conv2_drop", "output"),
        (4, "fc2", "gradient"),
        (5, "fc2", "gradient"),
    ]
    assert [capture.capture for capture in seen.started.captures] == [index for index, _, _ in came]
    assert seen.activations["conv1"].shape == (2, 10, 24, 24)
    np.testing.assert_array_equal(seen.captures[-2].array, np.eye(10, dtype=np.float32)[[0, 0]])
    np.testing.assert_array_equal(seen.captures[-1].array, np.eye(10, dtype=np.float32)[[5, 5]])


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        (Capture("fc1", pool="mean"), "layer 'fc1' cannot be reduced so: to pool takes floating"),
        (Capture("*", pool="mean"), "to pool takes floating"),
        (Capture("conv1", pool="mean", size=25), "each size goes from 1"),
        (Capture("conv1", pool="mean", size=(2, 2, 2)), "each size goes from 1"),
        (Capture("conv1", pool="max", size=0), "each size goes from 1"),
        (Capture("conv1", channels=[10]), "there is no channel 10"),
        (Capture("conv1", channels=[]), "0 channels"),
        (Capture("conv1", channels=slice(10, 20)), "holds no channel"),
        (Capture("conv1", top_channels=0), "top_k: got 0"),
        (Capture("conv1", statistics=True, precision="affine8"), "a precision for statistics"),
        (Capture("conv1", histogram_bins=1025), "0 to 1024"),
    ],
)
def test_what_goes_not_is_refused_before_anything_runs(live: cutaway.Client, x: np.ndarray, capture: Capture, message: str) -> None:
    with pytest.raises(cutaway.InvalidArgument, match=message) as refused:
        live.introspect("mnist", x[:2], layers=[capture])
    assert refused.value.message.startswith("captures[0]")


@pytest.mark.parametrize(
    "fields",
    [
        {"statistics": True, "pool": "mean"},
        {"channels": [1], "top_channels": 1},
        {"pool": "median"},
        {"precision": "int4"},
        {"channels": [-1]},
        {"channels": slice(None, None, -1)},
        {"channels": slice(0, 5, 0)},
        {"size": 3},
        {"histogram_bins": -1},
    ],
)
def test_a_capture_that_contradicts_itself_is_not_sent(live: cutaway.Client, x: np.ndarray, fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|at a time|goes with pool"):
        live.introspect("mnist", x[:1], layers=[Capture("conv1", **fields)])


class Odd(nn.Module):
    """Puts out what reductions have trouble with."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.broken, self.scalar, self.whole = nn.Identity(), nn.Identity(), nn.Identity(), nn.Identity()
        self.turned = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.large(x * 1e6)
        self.broken(torch.where(x > 0, torch.inf, x / 0 * 0))
        self.scalar(x.sum())
        self.whole((x * 10).long())
        self.turned(x.transpose(0, 1))
        return x.flatten(1)


def test_what_numbers_forbid_fails_alone() -> None:
    x = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    with cutaway_server.serve(Odd(), x, name="odd") as server, cutaway.Client(server.address) as client:
        wanted = [
            Capture("large", precision="float16"),
            Capture("broken", precision="affine8"),
            Capture("scalar", precision="affine8"),
        ]
        seen = client.introspect(
            "odd", x, layers=[*wanted, Capture("broken", statistics=True, histogram_bins=4), Capture("turned")]
        )
        assert [(failure.layer, failure.code.name) for failure in seen.failures] == [
            ("large", "INVALID_ARGUMENT"),
            ("broken", "INVALID_ARGUMENT"),
        ]
        assert "beyond 65504" in seen.failures[0].message
        assert "NaN or infinite" in seen.failures[1].message
        np.testing.assert_allclose(seen.activations["scalar"], x.sum(), atol=0.01)
        broken = seen.activations["broken"]
        np.testing.assert_array_equal(broken.non_finite, [12, 12])
        assert np.isnan([broken.minimum, broken.mean, broken.std, broken.zeros]).all()
        np.testing.assert_array_equal([broken.l2, broken.histogram.sum(1)], 0)
        np.testing.assert_array_equal(seen.activations["turned"], x.transpose(0, 1))

        planned = {capture.layer: capture for capture in client.plan("odd", x[:1], layers=["turned", "whole"]).captures}
        assert (planned["turned"].shape, planned["turned"].bytes) == (None, 0)  # it goes with the batch, but not in front
        assert planned["whole"].bytes == 12 * 8
        table = {layer.name: layer for layer in client.model("odd").layers}
        assert (table["turned"].shape, table["turned"].bytes) == ((3, -1, 4), 0)

        with pytest.raises(cutaway.InvalidArgument, match="for floating tensors, not int64"):
            client.introspect("odd", x, layers=[Capture("whole", precision="float16")])
        (failure,) = client.introspect("odd", x, layers=[Capture("turned", channels=[0])]).failures
        assert "channels are axis 1 of [N, C, …], which float32 [3, 2, 4] is not" in failure.message


def test_a_plan_runs_nothing_and_says_what_comes(live: cutaway.Client, x: np.ndarray) -> None:
    look = {
        "layers": ["conv1", Capture("relu", pool="mean", precision="float16")],
        "inputs": ["fc1"],
        "gradients": ["conv2", Capture("conv2", class_index=3)],
    }
    cams = [cutaway.Cam("grad-cam", "conv2"), cutaway.Cam("grad-cam", "conv2", class_index=4)]
    plan = live.plan("mnist", x[:5], cams=cams, **look)
    seen = live.introspect("mnist", x[:5], cams=cams, **look)
    assert plan.captures == seen.started.captures
    sizes = {(capture.layer, capture.kind): capture.array.nbytes for capture in seen.captures}
    assert {(capture.layer, capture.kind): capture.bytes for capture in plan.captures} == sizes
    assert plan.total_bytes == sum(capture.array.nbytes for capture in seen.captures)
    assert plan.captures[1].full_bytes == 5 * 10 * 12 * 12 * 4
    assert plan.estimate[:3] == (1, 3, "")
    assert plan.estimate.compute > 0
    assert live.plan("mnist", x[:5], layers=["conv1"], without_prediction=True).estimate.stops_after == "conv1"
    with pytest.raises(cutaway.InvalidArgument, match="did you mean"):
        live.plan("mnist", x[:5], layers=["conv3"])


def test_the_layer_table_has_shares_of_the_time(live: cutaway.Client) -> None:
    model = live.model("mnist-gap")
    leaves = [layer for layer in model.layers if not layer.container and not layer.never_fires]
    assert sum(layer.forward_share for layer in leaves) == pytest.approx(1)
    inside = sum(layer.forward_share for layer in leaves if layer.name.startswith("features."))
    (features,) = (layer for layer in model.layers if layer.name == "features")
    assert features.forward_share == pytest.approx(inside)
    assert 0 < model.forward_seconds < 1
