"""From the parts that channels add to a map, to the map in the shape and numbers asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional as F

from cutaway_server.introspection.cam.method import Join

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Normalisation(Enum):
    """How the numbers of a sample's map are changed."""

    NONE = "none"
    MIN_MAX = "min-max"
    MAX = "max"


class Upsampling(Enum):
    """How a map gets the size of the network's input."""

    NONE = "none"
    BILINEAR = "bilinear"
    NEAREST = "nearest"


class Fusion(Enum):
    """How the maps of several layers become one."""

    MEAN = "mean"
    MAX = "max"
    PRODUCT = "product"


@dataclass(frozen=True)
class Scaling:
    """How a map's numbers and size are changed."""

    normalisation: Normalisation = Normalisation.NONE
    upsampling: Upsampling = Upsampling.NONE

    def of(self, plane: Tensor, size: Sequence[int]) -> Tensor:
        """[N, …] as [N, …], or as [N, *size] where it is enlarged; channels that were kept apart stay before the space."""
        scaled = normalised(plane, self.normalisation)
        if self.upsampling is Upsampling.NONE:
            return scaled
        return enlarge(scaled, size) if self.upsampling is Upsampling.BILINEAR else _nearest(scaled, size)


def joined(parts: Tensor, join: Join) -> Tensor:
    """[N, C, …] as [N, …]; as it is where channels are kept apart."""
    match join:
        case Join.SUM:
            return parts.sum(1)
        case Join.LARGEST:
            return parts.abs().amax(1)
        case Join.PRINCIPAL:
            return principal(parts)
        case Join.NONE:
            return parts


def principal(parts: Tensor) -> Tensor:
    """The projection of each cell on the first principal component of the channels over the cells, [N, …].

    A component's sign is arbitrary: here it goes with the sum of the parts. A sample that is not finite has none: NaN.
    """
    broken = ~parts.flatten(1).isfinite().all(1)
    cells = parts.double().flatten(2).masked_fill(broken[:, None, None], 0)
    centred = cells - cells.mean(2, keepdim=True)
    projection: Tensor
    if centred.shape[1] <= centred.shape[2]:  # the smaller of both products has the same eigenvalues
        component = torch.linalg.eigh(centred @ centred.mT).eigenvectors[..., -1:]  # [N, C, 1], the largest last
        projection = (component.mT @ centred).squeeze(1)
    else:
        values, vectors = torch.linalg.eigh(centred.mT @ centred)
        projection = vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    sign = torch.where((projection * cells.sum(1)).sum(1, keepdim=True) < 0, -1.0, 1.0)
    known = (projection * sign).masked_fill(broken[:, None], torch.nan)
    return known.to(parts.dtype).reshape(len(parts), *parts.shape[2:])


def min_max(plane: Tensor) -> Tensor:
    """Each sample's map [n, …] from 0 to 1; all 0 where it is the same everywhere."""
    return normalised(plane, Normalisation.MIN_MAX)


def normalised(plane: Tensor, how: Normalisation) -> Tensor:
    """Each sample's map, all of it by the same numbers."""
    if how is Normalisation.NONE:
        return plane
    rows = plane.flatten(1)
    low = rows.amin(1) if how is Normalisation.MIN_MAX else torch.zeros_like(rows[:, 0])
    extent = rows.amax(1) - low if how is Normalisation.MIN_MAX else rows.abs().amax(1)
    scaled = (rows - low[:, None]) / torch.where(extent == 0, 1, extent)[:, None]
    return scaled.reshape(plane.shape)


def enlarge(plane: Tensor, size: Sequence[int]) -> Tensor:
    """A map [n, …] of one to three axes in space, linear between the centres of its cells, as [n, *size]."""
    return _resized(plane, size, mode=_LINEAR[len(size)], align_corners=False)


def _nearest(plane: Tensor, size: Sequence[int]) -> Tensor:
    return _resized(plane, size, mode="nearest-exact")


def _resized(plane: Tensor, size: Sequence[int], **how: object) -> Tensor:
    flat = plane.reshape(len(plane), -1, *plane.shape[-len(size) :])  # with an axis of channels, of which a map has none
    resized = F.interpolate(flat, tuple(size), **how)  # type: ignore[arg-type]
    return torch.reshape(resized, (*plane.shape[: plane.ndim - len(size)], *size))


def fused(planes: Sequence[Tensor], how: Fusion) -> Tensor:
    """Maps [N, …] of several layers, each from 0 to 1 and as large as the largest, as one."""
    size = max((tuple(plane.shape[1:]) for plane in planes), key=lambda shape: torch.Size(shape).numel())
    alike = torch.stack([enlarge(min_max(plane), size) for plane in planes])
    if how is Fusion.MEAN:
        return alike.mean(0)
    return alike.amax(0) if how is Fusion.MAX else alike.prod(0)
