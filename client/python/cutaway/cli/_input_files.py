"""Files that are sent: pictures and arrays, one batch."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from cutaway._inputs import Layout, inferred_layout, read
from cutaway._tensors import Array

__all__ = ["Batch", "Layout", "files_argument", "layout_option", "load"]

files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
layout_option = click.option(
    "--layout",
    type=click.Choice(["NHWC", "NCHW", "NHW"]),
    help="Axes of uint8 arrays, where their shape leaves a doubt.",
)


@dataclass(frozen=True)
class Batch:
    """What some files hold: one batch."""

    values: list[bytes | Array]
    """One a file: its bytes if it is a picture, or its array."""
    names: list[str]
    """One a sample."""

    def photographs(self, layout: Layout | None) -> list[Image.Image]:
        """Each sample as the photograph that was sent; none at all where what was sent were no pixels."""
        return [picture for value in self.values for picture in _photographs(value, layout)]


def load(files: Sequence[Path]) -> Batch:
    """Reads files: .npy as arrays, others as pictures whose bytes are sent as they are."""
    values = [read(file) for file in files]
    return Batch(values, [name for file, value in zip(files, values, strict=True) for name in _names(file, value)])


def _names(file: Path, value: bytes | Array) -> list[str]:
    if isinstance(value, bytes) or value.ndim == 0 or len(value) == 1:
        return [file.name]
    return [f"{file.name}[{index}]" for index in range(len(value))]


def _photographs(value: bytes | Array, layout: Layout | None) -> Iterator[Image.Image]:
    if isinstance(value, bytes):
        yield Image.open(io.BytesIO(value))
    elif value.dtype == np.uint8:
        axes = layout or inferred_layout(value.shape)
        for pixels in np.moveaxis(value, 1, -1) if axes == "NCHW" else value:
            yield Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
