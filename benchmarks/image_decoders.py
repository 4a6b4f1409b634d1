"""Decoders and resizers of photographs: their time and their pixels, beside Pillow's, in this process.

What is not installed is left out. All of it, in an environment with this project's server:
pip install simplejpeg imagecodecs pyvips pyvips-binary opencv-python-headless PyTurboJPEG
PyTurboJPEG wants libturbojpeg 3 of the system. pillow-simd takes Pillow's place; run it in an environment of its own.
"""

import argparse
import importlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.resources import files
from statistics import median
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image
from report import table_of_figures

from cutaway.cli._command import stdout
from cutaway_server.models.preprocessing import ImageSpec, open_image, preprocess
from cutaway_server.process.tuning import keep_freed_blocks

Pixels = NDArray[np.uint8]
Decode = Callable[[bytes], Pixels]
LITE0 = ImageSpec("rgb", 224, 224, 256, "bicubic", (0.0,) * 3, (1.0,) * 3, (0.0, 255.0))
MANY = 10**9  # pixels: no limit
SECONDS = 1.0  # that one way is measured


def pictures() -> Iterator[tuple[str, bytes]]:
    """The cat as it is, and many of it as a picture of 12 megapixels."""
    small = Image.open(io.BytesIO(files("cutaway.cli").joinpath("photographs/chelsea.jpg").read_bytes())).convert("RGB")
    tile = np.asarray(small)
    mirrored = np.concatenate([np.concatenate([tile, tile[:, ::-1]], 1), np.concatenate([tile[::-1], tile[::-1, ::-1]], 1)])
    large = Image.fromarray(np.tile(mirrored, (5, 5, 1))[:3000, :4000])
    for form in ("JPEG", "PNG"):
        for picture in (small, large):
            picture.save(file := io.BytesIO(), form, **({"quality": 90} if form == "JPEG" else {}))
            yield f"{form} {picture.width} x {picture.height}", file.getvalue()


def pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decoders(form: str) -> Iterator[tuple[str, Decode]]:
    """Those that are installed, each to RGB pixels."""
    yield f"Pillow {PIL.__version__}", pillow
    with suppress(ImportError):
        cv2: Any = importlib.import_module("cv2")
        cv2.setNumThreads(1)
        yield f"OpenCV {cv2.__version__}", lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    with suppress(ImportError):
        codecs: Any = importlib.import_module("imagecodecs")
        yield f"imagecodecs {codecs.__version__}", codecs.jpeg8_decode if form == "JPEG" else codecs.png_decode
    with suppress(ImportError):
        vips: Any = importlib.import_module("pyvips")
        yield f"pyvips {vips.__version__}", lambda data: vips.Image.new_from_buffer(data, "", access="sequential").numpy()
    if form != "JPEG":
        return
    with suppress(ImportError):
        simple: Any = importlib.import_module("simplejpeg")
        yield "simplejpeg", simple.decode_jpeg
    with suppress(ImportError, RuntimeError):
        turbo: Any = importlib.import_module("turbojpeg")
        yield "PyTurboJPEG", partial(turbo.TurboJPEG().decode, pixel_format=turbo.TJPF_RGB)


def ours(data: bytes) -> Pixels:
    """As the server does it."""
    return preprocess(open_image(data, "x", MANY), LITE0)[0].transpose(1, 2, 0).astype(np.uint8)


def pillows(data: bytes, *, draft: int = 0, gap: float | None = None) -> Pixels:
    """All by Pillow: the crop of a resized picture.

    Args:
        draft: JPEGs are decoded to at least so many times the size, if at all.
        gap: `reducing_gap` of the resize.
    """
    image = Image.open(io.BytesIO(data))
    width, height = (256 * side // min(image.size) for side in image.size)
    drafted = image.draft(None, (draft * width, draft * height)) if draft else None
    box = drafted[1] if drafted else None
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC, box, gap)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)))


def to_the_input(form: str) -> Iterator[tuple[str, Decode]]:
    yield "Pillow", pillows
    yield "ours", ours
    yield "Pillow, reducing_gap 3", partial(pillows, gap=3.0)
    if form == "JPEG":
        for draft in (2, 4):
            yield f"Pillow, draft of {draft} times the size", partial(pillows, draft=draft)


def seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return clock() - began


def both_at_once(call: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def longest_wait(call: Callable[[], object]) -> float:
    """Seconds that another thread, which wakes all the time, stands still at most meanwhile."""
    done, worst = threading.Event(), 0.0

    def wake() -> None:
        nonlocal worst
        last = time.perf_counter()
        while not done.wait(0.0002):
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    other = threading.Thread(target=wake)
    other.start()
    call()
    done.set()
    other.join()
    return worst


def measure(ways: dict[str, Decode], data: bytes) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """Of each way, in turns: CPU seconds alone, seconds of two at once, longest waits."""
    found: dict[str, tuple[list[float], list[float], list[float]]] = {name: ([], [], []) for name in ways}
    end = time.monotonic() + SECONDS * len(ways)
    while time.monotonic() < end or len(found[next(iter(ways))][0]) < 5:
        for name, decode in ways.items():
            alone, at_once, waits = found[name]
            call = partial(decode, data)
            alone.append(seconds(call, time.process_time))
            at_once.append(seconds(partial(both_at_once, call), time.perf_counter) / 2)
            waits.append(longest_wait(call))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    keep_freed_blocks()
    columns = (
        "picture",
        "way",
        "ms of CPU",
        "ratio",
        "two at once, ms each",
        "others wait, ms",
        "pixels differ, at most",
        "on average",
    )
    console = stdout()
    for what, ways_of in (("to pixels", decoders), ("to the input of EfficientNet-Lite0", to_the_input)):
        table = table_of_figures(*columns, words=2)
        for picture, data in pictures():
            ways = dict(ways_of(picture.partition(" ")[0]))
            found = measure(ways, data)
            reference = next(iter(ways.values()))(data).astype(int)
            first = median(next(iter(found.values()))[0])
            for name, (alone, at_once, waits) in found.items():
                differ = np.abs(ways[name](data) - reference)
                times = (f"{1e3 * median(alone):.2f}", f"{median(alone) / first:.2f}", f"{1e3 * median(at_once):.2f}")
                table.add_row(picture, name, *times, f"{1e3 * min(waits):.1f}", str(differ.max()), f"{differ.mean():.4f}")
        console.print(f"From a file {what}:", table)
    console.print(
        "Medians, in turns; waits: the least. Pixels differ from Pillow's, the first of each picture, by so many of 255 levels."
    )


if __name__ == "__main__":
    main()
