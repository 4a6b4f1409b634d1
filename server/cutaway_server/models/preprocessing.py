"""From pixels to a model-ready tensor, and back from a map's coordinates to the photograph's."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway_server.errors import BadInput, InputTooLarge

_SLIMMEST = 100  # how many times as long as the shorter side the longer one may be
_STRIP = 1 << 16  # pixels that are converted at a time
_BRIGHT = 127.5  # mean luma of a border, of 255, above which the ground counts as bright


@dataclass(frozen=True)
class ImageSpec:
    """How pixels become a model-ready image: colours, resize, centre crop, scaled to the range, less mean, divided by std.

    Attributes:
        color: what the channels are.
        height, width: of the model-ready image, in pixels.
        resize_shorter: what the shorter side is resized to before the crop, in pixels; 0 for a resize of both sides to the image's
            own size, with no crop.
        resample: filter of the resize, antialiased as Pillow's are.
        mean, std: one a channel, of pixels scaled to the range.
        range: what pixels of 0 and 255 are scaled to.
        invert_bright_background: whether a picture with a bright border is inverted first.
    """

    color: Literal["gray", "rgb", "bgr"]
    height: int
    width: int
    resize_shorter: int
    resample: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, float] = (0.0, 1.0)
    invert_bright_background: bool = False

    @property
    def channels(self) -> int:
        """How many a model-ready image has."""
        return 1 if self.color == "gray" else 3


class Placement(NamedTuple):
    """Where the model's input lies on the photograph: x_photograph = scale_x * x_input + offset_x, likewise y. Unit: pixels."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


def open_image(data: bytes, field: str, pixels_left: int) -> Image.Image:
    """Decodes one PNG or JPEG whose header states at most `pixels_left` pixels.

    Raises:
        BadInput: neither of the two, or broken, or too slim.
        InputTooLarge: more pixels; nothing was decoded.
    """
    broken = BadInput(field, "bytes that are no whole PNG or JPEG", "a PNG or JPEG file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warning of large pictures: ours is the limit below
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise InputTooLarge(field, "pixels or more", 2 * (Image.MAX_IMAGE_PIXELS or 0), pixels_left) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise broken from error
    if image.width * image.height > pixels_left:
        raise InputTooLarge(field, "pixels", image.width * image.height, pixels_left)
    check_sides(image.width, image.height, field)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise a dozen types at broken files, AssertionError among them
        raise broken from error
    return image


def check_sides(width: int, height: int, field: str) -> None:
    """Raises BadInput for a picture so slim that a resize of its shorter side would make the longer one huge."""
    if max(width, height) > _SLIMMEST * min(width, height):
        raise BadInput(field, f"a picture of {width:,} x {height:,} pixels", f"sides of at most 1 to {_SLIMMEST}")


def preprocess(image: Image.Image, spec: ImageSpec) -> tuple[NDArray[np.float32], Placement]:
    """One photograph as the model wants it.

    Returns:
        [C, height, width] float32, and where that lies on the photograph.
    """
    pixels = _pixels(image, "L" if spec.color == "gray" else "RGB")
    width, height = _resized(image.size, spec)
    left, top = (round((side - kept) / 2) for side, kept in ((width, spec.width), (height, spec.height)))  # as torchvision rounds
    channels = _resize(pixels, width, height, spec.resample)[:, top : top + spec.height, left : left + spec.width]
    if spec.invert_bright_background and _border(pixels).mean() > _BRIGHT:
        channels = 255 - channels
    channels = channels[::-1] if spec.color == "bgr" else channels
    low, high = spec.range
    values = channels.astype(np.float32)
    scaled = values / 255 if spec.range == (0.0, 1.0) else low + values * ((high - low) / 255)
    mean, std = (np.asarray(numbers, np.float32)[:, None, None] for numbers in (spec.mean, spec.std))
    scale_x, scale_y = image.width / width, image.height / height
    return ((scaled - mean) / std).astype(np.float32, copy=False), Placement(scale_x, scale_y, left * scale_x, top * scale_y)


def _pixels(image: Image.Image, mode: Literal["L", "RGB"]) -> NDArray[np.uint8]:
    """[H, W, C] of a picture of any mode.

    By strips: some of Pillow's steps hold the GIL, for 0.1 s where they take 12 megapixels at once.
    """
    width, height = image.size
    pixels = np.empty((height, width, len(mode)), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = _without_alpha(image.crop((0, top, width, min(top + rows, height))))
        converted = strip if strip.mode == mode else strip.convert(mode)
        pixels[top : top + rows] = np.asarray(converted).reshape(-1, width, len(mode))
    return pixels


def _resize(pixels: NDArray[np.uint8], width: int, height: int, resample: str) -> NDArray[np.uint8]:
    """[C, height, width] of [H, W, C], by Pillow's filters.

    PyTorch's form of them takes a quarter to a tenth of Pillow's time on a CPU with AVX2, and runs without the GIL. A pixel differs
    from Pillow's by at most 1 of 255 levels, or 2 with bicubic, but where Pillow takes columns first: docs/predict.md.
    """
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized: NDArray[np.uint8] = interpolate(batch, (height, width), mode=resample, antialias=True)[0].numpy()
    return resized


def _resized(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Width and height before the crop: at least those of the crop."""
    if not spec.resize_shorter:
        return spec.width, spec.height
    shorter = min(size)
    width, height = (spec.resize_shorter * side // shorter for side in size)  # rounded down, as torchvision does
    return max(width, spec.width), max(height, spec.height)


def preprocess_all(images: Sequence[Image.Image], spec: ImageSpec) -> tuple[Tensor, tuple[Placement, ...]]:
    """Photographs as one batch [N, C, height, width] float32, and where each sample lies on its photograph."""
    arrays, placements = zip(*(preprocess(image, spec) for image in images), strict=True)
    return torch.from_numpy(np.stack(arrays)), placements


def sample_picture(spec: ImageSpec) -> Image.Image:
    """A picture with all there is, always the same: pixels of every value at random."""
    pixels = np.random.default_rng(0).integers(256, size=(spec.height, spec.width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _without_alpha(image: Image.Image) -> Image.Image:
    """Transparent pixels as white paper shows them: what a drawing program displays."""
    if image.mode.startswith("I;16"):  # 16-bit gray PNG: Pillow's own conversion clips instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)


def _border(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([pixels[0].ravel(), pixels[-1].ravel(), pixels[:, 0].ravel(), pixels[:, -1].ravel()])
