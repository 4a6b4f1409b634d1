"""Pictures of what was seen inside a network: numpy arrays in, PIL images out, no file and no network touched.

One language of colour throughout: black is 0, what glows is above it, what is blue is below. Both ways the colours come
from perceptually uniform maps: twice the step in the value looks like twice the step in the colour.
"""

import io
import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cutaway._events import Affine
from cutaway._tensors import Array

GROUND = (17, 19, 24)
INK = (236, 238, 242)
FAINT = (150, 156, 168)
NOT_FINITE = (255, 0, 170)  # in no colour map used here

GAP = 4
MARGIN = 20
TEXT = 15
TITLE = 24
WIDTH = 1024  # pixels that a grid or a row of bars is fitted to
TILE = 128  # a small channel is enlarged up to this edge
LARGEST_TILE = 256  # a large one is reduced to this edge
MOST_CHANNELS = 256
MOST_BARS = 500
SMALLEST_PHOTOGRAPH = 280  # a smaller one is enlarged, so that a digit of 28 x 28 can be seen

Pixels = NDArray[np.uint8]


# --- values to colours ---


@lru_cache
def _table() -> Pixels:
    """511 colours: the 256th, black, stands for 0; from there what is positive glows and what is negative is blue."""
    import cmap  # here: servers that paint nothing need none of it

    glow = cmap.Colormap("inferno").lut(256)
    blue = cmap.Colormap("oslo").lut(340)[255:0:-1]  # its last quarter is nearly white, as the end of the glow is
    return (np.concatenate([blue, glow])[:, :3] * 255).round().astype(np.uint8)


def colours(values: Array, extent: float) -> Pixels:
    """Values of any shape as colours, [..., 3]: from -extent over 0, which is black, to extent."""
    finite = np.isfinite(values)
    share = np.divide(values, extent or 1.0, out=np.zeros(values.shape, np.float32), where=finite)
    painted: Pixels = _table()[(share.clip(-1, 1) * 255 + 255.5).astype(np.uint16)]
    painted[~finite] = NOT_FINITE
    return painted


def extent_of(values: Array) -> float:
    """The largest finite absolute value; 0 where there is none."""
    low, high = value_span(values)
    return max(-low, high)


def value_span(values: Array) -> tuple[float, float]:
    """Smallest and largest finite value; (0, 0) where there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


# --- one layer ---


def activation(values: Array) -> Image.Image:
    """What one sample made of one layer, at a glance, all of it on one colour scale.

    Args:
        values: without the batch axis. [C, H, W]: a grid of channels. [H, W]: one heat map. [C] or [C, 1, 1]: bars.
            More axes: the leading ones are taken as channels.
    """
    if values.size == 0:
        return _text_image("no elements")
    if is_vector(values):
        return bars(values.reshape(-1))
    return grid(values.reshape(-1, *values.shape[-2:]))


def is_vector(values: Array) -> bool:
    """Whether it is drawn as bars: no more than one axis has a size above 1, and that is the first."""
    return values.shape[1:] == (1,) * (values.ndim - 1)


def grid(channels: Array, columns: int | None = None) -> Image.Image:
    """Channels [C, H, W] as tiles, in rows from the top left; where there are more than 256, the first of them."""
    shown = channels[:MOST_CHANNELS]
    count, height, width = shown.shape
    columns = columns or _columns(count, height / width)
    zoom = _zoom(width, height, columns)
    extent = extent_of(channels)
    tiles = [enlarged(Image.fromarray(colours(channel, extent)), zoom) for channel in shown]
    table = _table_of(tiles, min(columns, count), GAP)
    hidden = len(channels) - count
    return _table_of([table, _text_image(f"and {hidden} more channels")], 1, GAP) if hidden else table


def _columns(count: int, aspect: float) -> int:
    """As many columns as make the grid about twice as wide as high, with the fewest holes in its last row."""
    ideal = math.sqrt(2 * count * aspect)
    fitting = range(max(1, round(ideal * 0.75)), min(count, round(ideal * 1.6)) + 1) or range(count, count + 1)
    return min(fitting, key=lambda columns: (-count % columns, abs(columns - ideal)))


def _zoom(width: int, height: int, columns: int) -> float:
    """A whole number for what is enlarged, a fraction for what is reduced."""
    edge = max(width, height)
    if edge > LARGEST_TILE:
        return LARGEST_TILE / edge
    return max(1, min((TILE if columns > 1 else WIDTH // 2) // edge, WIDTH // (columns * width)))


def enlarged(image: Image.Image, zoom: float) -> Image.Image:
    """Enlarged with nearest neighbour, so that a pixel stays a square; below 1 reduced by averages."""
    size = max(1, round(image.width * zoom)), max(1, round(image.height * zoom))
    return image.resize(size, Image.Resampling.NEAREST if zoom >= 1 else Image.Resampling.BOX)


def bars(values: Array) -> Image.Image:
    """A vector [C] as bars from a zero line, with indices below; a long one (over 500) as a heat map in rows of 128."""
    if len(values) > MOST_BARS:
        return grid(np.pad(values, (0, -len(values) % 128)).reshape(1, -1, 128))
    numbers = np.where(np.isfinite(values), values, 0).astype(np.float64)
    pitch = min(48, WIDTH // len(values))
    plot, foot = 120, TEXT + 10
    low, high = min(0.0, float(numbers.min())), max(0.0, float(numbers.max()))
    unit = plot / ((high - low) or 1.0)
    image = Image.new("RGB", (pitch * len(values), plot + foot), GROUND)
    draw = ImageDraw.Draw(image)
    zero = high * unit
    every = -(-math.ceil(_font(TEXT - 2).getlength(f"{len(values)}    ")) // pitch)
    for index, (number, colour) in enumerate(zip(numbers, colours(np.sign(numbers), 1.4), strict=True)):
        left, right = index * pitch, (index + 1) * pitch - max(1, pitch // 6) - 1
        top, bottom = sorted((zero, zero - number * unit))
        draw.rectangle((left, top, right, max(bottom, top + 1)), fill=tuple(colour.tolist()))
        if index % every == 0:
            draw.text((max(left + right, TEXT) / 2, plot + 5), str(index), FAINT, _font(TEXT - 2), anchor="ma")
    draw.line((0, zero, image.width, zero), fill=FAINT)
    return image


# --- a map on a photograph ---


class Heat(NamedTuple):
    """A map spread over a photograph."""

    values: NDArray[np.float32]
    """[H, W], bilinear between the centres of the cells."""
    inside: NDArray[np.bool_]
    """[H, W]: where the map lies; the rest was cropped away before the network saw it."""


def spread(values: Array, placement: Affine, width: int, height: int, zoom: float = 1) -> Heat:
    """A map [h, w] where the placement says on a photograph of width x height pixels, enlarged by zoom."""
    x, x_inside = _map_coordinates(round(width * zoom), zoom, placement.scale_x, placement.offset_x, values.shape[1])
    y, y_inside = _map_coordinates(round(height * zoom), zoom, placement.scale_y, placement.offset_y, values.shape[0])
    rows = np.ascontiguousarray(_between(values.astype(np.float32).T, x).T)  # a map's few rows first
    return Heat(_between(rows, y), y_inside[:, None] & x_inside[None, :])


def _map_coordinates(
    pixels: int, zoom: float, scale: float, offset: float, cells: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """For each pixel's centre along one axis where it falls on the map, in cell centres, and whether it does."""
    position = ((np.arange(pixels) + 0.5) / zoom - offset) / scale
    return (position - 0.5).clip(0, cells - 1), (position >= 0) & (position < cells)


def _between(values: NDArray[np.float32], position: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of values at fractional positions along the first axis."""
    first = np.floor(position).astype(int)
    second = np.minimum(first + 1, len(values) - 1)
    weight = (position - first)[:, None]
    with np.errstate(invalid="ignore"):  # infinity with a weight of 0 is no number, and is drawn as one that is not finite
        mixed: NDArray[np.float32] = values[first] * (1 - weight).astype(np.float32)
        mixed += values[second] * weight.astype(np.float32)
    return mixed


def overlay(photograph: Image.Image, values: Array, placement: Affine, smallest: int = SMALLEST_PHOTOGRAPH) -> Image.Image:
    """A map [h, w] on the photograph as it was sent: the hotter, the less of the photograph shows through.

    The photograph is gray, so that all colour is heat. What speaks for the class, from 0 to the map's largest value, glows; what
    speaks against it (below 0) does not. Parts of the photograph that the network never saw are darkened. Where its longer side is
    below `smallest` pixels, it is enlarged.
    """
    zoom = max(1, math.ceil(smallest / max(photograph.size)))
    ground = enlarged(rgb(photograph).convert("L").convert("RGB"), zoom)
    top = max(value_span(values)[1], 0.0) or 1.0
    warmth = spread(np.nan_to_num(values / top, posinf=1, neginf=0), placement, *photograph.size, zoom=zoom)
    level = (warmth.values.clip(0, 1) * (_LEVELS - 1) + 0.5).astype(np.uint16)
    glow = Image.fromarray(_glow()[level].view(np.uint8).reshape(*level.shape, 4))
    unseen = ground.point([round(0.35 * value) for value in range(256)] * 3)
    ground.paste(glow, None, glow)
    return Image.composite(ground, unseen, Image.fromarray(warmth.inside))


_LEVELS = 4096  # of warmth: with the 256 of a byte the edge of a glow would be a step


@lru_cache
def _glow() -> NDArray[np.uint32]:
    """For each level of warmth its colour and how much of it covers a photograph, as the four bytes RGBA of a pixel."""
    warmth = np.linspace(0, 1, _LEVELS)
    colour = colours((warmth + 0.15) / 1.15, 1)  # not from black, which would dim what is hardly warm
    cover = (255 * 0.8 * warmth**0.7).round().astype(np.uint8)
    return np.column_stack([colour, cover]).view(np.uint32)[:, 0]


def heat(values: Array, width: int, height: int) -> Image.Image:
    """A map [h, w] by itself, of width x height pixels, bilinear between the centres of its cells."""
    whole = Affine(width / values.shape[1], height / values.shape[0], 0, 0)
    return Image.fromarray(colours(spread(values, whole, width, height).values, extent_of(values)))


def rgb(photograph: Image.Image) -> Image.Image:
    """A photograph of any mode as RGB; 16-bit gray is brought to 8 bits."""
    if photograph.mode.startswith("I"):
        photograph = Image.fromarray((np.asarray(photograph).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return photograph.convert("RGB")


def png(image: Image.Image) -> bytes:
    """A picture as a PNG file in RGB, compressed little and fast: it is made to be sent at once."""
    file = io.BytesIO()
    rgb(image).save(file, "PNG", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    return file.getvalue()


# --- sheets ---


def captioned(image: Image.Image, title: str, note: str, values: Array | None = None) -> Image.Image:
    """An image with its title and a line of explanation above, and below, if given, what its colours say of values."""
    if values is not None:
        image = _table_of([image, _legend(values)], 1, GAP * 3)
    return _framed(image, title, note)


def _legend(values: Array) -> Image.Image:
    """The colours that occur, with the values at both ends."""
    extent = extent_of(values) or 1.0
    low = -extent if value_span(values)[0] < 0 else 0.0
    left, right = f"{low:.3g}  ", f"  {extent:.3g}"
    start, band = math.ceil(_font(TEXT).getlength(left)), 200
    image = Image.new("RGB", (start + band + math.ceil(_font(TEXT).getlength(right)), TEXT + 6), GROUND)
    ramp = colours(np.tile(np.linspace(low, extent, band), (TEXT, 1)), extent)
    image.paste(Image.fromarray(ramp), (start, 3))
    draw = ImageDraw.Draw(image)
    draw.text((0, 1), left, FAINT, _font(TEXT))
    draw.text((start + band, 1), right, FAINT, _font(TEXT))
    return image


def sheet(cells: Sequence[tuple[Image.Image, str]], columns: int, title: str = "", note: str = "") -> Image.Image:
    """Images with captions as a table of equal cells, below a title and a line that says how to read it."""
    table = _table_of([_cell(image, caption) for image, caption in cells], columns, GAP * 3)
    return _framed(table, title, note)


def poster(rows: Sequence[tuple[str, str, Image.Image]], title: str, note: str = "") -> Image.Image:
    """Rows of heading, lines of explanation and image, one below the other."""
    head = TEXT + 5
    aside = 40 + max(math.ceil(max(_font(head).getlength(name), _text_size(text)[0])) for name, text, _ in rows)
    heights = [max(image.height, head + 8 + _text_size(text)[1]) + MARGIN for _, text, image in rows]
    width = aside + max(image.width for *_, image in rows)
    table = Image.new("RGB", (width, sum(heights) - MARGIN), GROUND)
    draw, top = ImageDraw.Draw(table), 0
    for (name, text, image), height in zip(rows, heights, strict=True):
        draw.text((0, top), name, INK, _font(head))
        draw.multiline_text((0, top + head + 8), text, FAINT, _font(TEXT), spacing=6)
        table.paste(image, (aside, top))
        top += height
    return _framed(table, title, note)


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """Images side by side."""
    return _table_of(images, len(images), GAP)


def shape_text(shape: Sequence[object]) -> str:
    """(10, 24, 24) as "10 x 24 x 24"; a scalar as "one number"."""
    return " x ".join(map(str, shape)) or "one number"


def range_text(values: Array) -> str:
    """Smallest and largest value, and how many are not finite."""
    low, high = value_span(values)
    broken = int(values.size - np.isfinite(values).sum())
    return f"{low:.3g} .. {high:.3g}" + (f", {broken} not finite" if broken else "")


def _cell(image: Image.Image, caption: str) -> Image.Image:
    width, height = _text_size(caption)
    cell = Image.new("RGB", (max(image.width, width), image.height + height + 8), GROUND)
    cell.paste(image, ((cell.width - image.width) // 2, 0))
    place = (cell.width / 2, image.height + 8)
    ImageDraw.Draw(cell).multiline_text(place, caption, INK, _font(TEXT), anchor="ma", spacing=6, align="center")
    return cell


def _table_of(images: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    """Images in equal columns, each row as high as its highest."""
    width = max(image.width for image in images)
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(image.height for image in row) for row in rows]
    table = Image.new("RGB", (columns * (width + gap) - gap, sum(heights) + gap * (len(rows) - 1)), GROUND)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            table.paste(image, (column * (width + gap) + (width - image.width) // 2, top))
        top += height + gap
    return table


def _framed(image: Image.Image, title: str, note: str) -> Image.Image:
    heading = [(title, _font(TITLE), INK), (note, _font(TEXT), FAINT)]
    lines = [(text, font, ink, font.getbbox(text)) for text, font, ink in heading if text]
    width = max([image.width, *(math.ceil(box[2]) for *_, box in lines)])
    head = sum(math.ceil(font.size * 1.5) for _, font, _, _ in lines) + (MARGIN if lines else 0)
    framed = Image.new("RGB", (width + 2 * MARGIN, head + image.height + 2 * MARGIN), GROUND)
    draw, top = ImageDraw.Draw(framed), MARGIN
    for text, font, ink, _ in lines:
        draw.text((MARGIN, top), text, ink, font)
        top += math.ceil(font.size * 1.5)
    framed.paste(image, (MARGIN, head + MARGIN))
    return framed


def _text_image(text: str) -> Image.Image:
    width, height = _text_size(text)
    image = Image.new("RGB", (width + 8, height + 8), GROUND)
    ImageDraw.Draw(image).text((4, 2), text, FAINT, _font(TEXT))
    return image


def _text_size(text: str) -> tuple[int, int]:
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, right, bottom = measure.multiline_textbbox((0, 0), text, _font(TEXT), spacing=6)
    return math.ceil(right), math.ceil(bottom) + 4


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which has Latin letters; with a size given it is never the bitmap one."""
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))
