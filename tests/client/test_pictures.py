"""Pictures: a map lands where its placement says, values get the colours they should, and every shape can be drawn."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cutaway import Affine, pictures


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def brightness(picture: Image.Image) -> np.ndarray:
    return pixels(picture).sum(axis=2)


CROP = Affine(scale_x=20, scale_y=20, offset_x=50, offset_y=0)  # 5 x 5 cells on the middle 100 columns of 200 x 100


@given(st.integers(0, 4), st.integers(0, 4))
def test_a_hot_cell_lands_on_its_pixels(row, column):
    values = np.zeros((5, 5), np.float32)
    values[row, column] = 3

    heat = pictures.spread(values, CROP, 200, 100)

    y, x = 20 * row + 10, 50 + 20 * column + 10  # the cell's centre, a corner of four pixels
    hottest = heat.values[y - 1 : y + 1, x - 1 : x + 1]
    assert heat.values.shape == (100, 200)
    assert hottest.min() >= 0.95 * heat.values.max()
    warm = np.argwhere((heat.values > 0) & heat.inside)
    assert (abs(warm + 0.5 - [y, x]) < 20).all()  # it ends at the centres of its neighbours


def test_what_was_cropped_away_lies_outside():
    inside = pictures.spread(np.ones((5, 5)), CROP, 200, 100).inside
    expected = np.zeros((100, 200), bool)
    expected[:, 50:150] = True
    np.testing.assert_array_equal(inside, expected)


def test_bilinear_between_centres_by_hand():
    heat = pictures.spread(np.array([[0.0, 8.0]]), Affine(4, 4, 0, 0), 8, 4)
    # centres at 2 and 6; pixel centres at 0.5, 1.5 … 7.5
    np.testing.assert_allclose(heat.values[0], [0, 0, 1, 3, 5, 7, 8, 8])
    assert heat.inside.all()


@given(st.floats(0.5, 30), st.floats(0.5, 30), st.floats(-40, 40), st.floats(-40, 40), st.integers(1, 9), st.integers(1, 9))
def test_any_placement_matches_the_formula(scale_x, scale_y, offset_x, offset_y, height, width):
    values = np.random.default_rng(0).random((height, width))
    heat = pictures.spread(values, Affine(scale_x, scale_y, offset_x, offset_y), 23, 17)
    for y, x in ((0, 0), (16, 22), (8, 11)):
        u, v = (x + 0.5 - offset_x) / scale_x, (y + 0.5 - offset_y) / scale_y
        assert heat.inside[y, x] == (0 <= u < width and 0 <= v < height)
        if heat.inside[y, x]:
            across, down = np.clip(u - 0.5, 0, width - 1), np.clip(v - 0.5, 0, height - 1)
            row = [np.interp(across, range(width), line) for line in values]
            assert heat.values[y, x] == pytest.approx(np.interp(down, range(height), row))


def test_zoom_moves_nothing():
    values = np.random.default_rng(1).random((7, 7))
    small = pictures.spread(values, Affine(4, 4, 0, 0), 28, 28).values
    large = pictures.spread(values, Affine(4, 4, 0, 0), 28, 28, zoom=10).values
    assert large.shape == (280, 280)
    np.testing.assert_allclose(large.reshape(28, 10, 28, 10).mean((1, 3)), small, atol=0.02)


def test_overlay_glows_where_the_network_looked():
    gray = Image.new("L", (400, 200), 90)
    values = np.zeros((5, 5))
    values[1, 3] = 1
    drawn = brightness(pictures.overlay(gray, values, Affine(40, 40, 100, 0)))
    assert drawn.shape == (200, 400)
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (abs(x - 240) <= 1, abs(y - 60) <= 1) == (True, True)
    assert (drawn[:, :100] < 3 * 90).all()  # never seen: darker
    assert (drawn[150:, 100:200] == 3 * 90).all()  # seen and cold: as it was


def test_all_colour_on_an_overlay_is_heat():
    orange = Image.new("RGB", (400, 200), (255, 140, 20))
    values = np.zeros((5, 5))
    values[1, 3] = 1
    drawn = pixels(pictures.overlay(orange, values, Affine(40, 40, 100, 0)))
    coloured = np.ptp(drawn, axis=2) > 10
    assert coloured[60, 240]
    assert not coloured[:, :100].any()  # never seen
    assert not coloured[150:, 100:200].any()  # cold


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_overlay_by_its_formula(dtype):
    draw = np.random.default_rng(3)
    photograph = Image.fromarray(draw.integers(0, 256, (300, 400, 3), np.uint8))
    values = (draw.standard_normal((7, 6)) * 5).astype(dtype)
    place = Affine(40, 30, 110, 20)

    heat = pictures.spread(values.astype(np.float64), place, 400, 300)
    warmth = np.where(heat.inside, heat.values.astype(np.float64).clip(0, values.max()) / values.max(), 0)
    cover = 0.8 * warmth[..., None] ** 0.7
    mixed = pixels(photograph.convert("L").convert("RGB")) * (1 - cover) + pictures.colours((warmth + 0.15) / 1.15, 1) * cover
    mixed[~heat.inside] *= 0.35

    apart = abs(pixels(pictures.overlay(photograph, values, place)) - mixed)
    assert apart.mean() < 0.5
    assert apart.max() < 6  # where a colour lies on the edge between two


def test_a_cell_that_is_not_finite_glows_or_not_and_spoils_no_other():
    gray = Image.new("L", (300, 300), 90)
    for broken, glows in ((np.nan, False), (-np.inf, False), (np.inf, True)):
        values = np.array([[1, 0, 0], [0, 0, 0], [0, 0, broken]])
        drawn = brightness(pictures.overlay(gray, values, Affine(100, 100, 0, 0)))
        assert drawn[50, 50] > 3 * 90
        assert (drawn[250, 250] > 3 * 90) == glows


def test_overlay_enlarges_a_digit():
    assert pictures.overlay(Image.new("L", (28, 28)), np.ones((3, 3)), Affine(28 / 3, 28 / 3, 0, 0)).size == (280, 280)


@pytest.mark.parametrize("values", [np.zeros((3, 3)), -np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_nothing_glows_where_nothing_speaks_for_the_class(values):
    gray = Image.new("L", (300, 300), 90)
    assert (pixels(pictures.overlay(gray, values, Affine(100, 100, 0, 0))) == 90).all()


def test_heat_is_the_map_enlarged_in_its_colours():
    drawn = pixels(pictures.heat(np.array([[0.0, 8.0], [-8.0, 0.0]]), 40, 20))
    assert drawn.shape == (20, 40, 3)
    for (row, column), value in {(0, 0): 0, (0, -1): 8, (-1, 0): -8, (-1, -1): 0}.items():
        assert drawn[row, column].tolist() == pictures.colours(np.array(value), 8).tolist()
    assert (np.diff(drawn[0].sum(axis=1)) >= 0).all()  # from black to the glow without a step back
    assert (pixels(pictures.heat(np.zeros((3, 3)), 9, 9)) == pictures.colours(np.array(0), 1)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_heat_marks_what_is_not_finite(broken):
    drawn = pixels(pictures.heat(np.array([[broken, 1, 1, 1]]), 40, 10))
    assert (drawn[:, 5] == pictures.NOT_FINITE).all()
    assert (drawn[:, 20:] == pictures.colours(np.array(1.0), 1)).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3))
def test_png_holds_every_pixel(width, height, noise):
    drawn = np.random.default_rng(noise).integers(0, 256, (height, width, 3), np.uint8) // (1 + 60 * noise)
    with Image.open(io.BytesIO(pictures.png(Image.fromarray(drawn)))) as read:
        assert read.format == "PNG"
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read), drawn)


def test_png_of_any_mode_is_rgb():
    with Image.open(io.BytesIO(pictures.png(Image.new("L", (3, 2), 7)))) as read:
        assert np.asarray(read).tolist() == [[[7] * 3] * 3] * 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_photographs_of_any_mode(mode):
    assert pictures.overlay(Image.new(mode, (300, 300)), np.ones((2, 2)), Affine(150, 150, 0, 0)).mode == "RGB"


def test_sixteen_bits_become_eight():
    deep = Image.fromarray(np.full((2, 2), 0x80FF, np.uint16))
    assert pixels(pictures.rgb(deep)).tolist() == [[[0x80] * 3] * 2] * 2


def test_zero_is_black_above_glows_and_below_is_blue():
    below, zero, above, nan, infinite = pictures.colours(np.array([-1.5, 0.0, 3.0, np.nan, np.inf]), 3).astype(int)
    assert zero.sum() < 10
    assert below[2] > 2 * below[0]
    assert above[0] > 200
    assert nan.tolist() == infinite.tolist() == list(pictures.NOT_FINITE)


def test_a_grid_keeps_channels_in_order_and_pixels_square():
    channels = np.zeros((6, 4, 4))
    channels[4, 0, 3] = 1  # row 1, column 1 of 3; top right pixel of its tile
    drawn = pixels(pictures.grid(channels, columns=3))
    tile = (drawn.shape[1] - 2 * pictures.GAP) // 3
    hot = np.argwhere((drawn == pictures.colours(np.array(1.0), 1)).all(axis=2))
    top, left = tile + pictures.GAP, tile + pictures.GAP + tile * 3 // 4
    assert hot.min(axis=0).tolist() == [top, left]
    assert hot.max(axis=0).tolist() == [top + tile // 4 - 1, left + tile // 4 - 1]


VECTORS = [(), (0,), (1,), (10,), (50,), (1000,)]
PLANES = [(7, 9), (1, 7, 7), (10, 24, 24), (512, 7, 7), (3, 300, 200), (64, 1, 1), (3, 1, 900)]
ODD = [(2, 3, 4, 5), (4, 0, 3), (1, 1, 1, 1, 1)]


@pytest.mark.parametrize("shape", VECTORS + PLANES + ODD)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_every_shape_can_be_drawn(shape, dtype):
    values = (np.random.default_rng(2).random(shape) * 9).astype(dtype)
    drawn = pictures.captioned(pictures.activation(values), "conv1", pictures.range_text(values), values)
    assert drawn.width < 2500
    assert drawn.height < 2500


def test_bars_stand_on_the_zero_line():
    drawn = (pixels(pictures.bars(np.array([1.0, -1.0]))) != pictures.GROUND).any(axis=2)
    assert drawn[20, 10]  # the first goes up
    assert not drawn[100, 10]
    assert drawn[100, 58]  # the second down
    assert not drawn[20, 58]


def test_what_is_not_finite_is_counted():
    assert pictures.range_text(np.array([1.0, np.nan, 3.0])) == "1 .. 3, 1 not finite"
    assert pictures.range_text(np.array([np.nan])) == "0 .. 0, 1 not finite"


def test_sheets_hold_all_they_were_given():
    cells = [(Image.new("RGB", (50, 40), (200, 0, 0)), f"digit {index}\nsecond line") for index in range(5)]
    drawn = pixels(pictures.sheet(cells, 2, "title", "note"))
    assert ((drawn == [200, 0, 0]).all(axis=2)).sum() == 5 * 50 * 40
    rows = [("conv1", "Conv2d", image) for image, _ in cells]
    drawn = pixels(pictures.poster(rows, "title"))
    assert ((drawn == [200, 0, 0]).all(axis=2)).sum() == 5 * 50 * 40
