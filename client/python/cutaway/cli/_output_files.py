"""Files that are written: what an introspection saw, as pictures and as values."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """All raw values in one file, under the keys of value_key and map_key, and "scores"."""
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
                values[map_key(event)] = event.map
            case cutaway.Prediction():
                values["scores"] = event.scores
    return save_values(out, values)


def save_values(out: Path, values: Mapping[str, Array]) -> Path:
    """Arrays in one file, values.npz."""
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "values.npz", **values)  # type: ignore[arg-type]  # no key is the name of a parameter
    return out / "values.npz"


def write_picture(out: Path, drawing: Drawing, samples: int) -> Path:
    """One picture; in a folder of its sample where there are several."""
    folder = out if drawing.sample is None or samples == 1 else out / f"sample-{drawing.sample}"
    return save(drawing.picture, folder / f"{safe(drawing.name)}.png")


def save(picture: Image.Image, file: Path) -> Path:
    """Writes a picture, and the folder that it goes into."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)
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
    name = "-".join([f"cam{event.cam}", *([f"{event.rank}"] if event.rank else []), event.method, *event.layers])
    for sample, values in enumerate(event.map):
        title = f"{event.method} at {event.layer or 'the input'}, {explained(event, sample, labels)}"
        note = "; ".join(notes_of(event, sample)) or pictures.range_text(values)
        yield Drawing(name, sample, pictures.captioned(map_picture(event, sample, photographs), title, note))


def map_picture(event: cutaway.CamMap, sample: int, photographs: Sequence[Image.Image]) -> Image.Image:
    """A sample's map on its photograph, or by itself where there is none."""
    if event.placement and photographs:
        return pictures.overlay(photographs[sample], event.map[sample], event.placement[sample])
    return pictures.activation(event.map[sample])


def explained(event: cutaway.CamMap, sample: int, labels: Sequence[str]) -> str:
    """Which class a sample's map speaks of, as its label, or its index where it has none, and against which."""
    classes = (of[sample] for of in (event.classes, event.against) if of)
    return "class " + " against ".join(labels[index] if index < len(labels) else str(index) for index in classes)


def notes_of(event: cutaway.CamMap, sample: int) -> list[str]:
    """Why a sample's map says nothing; none where it says something."""
    return [note.message for note in event.notes if note.sample == sample]


def value_key(event: cutaway.Activation | cutaway.Statistics) -> str:
    """A capture's name in values.npz: "output/conv1", with the path behind it where the value was nested."""
    return "/".join(filter(None, (event.kind, event.layer, event.path)))


def map_key(planned: cutaway.CamMap | cutaway.PlannedCam) -> str:
    """A map's name in values.npz: "cam/0", with the rank behind it from the second of a top k on."""
    return f"cam/{planned.cam}" + (f"/{planned.rank}" if planned.rank else "")


def safe(name: str) -> str:
    """A name that stays within its folder on any system, whatever the server calls its layers."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:200]
