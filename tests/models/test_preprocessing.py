"""Photographs become what torchvision's presets make of them; every setting is what it says; every map finds its way back."""

import io
from dataclasses import replace
from importlib.resources import files
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import torchvision_shim  # noqa: F401  # before torchvision itself
from cutaway_server.models.preprocessing import ImageSpec, open_image, preprocess
from cutaway_server.models.presets import PRESETS

PHOTOGRAPHS = ("chelsea.jpg", "coffee.jpg")
LEVELS = {"bilinear": 1, "bicubic": 2}  # of 255: what a pixel may differ from Pillow's
SIZES = [(451, 300), (300, 451), (256, 256), (257, 1031), (40, 60), (225, 224), (1999, 333)]


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth shapes and noise, as photographs have."""
    width, height = size
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 17 + phase) * np.cos(y / 23 - phase) for phase in (0.0, 1.0, 2.0)], axis=-1)
    return Image.fromarray(np.clip(127 + 90 * waves + draw.normal(0, 20, waves.shape), 0, 255).astype(np.uint8))


def torchvisions(image: Image.Image, crop: int, resize: int) -> np.ndarray:
    from torchvision.transforms._presets import ImageClassification

    return ImageClassification(crop_size=crop, resize_size=resize)(image).numpy()


def as_they_are(size: tuple[int, int], **settings: object) -> ImageSpec:
    """Pixels of 0 to 255, no crop."""
    plain = ImageSpec("rgb", size[1], size[0], 0, "bilinear", (0.0,) * 3, (1.0,) * 3, range=(0.0, 255.0))
    return replace(plain, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
def test_imagenet_is_torchvisions(size: tuple[int, int]) -> None:
    image = photograph(size)
    ours, _ = preprocess(image, PRESETS["imagenet"])
    np.testing.assert_allclose(ours, torchvisions(image, 224, 256), atol=LEVELS["bilinear"] / 255 / 0.224 + 1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_inception_is_torchvisions_with_its_networks_own_transform(size: tuple[int, int]) -> None:
    from torchvision.models import Inception3

    image = photograph(size)
    network = Inception3(aux_logits=False, transform_input=True, init_weights=False)
    ours, _ = preprocess(image, PRESETS["inception"])
    theirs = network._transform_input(torch.from_numpy(torchvisions(image, 299, 342))[None])[0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=LEVELS["bilinear"] / 255 / 0.5 + 2e-6)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("resample", LEVELS)
def test_a_photograph_is_pillows(name: str, turned: bool, resample: Literal["bilinear", "bicubic"]) -> None:
    """All of it decoded by Pillow, its rows resized first and then its columns."""
    data = files("cutaway.cli").joinpath("photographs", name).read_bytes()
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    opened = open_image(data, "x", 10**6)
    if turned:
        whole, opened = (picture.transpose(Image.Transpose.ROTATE_90) for picture in (whole, opened))
    width, height = (256 * side // min(whole.size) for side in whole.size)
    ours, _ = preprocess(opened, as_they_are((width, height), resample=resample))
    filtered = Image.Resampling[resample.upper()]
    theirs = whole.resize((width, whole.height), filtered).resize((width, height), filtered)
    differences = np.abs(ours.transpose(1, 2, 0) - np.asarray(theirs, np.float32))
    assert differences.max() <= LEVELS[resample]
    assert differences.mean() < 0.01


def test_colours_range_and_moments() -> None:
    image = photograph((64, 48))
    spec = ImageSpec("rgb", 48, 64, 0, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), range=(0.0, 255.0))
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess(image, spec)[0], pixels)
    np.testing.assert_array_equal(preprocess(image, replace(spec, color="bgr"))[0], pixels[::-1])
    moved = preprocess(image, replace(spec, range=(-1.0, 1.0)))[0]
    np.testing.assert_allclose(moved, pixels / 127.5 - 1, atol=1e-6)
    scaled = preprocess(image, replace(spec, mean=(127.0, 0.0, 1.0), std=(128.0, 2.0, 4.0)))[0]
    expected = (pixels - np.array([127, 0, 1], np.float32)[:, None, None]) / np.array([128, 2, 4], np.float32)[:, None, None]
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


def pictures_of_all_kinds() -> dict[str, tuple[Image.Image, Image.Image]]:
    """Pictures of several strips, and what they look like on white paper."""
    colours = photograph((421, 700))
    gray = colours.convert("L")
    found = {
        mode: (colours.convert(mode), colours.convert(mode).convert("RGB")) for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr")
    }
    alpha = Image.linear_gradient("L").resize(colours.size)
    for mode, opaque in (("RGBA", colours), ("LA", gray)):
        picture = opaque.convert(mode)
        picture.putalpha(alpha)
        white = Image.new("RGBA", picture.size, "white")
        found[mode] = picture, Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    palette = colours.convert("P")
    palette.info["transparency"] = 0
    pixels = np.asarray(palette.convert("RGB")).copy()
    pixels[np.asarray(palette) == 0] = 255
    found["P with a transparent colour"] = palette, Image.fromarray(pixels)
    sixteen = Image.fromarray(np.asarray(gray).astype(np.uint16) * 256 + 255)
    return found | {sixteen.mode: (sixteen, gray.convert("RGB"))}


@pytest.mark.parametrize(("picture", "paper"), [pytest.param(*pair, id=kind) for kind, pair in pictures_of_all_kinds().items()])
def test_pictures_of_all_kinds(picture: Image.Image, paper: Image.Image) -> None:
    ours, _ = preprocess(picture, as_they_are(picture.size))
    np.testing.assert_array_equal(ours.transpose(1, 2, 0), np.asarray(paper, np.float32))
    gray, _ = preprocess(picture, as_they_are(picture.size, color="gray", mean=(0.0,), std=(1.0,)))
    assert np.abs(gray[0] - np.asarray(paper.convert("L"), np.float32)).max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_without_a_crop_all_of_it_is_there(size: tuple[int, int]) -> None:
    image = photograph(size)
    spec = replace(PRESETS["imagenet"], resize_shorter=0, height=50, width=70, mean=(0.0,) * 3, std=(1.0,) * 3)
    ours, placement = preprocess(image, spec)
    theirs = np.asarray(image.resize((70, 50), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(ours, theirs, atol=LEVELS["bilinear"] / 255 + 1e-6)
    assert placement == pytest.approx((size[0] / 70, size[1] / 50, 0, 0))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(451, 300), (300, 451), (640, 639), (97, 1200)])
def test_the_placement_leads_back_to_the_photograph(preset: str, size: tuple[int, int]) -> None:
    """A bright square is found where the map says that it was."""
    spec = replace(PRESETS[preset], invert_bright_background=False)
    side = min(size) // 6
    left, top = size[0] // 2 - side, size[1] // 2 - side
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[top : top + side, left : left + side] = 255
    ready, placement = preprocess(Image.fromarray(pixels), spec)
    rows, columns = np.nonzero(ready[0] > (ready[0].max() + ready[0].min()) / 2)
    found_left, found_top = (
        placement.scale_x * columns.min() + placement.offset_x,
        placement.scale_y * rows.min() + placement.offset_y,
    )
    assert found_left == pytest.approx(left, abs=1.01 * placement.scale_x)
    assert found_top == pytest.approx(top, abs=1.01 * placement.scale_y)
