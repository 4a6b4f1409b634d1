"""Files that are written: what an introspection saw, as pictures and as values."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import cutaway
from cutaway import pictures
from cutaway._tensors import Array


class Drawing(NamedTuple):
    """A picture that is to be written."""

    name: str
    sample: int | None
    """None where it shows all samples at once."""
    picture: Image.Image


def write_values(out: Path, events: Iterable[cutaway.Event]) -> Path:
    """All raw values in one file, under the keys of value_key, "cam/INDEX" and "scores"."""
    values: dict[str, Array] = {}
    for event in events:
        match event:
            case cutaway.Activation():
                values[value_key(event)] = event.array
                if event.channels is not None:
                    values[f"{value_key(event)}/channels"] = event.channels
            case cutaway.Statistics():
                for name in ("minimum", "maximum", "mean", "std", "zeros", "l2", "non_finite", "histogram"):
                    values[f"{value_key(event)}/{name}"] = getattr(event, name)
            case cutaway.CamMap():
                values[f"cam/{event.cam}"] = event.map
            case cutaway.Prediction():
                values["scores"] = event.scores
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "values.npz", **values)  # type: ignore[arg-type]  # no key is the name of a parameter
    return out / "values.npz"


def write_picture(out: Path, drawing: Drawing, samples: int) -> Path:
    """One picture; in a folder of its sample where there are several."""
    folder = out if drawing.sample is None or samples == 1 else out / f"sample-{drawing.sample}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{safe(drawing.name)}.png"
    drawing.picture.save(file)
    return file


def draw_activation(event: cutaway.Activation, layer_type: str) -> Iterator[Drawing]:
    """What each sample made of a layer."""
    name = "-".join(filter(None, (event.kind, event.layer, event.path)))
    for sample, values in enumerate(event.array) if event.batch_first else [(None, event.array)]:
        note = f"{event.kind}   {pictures.shape_text(values.shape)}   {pictures.range_text(values)}"
        title = f"{event.layer}   {layer_type}"
        coloured = None if pictures.is_vector(values) else values
        yield Drawing(name, sample, pictures.captioned(pictures.activation(values), title, note, coloured))


def draw_cam(event: cutaway.CamMap, photographs: Sequence[Image.Image], labels: Sequence[str]) -> Iterator[Drawing]:
    """Each sample's map on its photograph, or by itself where there is none."""
    for sample, (values, index) in enumerate(zip(event.map, event.classes, strict=True)):
        if event.placement and photographs:
            drawn = pictures.overlay(photographs[sample], values, event.placement[sample])
        else:
            drawn = pictures.heat_map(values)
        title = f"{event.method} at {event.layer}, class {labels[index] if index < len(labels) else index}"
        silent = "no value above 0: at this layer nothing speaks for this class"
        note = pictures.range_text(values) if (values > 0).any() else silent
        yield Drawing(f"cam{event.cam}-{event.method}-{event.layer}", sample, pictures.captioned(drawn, title, note))


def value_key(event: cutaway.Activation | cutaway.Statistics) -> str:
    """A capture's name in values.npz: "output/conv1", with the path behind it where the value was nested."""
    return "/".join(filter(None, (event.kind, event.layer, event.path)))


def safe(name: str) -> str:
    """A name that stays within its folder on any system, whatever the server calls its layers."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:200]
