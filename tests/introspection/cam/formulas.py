"""The methods' formulas in numpy: a second time, to be held beside the server's. Arrays [N, C, …] of one to three axes in space."""

import itertools
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Score = Callable[[Array], Array]
"""From inputs, or what a layer put out, [N, …] to scores [N]."""


def spatial(array: Array) -> tuple[int, ...]:
    return tuple(range(2, array.ndim))


def weighted(weights: Array, activation: Array) -> Array:
    """Weights [N, C] times [N, C, …]."""
    return np.einsum("nc,nc...->nc...", weights, activation)


def grad_cam(activation: Array, gradient: Array) -> Array:
    return weighted(gradient.mean(spatial(gradient)), activation)


def grad_cam_plus_plus(activation: Array, gradient: Array) -> Array:
    """Equation 19 as it is printed."""
    total = activation.sum(spatial(activation), keepdims=True)
    below = 2 * gradient**2 + total * gradient**3
    alpha = np.divide(gradient**2, below, where=gradient != 0, out=np.zeros_like(gradient))
    return weighted((alpha * np.maximum(gradient, 0)).sum(spatial(gradient)), activation)


def xgrad_cam(activation: Array, gradient: Array) -> Array:
    above, below = (gradient * activation).sum(spatial(gradient)), activation.sum(spatial(gradient))
    return weighted(np.divide(above, below, where=below != 0, out=np.zeros_like(above)), activation)


OF_GRADIENTS: dict[str, Callable[[Array, Array], Array]] = {
    "grad-cam": grad_cam,
    "finer-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "xgrad-cam": xgrad_cam,
    "hires-cam": lambda activation, gradient: activation * gradient,
    "eigen-grad-cam": lambda activation, gradient: activation * gradient,
    "input-x-gradient": lambda activation, gradient: activation * gradient,
    "layer-cam": lambda activation, gradient: activation * np.maximum(gradient, 0),
    "element-wise-grad-cam": lambda activation, gradient: np.maximum(activation * gradient, 0),
    "saliency": lambda activation, gradient: gradient,
}
"""What each channel adds to the map, of an activation and its gradient, or of the input and its."""


def integrated_gradients(x: Array, gradient: Callable[[Array], Array], steps: int) -> Array:
    return x * np.mean([gradient(x * (step + 0.5) / steps) for step in range(steps)], axis=0)


def ablation_cam(activation: Array, score: Score) -> Array:
    whole = score(activation)
    weights = np.zeros(activation.shape[:2])
    for channel in range(activation.shape[1]):
        without = activation.copy()
        without[:, channel] = 0
        weights[:, channel] = (whole - score(without)) / whole
    return weighted(weights, activation)


def score_cam(activation: Array, x: Array, score: Score) -> Array:
    flat = np.ptp(activation.reshape(*activation.shape[:2], -1), axis=2) == 0  # but for what float64 makes of one number's means
    enlarged = [resized(activation[:, channel], x.shape[2:], linear) for channel in range(activation.shape[1])]
    masks = [weighted(~flat[:, [channel]], scaled(plane)[:, None])[:, 0] for channel, plane in enumerate(enlarged)]
    scores = np.stack([score(x * mask[:, None]) for mask in masks], axis=1)
    above = np.exp(scores - scores.max(1, keepdims=True))
    return weighted(above / above.sum(1, keepdims=True), activation)


def occlusion(x: Array, score: Score, window: int, stride: int) -> Array:
    """[N, …]: the mean over the windows that cover a place; 0 where strides leave it out."""
    total, count = np.zeros((len(x), *x.shape[2:])), np.zeros(x.shape[2:])
    starts = [range(0, max(1, -(-(edge - window) // stride) * stride + 1), stride) for edge in x.shape[2:]]
    for corner in itertools.product(*starts):
        place = tuple(slice(start, start + window) for start in corner)
        covered = x.copy()
        covered[(slice(None), slice(None), *place)] = 0
        total[(slice(None), *place)] += (score(x) - score(covered)).reshape(-1, *[1] * (x.ndim - 2))
        count[place] += 1
    assert count.all() or window < stride
    return total / np.maximum(count, 1)


def principal(parts: Array) -> Array:
    """[N, …]: first component of cells by channels, centred over the cells; its sign goes with the sum."""
    maps = np.zeros((len(parts), *parts.shape[2:]))
    for sample, channels in enumerate(parts):
        cells = channels.reshape(len(channels), -1).T
        centred = cells - cells.mean(0)
        _, _, components = np.linalg.svd(centred, full_matrices=False)
        projection = centred @ components[0]
        maps[sample] = (projection * np.sign(projection @ cells.sum(1))).reshape(parts.shape[2:])
    return maps


def scaled(plane: Array) -> Array:
    """Each sample's from 0 to 1; zeros where it is the same everywhere."""
    rows = plane.reshape(len(plane), -1)
    low, extent = rows.min(1, keepdims=True), np.ptp(rows, axis=1, keepdims=True)
    return np.divide(rows - low, extent, where=extent > 0, out=np.zeros_like(rows)).reshape(plane.shape)


def linear(size: int, larger: int) -> Array:
    """[larger, size]: each new cell's shares of the old, linear between centres, constant beyond the outermost."""
    centres = np.clip((np.arange(larger) + 0.5) * size / larger - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(size)))


def nearest(size: int, larger: int) -> Array:
    """[larger, size]: the old cell in which each new cell's centre lies."""
    return np.eye(size)[np.floor((np.arange(larger) + 0.5) * size / larger).astype(int)]


def resized(plane: Array, size: tuple[int, ...], shares: Callable[[int, int], Array]) -> Array:
    """The last axes in another size."""
    for axis, larger in enumerate(size, start=plane.ndim - len(size)):
        plane = np.moveaxis(np.tensordot(shares(plane.shape[axis], larger), plane, (1, axis)), 0, axis)
    return plane
