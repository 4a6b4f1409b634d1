"""Each method's formula a second time, in numpy and float64, beside the pure functions: maps of any size, in one to three axes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cutaway_server.introspection.cam import METHODS
from cutaway_server.introspection.cam.method import Join, Options, Variations
from cutaway_server.introspection.map_shapes import Fusion, Normalisation, Scaling, Upsampling, enlarge, fused, joined, normalised

from .formulas import (
    OF_GRADIENTS,
    Array,
    ablation_cam,
    grad_cam_plus_plus,
    integrated_gradients,
    linear,
    nearest,
    occlusion,
    principal,
    resized,
    scaled,
    score_cam,
    spatial,
    weighted,
)

SHAPES = [(3, 4, 5, 7), (2, 3, 1, 1), (1, 1, 6, 2), (2, 9, 2, 2), (2, 5, 7), (2, 6, 1), (2, 3, 2, 3, 4)]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def close(found: Tensor, expected: Array, within: float = 2e-6) -> None:
    """To a share of the largest value expected."""
    assert found.dtype is torch.float32
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= within * np.abs(expected).max()


def parts(method: str, *arguments: Any) -> Tensor:
    return METHODS[method].parts(*(tensor(one) if isinstance(one, np.ndarray) else one for one in arguments))


def tensor(array: Array) -> Tensor:
    return torch.from_numpy(array).to(torch.float32)


def single(array: Array) -> Array:
    """What float32 makes of it, in float64: both sides start from the same numbers."""
    return array.astype(np.float32).astype(float)


@pytest.mark.parametrize("method", OF_GRADIENTS)
def test_of_activation_and_gradient(method: str, shape: tuple[int, ...], random: np.random.Generator) -> None:
    activation, gradient = single(random.uniform(0.1, 2, shape)), single(random.standard_normal(shape))
    if method == "grad-cam++":  # its denominator 2 + sum(A) g may pass through 0
        gradient = single(np.where(gradient < 0, -0.01 / activation[0, 0].size, 1) * np.abs(gradient))
    close(parts(method, activation, gradient), OF_GRADIENTS[method](activation, gradient))


@pytest.mark.parametrize("method", ["grad-cam", "xgrad-cam", "hires-cam", "layer-cam", "element-wise-grad-cam"])
def test_of_negative_activations(method: str, shape: tuple[int, ...], random: np.random.Generator) -> None:
    activation, gradient = single(random.uniform(-2, -0.1, shape)), single(random.standard_normal(shape))
    close(parts(method, activation, gradient), OF_GRADIENTS[method](activation, gradient))


def test_quotients_with_nothing_below() -> None:
    """A dead channel, and one whose gradient is 0, have no weight: neither NaN nor infinity."""
    activation, gradient = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    activation[:, 0] = 0
    gradient[:, 1] = 0
    for method in ("grad-cam++", "xgrad-cam"):
        torch.testing.assert_close(parts(method, activation, gradient), torch.zeros(1, 2, 3, 3), rtol=0, atol=0)


def test_grad_cam_plus_plus_of_tiny_gradients(random: np.random.Generator) -> None:
    """No number is added to what it divides by: gradients of 1e-12 have their map."""
    activation, gradient = random.uniform(0, 2, (2, 3, 4, 4)), random.uniform(0, 1e-12, (2, 3, 4, 4))
    close(parts("grad-cam++", activation, gradient), grad_cam_plus_plus(single(activation), single(gradient)))


def test_cam(shape: tuple[int, ...], random: np.random.Generator) -> None:
    activation, rows = single(random.standard_normal(shape)), single(random.standard_normal(shape[:2]))
    close(parts("cam", activation, rows), weighted(rows, activation))


def test_shapley_cam(shape: tuple[int, ...], random: np.random.Generator) -> None:
    activation, gradient, curvature = (single(random.standard_normal(shape)) for _ in range(3))
    expected = weighted((gradient - curvature / 2).mean(spatial(gradient)), activation)
    close(parts("shapley-cam", activation, gradient, curvature), expected)


def test_random_cam(shape: tuple[int, ...], random: np.random.Generator) -> None:
    activation = single(random.standard_normal(shape))
    weights = torch.rand(shape[:2], generator=torch.Generator().manual_seed(1)).numpy() * 2.0 - 1
    close(parts("random-cam", activation, torch.Generator().manual_seed(1)), weighted(weights, activation))


def test_principal_component(shape: tuple[int, ...], random: np.random.Generator) -> None:
    values = single(random.standard_normal(shape))
    assert torch.equal(parts("eigen-cam", values), tensor(values))
    close(joined(tensor(values), Join.PRINCIPAL), principal(values))


def test_joins(shape: tuple[int, ...], random: np.random.Generator) -> None:
    values = single(random.standard_normal(shape))
    close(joined(tensor(values), Join.SUM), values.sum(1))
    close(joined(tensor(values), Join.LARGEST), np.abs(values).max(1))
    close(joined(tensor(values), Join.NONE), values)


class Cubic:
    """Runs of a network whose score is a polynomial of each element, with coefficients of each sample's own.

    Attributes:
        given: all inputs that gradients were asked of, by sample.
    """

    def __init__(self, x: Array, over: Array, options: Options, random: np.random.Generator) -> None:
        self.coefficients = single(random.standard_normal((3, *over.shape)))
        self.x = tensor(x)
        self.scores = tensor(self.score(over))
        self.options = options
        self.draw = torch.Generator().manual_seed(2)
        self.given: list[list[Array]] = [[] for _ in x]

    def score(self, value: Array, samples: Any = slice(None)) -> Array:
        linear, square, cube = self.coefficients[:, samples]
        return (linear * value + square * value**2 + cube * value**3).sum(tuple(range(1, value.ndim)))

    def gradient(self, value: Array, samples: Any = slice(None)) -> Array:
        linear, square, cube = self.coefficients[:, samples]
        return linear + 2 * square * value + 3 * cube * value**2

    def of_inputs(self, count: int, vary: Variations) -> Tensor:
        scores = [self.score(value.double().numpy(), samples.numpy()) for samples, value in self._batches(count, vary)]
        return tensor(np.concatenate(scores))

    of_layer = of_inputs

    def gradients(self, count: int, vary: Variations, *, guided: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        for samples, value in self._batches(count, vary):
            for sample, one in zip(samples.tolist(), value, strict=True):
                self.given[sample].append(one.double().numpy())
            yield samples, tensor(self.gradient(value.double().numpy(), samples.numpy()) * (10 if guided else 1))

    @staticmethod
    def _batches(count: int, vary: Variations) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, count, 5):
            yield vary(torch.arange(first, min(first + 5, count)))


def test_integrated_gradients(shape: tuple[int, ...], random: np.random.Generator) -> None:
    x = single(random.standard_normal(shape))
    runs = Cubic(x, x, Options(steps=7), random)
    close(parts("integrated-gradients", x, runs), integrated_gradients(x, runs.gradient, 7))


def test_smooth_grad(shape: tuple[int, ...], random: np.random.Generator) -> None:
    """The mean over the noisy inputs, with noise of 0.15 of the sample's own range."""
    x = single(random.standard_normal(shape) * np.arange(1, 1 + shape[0]).reshape(-1, *[1] * (len(shape) - 1)))
    runs = Cubic(x, x, Options(steps=400), random)
    found = parts("smooth-grad", x, runs)
    for sample, given in enumerate(runs.given):
        assert len(given) == 400
        expected = np.mean([runs.gradient(one[None], [sample])[0] for one in given], axis=0)
        close(found[sample], expected, 1e-5)
        noise = np.stack(given) - x[sample]
        spread = 0.15 * (x[sample].max() - x[sample].min())
        assert noise.std() == pytest.approx(spread, rel=4 / np.sqrt(2 * noise.size))
        assert noise.mean() == pytest.approx(0, abs=4 * spread / np.sqrt(noise.size))


def test_guided_backprop(shape: tuple[int, ...], random: np.random.Generator) -> None:
    x = single(random.standard_normal(shape))
    runs = Cubic(x, x, Options(), random)
    close(parts("guided-backprop", x, runs), 10 * runs.gradient(x))


def test_ablation_cam(shape: tuple[int, ...], random: np.random.Generator) -> None:
    activation = single(random.uniform(0.5, 2, shape))
    runs = Cubic(activation, activation, Options(), random)
    expected = ablation_cam(activation, runs.score)
    close(parts("ablation-cam", activation, runs), expected, 1e-4)  # differences of scores in float32


def test_score_cam(shape: tuple[int, ...], random: np.random.Generator) -> None:
    activation = single(random.standard_normal(shape))
    size = tuple(3 * edge - 1 for edge in shape[2:])
    x = single(random.standard_normal((shape[0], 2, *size)) / np.prod(size))
    runs = Cubic(x, x, Options(), random)
    close(parts("score-cam", activation, runs), score_cam(activation, x, runs.score))


def test_score_cam_of_a_channel_that_is_the_same_everywhere(random: np.random.Generator) -> None:
    """Its mask is 0, also where means of one number differ from it in their last bit."""
    activation = np.broadcast_to(single(random.uniform(0.5, 2, (3, 8, 1, 1))), (3, 8, 7, 10))
    x = single(random.standard_normal((3, 2, 97, 150)) / 1000)
    runs = Cubic(x, x, Options(), random)
    close(parts("score-cam", activation.copy(), runs), activation / 8)


@pytest.mark.parametrize(("window", "stride"), [((3,), (2,)), ((2,), (3,)), ((1,), (1,)), ((50,), (50,))])
def test_occlusion(shape: tuple[int, ...], window: tuple[int], stride: tuple[int], random: np.random.Generator) -> None:
    x = single(random.uniform(0.5, 2, shape))
    runs = Cubic(x, x, Options(window=window, stride=stride), random)
    close(parts("occlusion", x, runs)[:, 0], occlusion(x, runs.score, *window, *stride), 1e-5)


def test_occlusion_of_uneven_windows(random: np.random.Generator) -> None:
    x = single(random.standard_normal((2, 3, 5, 7)))
    runs = Cubic(x, x, Options(window=(5, 2), stride=(5, 2)), random)
    columns = runs.coefficients * np.stack([x, x**2, x**3])
    each = columns.sum((0, 2, 3))
    expected = np.add.reduceat(each, [0, 2, 4, 6], axis=1).repeat(2, axis=1)[:, None, :7].repeat(5, axis=1)
    close(parts("occlusion", x, runs)[:, 0], expected, 1e-5)


@pytest.mark.parametrize("size", [8, 20, 5])
def test_sizes(shape: tuple[int, ...], size: int, random: np.random.Generator) -> None:
    plane = single(random.standard_normal((shape[0], *shape[2:])))
    larger = tuple(range(size, size + len(shape) - 2))
    close(enlarge(tensor(plane), larger), resized(plane, larger, linear))
    close(Scaling(upsampling=Upsampling.BILINEAR).of(tensor(plane), larger), resized(plane, larger, linear))
    close(Scaling(upsampling=Upsampling.NEAREST).of(tensor(plane), larger), resized(plane, larger, nearest))
    channels = single(random.standard_normal(shape))  # kept apart
    close(Scaling(upsampling=Upsampling.BILINEAR).of(tensor(channels), larger), resized(channels, larger, linear))


def test_normalisations(shape: tuple[int, ...], random: np.random.Generator) -> None:
    plane = single(random.standard_normal((shape[0], *shape[2:])))
    close(normalised(tensor(plane), Normalisation.NONE), plane)
    close(normalised(tensor(plane), Normalisation.MIN_MAX), scaled(plane))
    largest = np.abs(plane).max(tuple(range(1, plane.ndim)), keepdims=True)
    close(normalised(tensor(plane), Normalisation.MAX), plane / largest)


@pytest.mark.parametrize("how", [Normalisation.MIN_MAX, Normalisation.MAX])
def test_normalisation_of_a_map_without_contrast(how: Normalisation) -> None:
    plane = torch.stack([torch.zeros(2, 3), torch.full((2, 3), -5.0)])
    expected = plane / 5 if how is Normalisation.MAX else torch.zeros(2, 2, 3)
    assert torch.equal(normalised(plane, how), expected)


def test_fusions(shape: tuple[int, ...], random: np.random.Generator) -> None:
    sizes = [tuple(2 * edge for edge in shape[2:]), shape[2:]]
    planes = [single(random.standard_normal((shape[0], *size))) for size in sizes]
    for order in (planes, planes[::-1]):
        alike = np.stack([resized(scaled(plane), sizes[0], linear) for plane in order])
        for fusion, expected in ((Fusion.MEAN, alike.mean(0)), (Fusion.MAX, alike.max(0)), (Fusion.PRODUCT, alike.prod(0))):
            close(fused([tensor(plane) for plane in order], fusion), expected)


def test_every_method_has_its_formula_here() -> None:
    runs = {"integrated-gradients", "smooth-grad", "guided-backprop", "ablation-cam", "score-cam", "occlusion"}
    assert set(METHODS) == set(OF_GRADIENTS) | runs | {"cam", "shapley-cam", "random-cam", "eigen-cam"}
