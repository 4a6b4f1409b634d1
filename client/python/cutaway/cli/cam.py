"""`cutaway cam`: where a network looks, by one method or by all of them side by side."""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image
from rich.progress import Progress
from rich.table import Table

import cutaway
from cutaway import pictures
from cutaway._introspection import gather
from cutaway._requests import Look
from cutaway.cli._command import ClientCommand, json_option, passes_text, print_json, progress_bar, seconds_text, stdout
from cutaway.cli._input_files import Batch, Layout, files_argument, layout_option, load
from cutaway.cli._maps import map_facts, notes_text
from cutaway.cli._output_files import explained, map_picture, notes_of, safe, save, save_values

ALL = "all"
CELL = 320  # pixels of the longer side of a picture on the sheet
MAKING = ("forward", "gradient", "cam")  # the stages of a call that make a map
SHOWN = ("insertion", "deletion", "road")


class Found(NamedTuple):
    """The map that one method made."""

    map: cutaway.CamMap
    faithfulness: cutaway.Faithfulness | None
    """None where it was not measured."""
    seed: int | None
    """None where chance plays no part."""
    seconds: float
    """That making the map took, with the pass of the network; not measuring it."""
    forward_passes: int
    backward_passes: int
    """Runs for each sample that took."""


class Looked(NamedTuple):
    """What became of each method."""

    model: cutaway.Model
    batch: Batch
    found: list[Found]
    lost: dict[str, cutaway.Error]
    """By method."""


def read_classes(text: str) -> list[int]:
    """K for all samples, or one for each: 3,5."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise click.BadParameter(f"{text!r} is not K or K,K…")
    return [int(index) for index in text.split(",")]


@click.command(cls=ClientCommand, timeout=300.0, short_help="Where a network looks, by many methods side by side.")
@click.argument("model")
@files_argument
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=["grad-cam"],
    show_default=True,
    metavar="NAME",
    help=f"By this method; {ALL!r} for each that MODEL allows.",
)
@click.option("--layer", multiple=True, metavar="NAME", help="At this layer; at several the maps are fused.")
@click.option("--class", "class_index", type=read_classes, metavar="K", help="Explain this class, not the predicted one.")
@click.option("--score", type=click.Choice(["model", "probability"]), help="Explain the model's own score or the probability.")
@click.option("--steps", type=click.IntRange(min=0), default=0, metavar="N", help="Of a path, or noisy inputs.")
@click.option("--augment", is_flag=True, help="Mean over six variants of the input.")
@click.option("--channels", type=click.Choice(["sum", "principal", "largest", "each"]), help="How channels become a map.")
@click.option(
    "--faithfulness/--no-faithfulness",
    default=None,
    help=f"Measure whether the maps can be believed. [default: only with --method {ALL}]",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="For random maps and methods with chance.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="cam", show_default=True, help="Write here.")
@click.option("--model-version", default="", metavar="VERSION", help="Of the model; the default one if not given.")
@layout_option
@json_option
@click.pass_obj
def cam(
    client: cutaway.Client,
    /,
    model: str,
    files: tuple[Path, ...],
    methods: tuple[str, ...],
    faithfulness: bool | None,
    seed: int,
    out: Path,
    model_version: str,
    layout: Layout | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Shows what in FILES speaks for the class that MODEL predicts, or for another.

    Writes a sheet with a cell for each method: the map on the picture as it was sent, what it took and, if measured, whether
    it can be believed. Then each map by itself as METHOD.png, and values.npz with the raw maps as "cam/METHOD". With several
    files there is a sheet for each.

    Each method is a call by itself, which --timeout limits. One that is not possible is listed with the reason.
    """
    described, batch = client.model(model, version=model_version), load(files)
    every = ALL in methods
    settings["faithfulness"] = every if faithfulness is None else faithfulness
    asked = described.introspection.cam_methods if every else dict.fromkeys(methods)
    cams = [cutaway.Cam(method, **settings) for method in asked]
    look: Look = {"version": model_version, "layout": layout, "seed": seed, "without_prediction": True}
    looked = Looked(described, batch, *_look(client, model, batch, cams, look))
    written = _write(out, looked, layout) if looked.found else []
    report = _print_json if as_json else _print_table
    report(looked, written)
    if not looked.found or (looked.lost and not every):
        raise click.ClickException(_reason(looked))


def _look(
    client: cutaway.Client, model: str, batch: Batch, cams: Sequence[cutaway.Cam], look: Look
) -> tuple[list[Found], dict[str, cutaway.Error]]:
    """A call for each map, so that one that is not possible does not cost the others theirs.

    Raises:
        Unavailable: the server is gone.
    """
    found, lost = [], {}
    with progress_bar() as progress:
        for cam in progress.track(cams, description="methods"):
            one: Look = {**look, "cams": [cam]}
            try:
                with client.introspect_stream(model, batch.values, **one) as events:
                    found.append(_found(gather(_watched(events, progress, cam.method))))
            except cutaway.Unavailable:
                raise
            except cutaway.Error as error:
                lost[cam.method] = error
    return found, lost


def _watched(events: Iterable[cutaway.Event], progress: Progress, method: str) -> Iterator[cutaway.Event]:
    """The events as they come, with a progress bar."""
    bar = progress.add_task(method, total=None)
    try:
        for event in events:
            if isinstance(event, cutaway.Progress):
                progress.update(bar, description=event.what, completed=event.done, total=event.total)
            yield event
    finally:
        progress.remove_task(bar)


def _found(seen: cutaway.Introspection) -> Found:
    """The one map of a call. NotInAnswer where it could not be made."""
    estimate, planned = seen.started.estimate, seen.started.cams[0]
    return Found(
        map=seen.cams[0],
        faithfulness=next(iter(seen.faithfulness.maps.values()), None),
        seed=seen.started.seed,
        seconds=sum(seen.timings.stages.get(stage, 0.0) for stage in MAKING),
        forward_passes=estimate.forward_passes - planned.faithfulness_forward_passes,
        backward_passes=estimate.backward_passes - planned.faithfulness_backward_passes,
    )


def _write(out: Path, looked: Looked, layout: Layout | None) -> list[Path]:
    """For each sample its sheet and its maps, and all the values."""
    photographs, written = looked.batch.photographs(layout), []
    for sample, end in enumerate(_endings(looked.batch.names)):
        drawn = {one.map.method: map_picture(one.map, sample, photographs) for one in looked.found}
        written.append(save(_sheet(looked, sample, drawn.values()), out / f"sheet{end}.png"))
        written += [save(picture, out / f"{safe(method)}{end}.png") for method, picture in drawn.items()]
    return [*written, save_values(out, {f"cam/{one.map.method}": one.map.map for one in looked.found})]


def _endings(names: Sequence[str]) -> list[str]:
    """Of each sample's files: its name, with its number in front where names come twice; nothing for a sample alone."""
    if len(names) == 1:
        return [""]
    return [f"-{safe(name)}" if names.count(name) == 1 else f"-{sample}-{safe(name)}" for sample, name in enumerate(names)]


def _sheet(looked: Looked, sample: int, drawn: Iterable[Image.Image]) -> Image.Image:
    """A cell for each method: its picture of one sample, and below it what it took and what it is worth."""
    model, found = looked.model, looked.found
    cells = [(_small(picture), _caption(one, sample)) for one, picture in zip(found, drawn, strict=True)]
    title = f"What in {looked.batch.names[sample]} speaks for {explained(found[0].map, sample, model.labels)}"
    measured = "; in brackets what a random map gets" if any(one.faithfulness for one in found) else ""
    note = f"{model.name} {model.version}. Below each map its time and runs of the network{measured}."
    return pictures.sheet(cells, math.ceil(math.sqrt(len(cells))), title, note)


def _small(picture: Image.Image) -> Image.Image:
    return pictures.enlarged(picture, min(1, CELL / max(picture.size)))


def _caption(one: Found, sample: int) -> str:
    lines = [
        f"{one.map.method} at {one.map.layer}" if one.map.layer else one.map.method,
        f"{seconds_text(one.seconds)}, {passes_text(one.forward_passes, one.backward_passes)}",
        *(f"{name} {_measure(one, name, sample)}" for name in SHOWN if one.faithfulness),
        *notes_of(one.map, sample),
    ]
    return "\n".join(textwrap.fill(line, 40) for line in lines)


def _measure(one: Found, name: str, samples: int | slice = slice(None)) -> str:
    """A measure of faithfulness, its mean over samples, and that of the random map; empty where it was not taken."""
    if one.faithfulness is None:
        return ""
    of_map, of_random = (np.mean(getattr(of, name)[samples]) for of in (one.faithfulness.map, one.faithfulness.random))
    return f"{of_map:.3f} ({of_random:.3f})"


def _print_table(looked: Looked, written: Sequence[Path]) -> None:
    names, shown = looked.batch.names, SHOWN if any(one.faithfulness for one in looked.found) else ()
    table = Table("method", "layer", "time", "passes", *shown, "note")
    for one in looked.found:
        took = seconds_text(one.seconds), passes_text(one.forward_passes, one.backward_passes)
        table.add_row(one.map.method, one.map.layer, *took, *(_measure(one, name) for name in shown), notes_text(one.map, names))
    for method, error in looked.lost.items():
        table.add_row(method, *[""] * (3 + len(shown)), error.message)
    stdout().print(table)
    if shown:
        stdout().print("In brackets what a random map gets.", soft_wrap=True)
    for sample, name in enumerate(names if looked.found else []):
        stdout().print(f"{name}: the maps explain {explained(looked.found[0].map, sample, looked.model.labels)}", soft_wrap=True)
    for file in written:
        stdout().print(f"wrote {file}", soft_wrap=True)


def _print_json(looked: Looked, written: Sequence[Path]) -> None:
    print_json(
        {
            "model": looked.model.name,
            "version": looked.model.version,
            "samples": looked.batch.names,
            "maps": [_facts(one) for one in looked.found],
            "failures": [
                {"method": method, "code": error.code.name, "message": error.message} for method, error in looked.lost.items()
            ],
            "files": [str(file) for file in written],
        }
    )


def _facts(one: Found) -> dict[str, Any]:
    measures = one.faithfulness and {
        of: {name: values.tolist() for name, values in vars(getattr(one.faithfulness, of)).items()} for of in ("map", "random")
    }
    return map_facts(one.map) | {
        "forward_passes": one.forward_passes,
        "backward_passes": one.backward_passes,
        "seconds": one.seconds,
        "seed": one.seed,
        "faithfulness": measures,
    }


def _reason(looked: Looked) -> str:
    """Why there are no maps, or not all that were asked for."""
    support, name = looked.model.introspection, looked.model.name
    if not support.available:
        return f"{name!r} cannot be looked into: {support.reason}"
    return "; ".join(f"{method}: {error.message}" for method, error in looked.lost.items()) or f"{name!r} has no method for maps"
