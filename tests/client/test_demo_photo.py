"""`cutaway demo photo`, run as a user runs it: what a network trained on ImageNet says of two photographs, and where it looked."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cutaway
from cutaway.cli import demo_photo
from server_process import ServerProcess, run_server

PHOTOGRAPHS = Path(demo_photo.__file__).with_name("photographs")
PICTURES = [f"{what}-{name}.png" for name in ("chelsea", "coffee") for what in ("where-it-looked", "inside")]


def demo(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cutaway", "demo", "photo"]
    whole = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which it ran, and what it said."""
    folder = tmp_path_factory.mktemp("photo")
    ended = demo(folder)
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout.splitlines()


@pytest.fixture(scope="module")
def served(shown: tuple[Path, list[str]]) -> Iterator[ServerProcess]:
    """A server of the folder of models that it wrote."""
    with run_server("--models", str(shown[0] / "demo/models"), "--allow-factory", demo_photo.FACTORY, "--threads", "1") as running:
        yield running


def said_of(lines: list[str], name: str) -> list[str]:
    """The labels of the best classes, best first."""
    start = lines.index(f"{name}:") + 1
    return [line.strip().rpartition(" (")[0] for line in lines[start : start + 5]]


def test_it_knows_the_cat(shown: tuple[Path, list[str]]) -> None:
    assert {"tiger cat", "Egyptian cat", "tabby, tabby cat"} == set(said_of(shown[1], "chelsea")[:3])


def test_it_knows_the_coffee(shown: tuple[Path, list[str]]) -> None:
    assert said_of(shown[1], "coffee")[0] == "espresso"


def test_every_picture_it_names_is_one(shown: tuple[Path, list[str]]) -> None:
    folder, lines = shown
    assert [line.strip() for line in lines[-4:]] == [f"demo/{name}" for name in PICTURES]
    for name in PICTURES:
        with Image.open(folder / "demo" / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 400
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 200  # no empty sheet


# What the photographs show, by eye, in their own pixels: (left, top, right, bottom).
FACE = (110, 70, 345, 265)  # the cat's: both eyes, the cheek beside them, the nose; of 451 x 300
COFFEE = (195, 85, 375, 205)  # in the cup; of 600 x 400


@pytest.mark.parametrize(("name", "place"), [("chelsea.jpg", FACE), ("coffee.jpg", COFFEE)])
def test_it_looked_at_what_it_names(served: ServerProcess, name: str, place: tuple[int, int, int, int]) -> None:
    """The centre of the hottest of 7 x 7 cells.

    Here that is row 3, column 1 for the cat, under the eye on the left, and row 2 or 3, column 3 for the coffee. Other kernels, or
    another decoder of JPEG, may let a neighbour win: it is on the face all the same.
    """
    data = (PHOTOGRAPHS / name).read_bytes()
    cams = [cutaway.Cam("grad-cam"), cutaway.Cam("cam"), cutaway.Cam("grad-cam", "_conv_head")]
    with cutaway.Client(served.address, timeout=60) as client:
        seen = client.introspect(demo_photo.MODEL, [data], cams=cams)
    left, top, right, bottom = place
    for cam in seen.cams:
        (heat,), (lies,) = cam.map, cam.placement
        assert heat.shape == (7, 7)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        x, y = lies.scale_x * (column + 0.5) + lies.offset_x, lies.scale_y * (row + 0.5) + lies.offset_y
        assert (left < x < right, top < y < bottom) == (True, True), (cam.method, cam.layer, x, y)


def test_the_cams_agree_where_they_must(served: ServerProcess) -> None:
    """The network ends in a global average and one linear layer, where Grad-CAM is the class activation map but for a factor."""
    data = (PHOTOGRAPHS / "chelsea.jpg").read_bytes()
    with cutaway.Client(served.address, timeout=60) as client:
        gradient, classic = client.introspect(demo_photo.MODEL, [data], cams=[cutaway.Cam("grad-cam"), cutaway.Cam("cam")]).cams
    np.testing.assert_allclose(gradient.map / gradient.map.max(), classic.map / classic.map.max(), atol=1e-4)


def test_without_the_packages_it_says_what_to_install(tmp_path: Path) -> None:
    """As in an environment without them: their metadata cannot be found."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.metadata import DistributionFinder, MetadataPathFinder\n"
        "whole = MetadataPathFinder.find_distributions\n"
        "def without(context=DistributionFinder.Context()):\n"
        "    return (found for found in whole(context) if not (found.name or '').startswith('efficientnet'))\n"
        "MetadataPathFinder.find_distributions = without\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = demo(tmp_path, PYTHONPATH=path)
    assert ended.returncode == 1
    assert f"pip install --no-deps {' '.join(demo_photo.PACKAGES)}" in " ".join(ended.stderr.split())
    assert not (tmp_path / "demo").exists()


def test_the_packages_are_named_once() -> None:
    """The Makefile installs what the message tells people to install, and what the tests have."""
    root = Path(__file__).parents[2]
    assert " ".join(demo_photo.PACKAGES) in (root / "Makefile").read_text()
    assert set(demo_photo.PACKAGES) <= set((root / "tests/oracles.txt").read_text().splitlines())
