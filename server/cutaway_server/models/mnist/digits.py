"""Handwritten digits: read them from the files people have, hold some out by seed, pick a few of those to ship."""

import gzip
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
"""Whole numbers of 0 to 255, of any shape."""

SIDE = 28
"""Height and width of a digit in pixels."""

CLASSES = 10

IDX_FOLDER_NAMES = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")
"""What a folder of IDX files may call its pictures: the published name, and what some unpackers make of it."""

IDX_UBYTE = 0x08
"""The third byte of an IDX file when its items are unsigned bytes; the fourth is the number of dimensions."""


class DigitsRefused(ValueError):
    """The path holds no digits that can be used; the message is one sentence with the path and what is wrong."""


@dataclass(frozen=True)
class Digits:
    """Pictures and what they show.

    Attributes:
        images: [N, 28, 28] uint8, 0 black to 255 white, the digit light on dark.
        labels: [N] uint8, 0 to 9.
    """

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Digits":
        """The digits at these rows, in this order."""
        return Digits(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Split:
    """Digits to train on and digits that training never sees."""

    training: Digits
    held_out: Digits


def read_digits(path: Path) -> Digits:
    """Read digits from an .npz, or from IDX files as MNIST is published.

    Args:
        path: an .npz with `x` [N, 28, 28] and `y` [N], both uint8; a folder with the IDX training files; or one IDX
            file, images or labels, with its partner beside it. IDX files may be gzipped.
    Raises:
        DigitsRefused: the path is missing or holds something else.
    """
    try:
        if path.is_dir():
            return _read_idx_pair(_images_in_folder(path))
        return _read_npz(path) if path.suffix == ".npz" else _read_idx_pair(path)
    except FileNotFoundError as error:
        raise DigitsRefused(f"{error.filename}: no such file.") from error
    except OSError as error:
        raise DigitsRefused(f"{path}: {error.strerror or error}.") from error


def split_digits(digits: Digits, held_out: int, seed: int) -> Split:
    """Draw `held_out` digits by the seed; the rest is for training. Both parts come shuffled.

    Raises:
        DigitsRefused: nothing would be left to train on.
    """
    if held_out >= len(digits):
        raise DigitsRefused(f"{len(digits):,} digits are too few to hold {held_out:,} out and train on the rest.")
    order = np.random.default_rng(seed).permutation(len(digits))
    return Split(training=digits.take(order[held_out:]), held_out=digits.take(order[:held_out]))


def draw_per_class(digits: Digits, per_class: int, seed: int) -> Digits:
    """Draw `per_class` digits of each class by the seed, sorted by class, whether or not a network gets them right.

    Raises:
        DigitsRefused: a class has fewer.
    """
    random = np.random.default_rng(seed)
    rows = [_draw_class(digits, digit, per_class, random) for digit in range(CLASSES)]
    return digits.take(np.concatenate(rows))


def _draw_class(digits: Digits, digit: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    rows = np.flatnonzero(digits.labels == digit)
    if len(rows) < count:
        raise DigitsRefused(f"Only {len(rows)} of the held-out digits show a {digit}; {count} are needed.")
    return random.choice(rows, count, replace=False)


def _read_npz(path: Path) -> Digits:
    """`x` and `y` of an .npz; pickled objects are refused, not run."""
    try:
        # Opened here: np.load leaves a file that it opened itself open when the archive is broken.
        with path.open("rb") as file, zipfile.ZipFile(file):
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in ("x", "y") if name in arrays}
    # A broken archive, a broken member, pickled objects; RuntimeError: encrypted, or packed in a way unknown here.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise DigitsRefused(f"{path}: not an .npz file that holds plain arrays.") from error
    if len(found) < 2:
        raise DigitsRefused(f"{path}: lacks an array x, y or both.")
    return _checked(path, found["x"], found["y"])


def _images_in_folder(folder: Path) -> Path:
    for name in IDX_FOLDER_NAMES:
        if _plain_or_gzipped(folder / name).exists():
            return folder / name
    raise DigitsRefused(f"{folder}: holds no {IDX_FOLDER_NAMES[0]} (or {IDX_FOLDER_NAMES[1]}, or either as .gz).")


def _read_idx_pair(path: Path) -> Digits:
    """Images and labels, given the path of either; their names differ in `images` / `labels` and `idx3` / `idx1`."""
    name = path.name.removesuffix(".gz")
    images = path.with_name(name.replace("labels", "images").replace("idx1", "idx3"))
    labels = path.with_name(name.replace("images", "labels").replace("idx3", "idx1"))
    if images == labels:
        # Not named as published, so there is no telling where its partner is; if it is no file either, say that first.
        path.stat()
        raise DigitsRefused(f"{path}: neither an .npz nor named like {IDX_FOLDER_NAMES[0]}.")
    return _checked(path, _read_idx(_plain_or_gzipped(images), 3), _read_idx(_plain_or_gzipped(labels), 1))


def _plain_or_gzipped(path: Path) -> Path:
    """The path, or the same with .gz where only that exists."""
    gzipped = path.with_name(path.name + ".gz")
    return gzipped if gzipped.exists() and not path.exists() else path


def _read_idx(path: Path, dimensions: int) -> Bytes:
    """The array in an IDX file of unsigned bytes.

    The format: two zero bytes, the item type, the number of dimensions; each dimension's size as a big-endian uint32;
    then the items, the last index varying fastest. Every length is checked before it is used.

    Args:
        dimensions: 3 for images, 1 for labels.
    """
    content = _unzipped(path) if path.suffix == ".gz" else path.read_bytes()
    magic = bytes([0, 0, IDX_UBYTE, dimensions])
    if content[:4] != magic:
        raise DigitsRefused(f"{path}: not IDX; it starts with {content[:4].hex()}, not {magic.hex()}.")
    body = 4 + 4 * dimensions
    if len(content) < body:
        raise DigitsRefused(f"{path}: ends after {len(content)} bytes, within its {body}-byte header.")
    shape = [int(size) for size in np.frombuffer(content[4:body], dtype=">u4")]
    # math.prod, not np.prod: sizes from a stranger must not wrap round.
    if len(content) - body != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise DigitsRefused(f"{path}: its header says {sizes} bytes follow, but {len(content) - body:,} do.")
    return np.frombuffer(content, dtype=np.uint8, offset=body).reshape(shape)


def _unzipped(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DigitsRefused(f"{path}: a broken gzip file.") from error


def _checked(path: Path, images: Bytes, labels: Bytes) -> Digits:
    """The two as Digits, if they are what Digits says."""
    if images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise DigitsRefused(f"{path}: images are {images.dtype} and labels {labels.dtype}; both must be uint8.")
    if images.shape[1:] != (SIDE, SIDE) or labels.shape != images.shape[:1]:
        raise DigitsRefused(
            f"{path}: images of shape {images.shape} and labels of {labels.shape}; (N, 28, 28) and (N,) are needed."
        )
    if len(labels) == 0:
        raise DigitsRefused(f"{path}: holds no digits.")
    if labels.max() >= CLASSES:
        raise DigitsRefused(f"{path}: has a label {labels.max()}; labels are 0 to 9.")
    return Digits(images, labels)
