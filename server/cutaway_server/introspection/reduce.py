"""What becomes of a capture before it travels: numbers about it, a smaller grid, some of its channels, fewer bits.

Each reduction says beforehand what it makes of a shape, and makes it of a tensor. Both refuse with the same sentence.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

STATISTICS = 7  # columns before the histogram's bins: see the contract's Statistics
_AT_ONCE = 1 << 22  # elements that statistics turn into float64 at a time


class Form(NamedTuple):
    """What a tensor is, without its elements."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    batch_first: bool


class CannotReduce(ValueError):
    """This reduction is nothing for such a tensor; the message says why."""


class Precision(Enum):
    """Element type on the wire."""

    OWN = "the layer's own"
    FLOAT16 = "float16"
    AFFINE8 = "8 bits, affine"


@dataclass(frozen=True)
class Statistics:
    """A row of numbers for each sample, then a histogram of so many bins. float64 [N, 7 + bins]."""

    bins: int = 0

    def form(self, form: Form) -> Form:
        """Any tensor has statistics."""
        rows = form.shape[0] if form.batch_first else 1
        return Form(torch.float64, (rows, STATISTICS + self.bins), form.batch_first)

    def apply(self, tensor: Tensor, batch_first: bool) -> tuple[Tensor, Tensor | None]:
        """Minimum, maximum, mean, standard deviation, fraction of zeros, L2 norm, count of non-finite elements; bins."""
        if not tensor.numel():
            nothing = torch.tensor([torch.nan] * 5 + [0.0] * (STATISTICS - 5 + self.bins), dtype=torch.float64)
            return nothing.expand(self.form(_form(tensor, batch_first)).shape), None
        rows = tensor.detach().reshape(len(tensor) if batch_first else 1, -1)
        some = max(1, _AT_ONCE // rows.shape[1])
        return torch.cat([_rows(part, self.bins) for part in torch.split(rows, some)]), None


@dataclass(frozen=True)
class Pool:
    """Adaptive pooling of the axes after [N, C]. `size` holds one number for all axes, or one for each."""

    largest: bool
    size: tuple[int, ...]

    def form(self, form: Form) -> Form:
        """[N, C, *sizes] in the same dtype."""
        axes = form.shape[2:]
        if not (form.batch_first and 1 <= len(axes) <= 3 and form.dtype.is_floating_point):
            raise CannotReduce(f"to pool takes floating [N, C] and one to three axes in space, not {_text(form)}")
        sizes = self.sizes(form)
        if len(sizes) != len(axes) or not all(1 <= size <= axis for size, axis in zip(sizes, axes, strict=True)):
            raise CannotReduce(f"{list(axes)} does not pool to {list(sizes)}: each size goes from 1 to its axis's own")
        return form._replace(shape=(*form.shape[:2], *sizes))

    def sizes(self, form: Form) -> tuple[int, ...]:
        """One size for each axis."""
        return self.size * (len(form.shape) - 2) if len(self.size) == 1 else self.size

    def apply(self, tensor: Tensor, batch_first: bool) -> tuple[Tensor, Tensor | None]:
        """The pooled tensor."""
        sizes = self.sizes(_form(tensor, batch_first))
        kind = "max" if self.largest else "avg"
        pool = getattr(F, f"adaptive_{kind}_pool{len(sizes)}d")
        exact = tensor if tensor.dtype is torch.float64 else tensor.float()
        return pool(exact, sizes).to(tensor.dtype), None


@dataclass(frozen=True)
class ChannelList:
    """Channels by index, in this order."""

    indices: tuple[int, ...]

    def form(self, form: Form) -> Form:
        """[N, k, …]"""
        channels = _channels(form)
        if max(self.indices) >= channels:
            raise CannotReduce(f"there is no channel {max(self.indices)}: {_text(form)} has channels 0 to {channels - 1}")
        return _with_channels(form, len(self.indices))

    def apply(self, tensor: Tensor, batch_first: bool) -> tuple[Tensor, Tensor | None]:
        """The channels and their indices [k]."""
        kept = torch.tensor(self.indices, device=tensor.device)
        return tensor.index_select(1, kept), kept


@dataclass(frozen=True)
class ChannelRange:
    """Channels start, start + step … below stop; a stop of None, or beyond the last one, means all that follow."""

    start: int
    stop: int | None
    step: int

    def form(self, form: Form) -> Form:
        """[N, k, …]"""
        kept = self._of(_channels(form))
        if not kept:
            raise CannotReduce(f"the range holds no channel of {_text(form)}")
        return _with_channels(form, len(kept))

    def apply(self, tensor: Tensor, batch_first: bool) -> tuple[Tensor, Tensor | None]:
        """The channels and their indices [k]."""
        kept = self._of(tensor.shape[1])
        return tensor[:, kept.start : kept.stop : kept.step], torch.tensor(kept)

    def _of(self, channels: int) -> range:
        return range(self.start, channels if self.stop is None else min(self.stop, channels), self.step)


@dataclass(frozen=True)
class TopChannels:
    """For each sample the k channels of the largest mean, largest first; where there are fewer, all."""

    k: int

    def form(self, form: Form) -> Form:
        """[N, k, …]"""
        return _with_channels(form, min(self.k, _channels(form)))

    def apply(self, tensor: Tensor, batch_first: bool) -> tuple[Tensor, Tensor | None]:
        """Each sample's channels and their indices [N, k]."""
        means = tensor.detach().double().flatten(2).mean(2) if tensor.ndim > 2 else tensor.detach().double()
        kept = means.topk(min(self.k, tensor.shape[1]), dim=1).indices
        return tensor[torch.arange(len(tensor), device=tensor.device)[:, None], kept], kept


Shrink = Statistics | Pool | ChannelList | ChannelRange | TopChannels


class Affine8(NamedTuple):
    """element = scale * (byte - zero_point); one of each for a sample, or one for all where the batch is not first."""

    scales: list[float]
    zero_points: list[int]


class Reduced(NamedTuple):
    """A capture as it travels.

    Attributes:
        tensor: uint8 where it is affine8.
        dtype: of the elements that it stands for.
        shrink: what was done to it, all sizes stated; None where nothing was.
        kept: channels: [k], or [N, k] where each sample has its own; None where they are all there.
    """

    tensor: Tensor
    dtype: torch.dtype
    shrink: Shrink | None = None
    kept: Tensor | None = None
    affine8: Affine8 | None = None


@dataclass(frozen=True)
class Reduction:
    """What becomes of a capture: first it shrinks, then it loses bits."""

    shrink: Shrink | None = None
    precision: Precision = Precision.OWN

    def form(self, form: Form) -> tuple[Form, int]:
        """What such a tensor becomes, and the bytes of one element of it on the wire.

        Raises:
            CannotReduce: it cannot be.
        """
        shrunk = self.shrink.form(form) if self.shrink else form
        if self.precision is Precision.OWN:
            return shrunk, shrunk.dtype.itemsize
        if not form.dtype.is_floating_point:
            raise CannotReduce(f"another precision is for floating tensors, not {_text(form)}")
        half = self.precision is Precision.FLOAT16
        return shrunk._replace(dtype=torch.float16 if half else torch.float32), 2 if half else 1

    def apply(self, tensor: Tensor, batch_first: bool) -> Reduced:
        """The capture as it travels.

        Raises:
            CannotReduce: not this tensor.
        """
        form = _form(tensor, batch_first)
        self.form(form)
        small, kept, shrink = tensor, None, self.shrink
        if shrink:
            small, kept = shrink.apply(tensor, batch_first)
        if isinstance(shrink, Pool):
            shrink = Pool(shrink.largest, shrink.sizes(form))
        if self.precision is Precision.FLOAT16:
            return Reduced(_half(small), torch.float16, shrink, kept)
        if self.precision is Precision.AFFINE8:
            bits, affine8 = _affine8(small, batch_first)
            return Reduced(bits, torch.float32, shrink, kept, affine8)
        return Reduced(small, small.dtype, shrink, kept)


def _rows(rows: Tensor, bins: int) -> Tensor:
    """Statistics of each row of [n, elements]: float64 [n, 7 + bins]."""
    x = rows.double()
    finite = x.isfinite()
    count = finite.sum(1)
    known = torch.where(finite, x, 0.0)
    mean = known.sum(1) / count  # NaN where nothing is finite: 0 / 0
    spread = torch.where(finite, x - mean[:, None], 0.0)
    ends = x.where(finite, torch.inf).amin(1), x.where(finite, -torch.inf).amax(1)
    low, high = (torch.where(count == 0, torch.nan, end) for end in ends)
    zeros = ((x == 0) & finite).sum(1).double() / count
    columns = [low, high, mean, (spread.square().sum(1) / count).sqrt(), zeros, known.square().sum(1).sqrt()]
    table = torch.stack([*columns, (x.shape[1] - count).double()], dim=1)
    return torch.cat([table, _histogram(x, finite, low, high, bins)], dim=1) if bins else table


def _histogram(x: Tensor, finite: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Counts of the finite elements of each row, [n, bins]; numpy's rule of which edge belongs to which bin."""
    flat = low == high
    low, high = torch.where(flat, low - 0.5, low)[:, None], torch.where(flat, high + 0.5, high)[:, None]
    width = (high - low) / bins
    edges = torch.arange(bins + 1, dtype=x.dtype, device=x.device) * width + low
    edges[:, -1:] = high
    place = torch.where(finite, (x - low) / width, 0.0).nan_to_num().long().clamp(0, bins - 1)
    place = place - (x < edges.gather(1, place)).long()  # what rounding put over an edge goes back
    place = place + ((x >= edges.gather(1, place + 1)) & (place < bins - 1)).long()
    return torch.zeros(len(x), bins, dtype=x.dtype, device=x.device).scatter_add_(1, place, finite.double())


def _half(tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not (half.isfinite() == tensor.isfinite()).all():
        raise CannotReduce("it has values beyond 65504, which float16 cannot hold; 8 bits or the layer's own precision can")
    return half


def _affine8(tensor: Tensor, batch_first: bool) -> tuple[Tensor, Affine8]:
    x = tensor.detach() if tensor.dtype is torch.float64 else tensor.detach().float()
    if not x.isfinite().all():
        raise CannotReduce("it has values that are NaN or infinite, which 8 bits cannot hold; take its statistics, or all of it")
    rows = x.reshape(len(x) if batch_first else 1, -1) if x.numel() else x.new_zeros(1, 1)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    scale = ((high - low) / 255).float()
    scale = torch.where((high > low) & (scale == 0), torch.finfo(torch.float32).smallest_normal, scale)
    if not scale.isfinite().all():
        raise CannotReduce("its values are too large for a scale in float32; take the layer's own precision")
    step = torch.where(scale > 0, scale, 1.0)[:, None].to(x.dtype)
    zero = (-low[:, None] / step).round().clamp(0, 255)
    bits = ((rows / step).round() + zero).clamp(0, 255).to(torch.uint8)
    affine8 = Affine8(scale.tolist(), zero.long().flatten().tolist())
    return bits.reshape(x.shape) if x.numel() else x.to(torch.uint8), affine8


def _form(tensor: Tensor, batch_first: bool) -> Form:
    return Form(tensor.dtype, tuple(tensor.shape), batch_first)


def _channels(form: Form) -> int:
    if not (form.batch_first and len(form.shape) >= 2):
        raise CannotReduce(f"channels are axis 1 of [N, C, …], which {_text(form)} is not")
    return form.shape[1]


def _with_channels(form: Form, count: int) -> Form:
    return form._replace(shape=(form.shape[0], count, *form.shape[2:]))


def _text(form: Form) -> str:
    sizes = ["N" if form.batch_first else str(form.shape[0]), *map(str, form.shape[1:])] if form.shape else []
    return f"{str(form.dtype).removeprefix('torch.')} [{', '.join(sizes)}]"
