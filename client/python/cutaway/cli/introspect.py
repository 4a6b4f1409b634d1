"""`cutaway introspect`: what the layers of a network saw in some files, and where it looked."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import click

import cutaway
from cutaway._introspection import gather
from cutaway._requests import Look
from cutaway.cli._captures import capture_facts, captures_table, show_plan
from cutaway.cli._command import ClientCommand, json_option, print_json, progress_bar, seconds_text, stdout
from cutaway.cli._input_files import Batch, Layout, files_argument, layout_option, load
from cutaway.cli._maps import map_facts, maps_table
from cutaway.cli._output_files import Drawing, draw_activation, draw_cam, write_picture, write_values
from cutaway.cli.predict import print_top

CAM = "METHOD[@LAYER[+LAYER…]][?class=K|top=K|class=K&against=K]"
_ASKED = r"(?:(?:class|against)=\d+(?:,\d+)*|top=\d+)"


def read_cam(text: str) -> cutaway.Cam:
    """METHOD[@LAYER+…][?class=K&against=K], or ?top=K; a class is one index for all samples, or one for each: 3,5."""
    found = re.fullmatch(rf"([^@?]+)(?:@([^?]+))?(?:\?({_ASKED}(?:&{_ASKED})*))?", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not {CAM}")
    method, layers, query = found.groups()
    asked = dict(part.split("=") for part in query.split("&")) if query else {}
    classes = {key: [int(index) for index in asked[key].split(",")] for key in ("class", "against") if key in asked}
    return cutaway.Cam(
        method,
        layers and layers.split("+"),
        class_index=classes.get("class"),
        against=classes.get("against"),
        top_k=int(asked["top"]) if "top" in asked else None,
    )


def read_pool(text: str) -> dict[str, Any]:
    """mean|max[:SIZE], SIZE being one number for all axes in space or one for each: 4x2."""
    found = re.fullmatch(r"(mean|max)(?::(\d+(?:x\d+)*))?", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not mean|max[:SIZE]")
    method, size = found.groups()
    return {"pool": method, "size": [int(axis) for axis in size.split("x")] if size else None}


def read_channels(text: str) -> dict[str, Any]:
    """I,J,… or START:STOP[:STEP] or top:K."""
    if found := re.fullmatch(r"top:(\d+)", text):
        return {"top_channels": int(found[1])}
    if found := re.fullmatch(r"(\d*):(\d*)(?::(\d+))?", text):
        return {"channels": slice(*(int(part) if part else None for part in found.groups()))}
    if re.fullmatch(r"\d+(,\d+)*", text):
        return {"channels": [int(index) for index in text.split(",")]}
    raise click.BadParameter(f"{text!r} is not I,J… or START:STOP[:STEP] or top:K")


@click.command(cls=ClientCommand, short_help="What the layers of a network saw in some files.")
@click.argument("model")
@files_argument
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="Take the output of this layer; globs too: '*'.")
@click.option("--input", "inputs", multiple=True, metavar="NAME", help="Take the input of this layer.")
@click.option("--gradient", "gradients", multiple=True, metavar="NAME", help="Take the gradient at this layer.")
@click.option(
    "--cam",
    "cams",
    multiple=True,
    type=read_cam,
    metavar=CAM,
    help="Make a class activation map, such as 'grad-cam@conv2?class=3' (in quotes, for the shell's sake).",
)
@click.option("--statistics", is_flag=True, help="Take numbers about the tensors instead of them.")
@click.option("--bins", type=click.IntRange(min=0), default=0, help="The same, with a histogram of so many bins.")
@click.option(
    "--pool", type=read_pool, metavar="mean|max[:SIZE]", help="Pool over space, to one cell or to SIZE: 'max:4', 'mean:4x2'."
)
@click.option("--channels", type=read_channels, metavar="LIST", help="Take some channels: '0,3', '0:8', '0:64:8', 'top:3'.")
@click.option("--precision", type=click.Choice(["float16", "affine8"]), help="Send fewer bits.")
@click.option("--plan", "plan_only", is_flag=True, help="Only say what would be taken, how much it is and how long it would take.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write pictures and values.npz here.")
@click.option("--model-version", default="", metavar="VERSION", help="Of the model; the default one if not given.")
@click.option("--top", type=click.IntRange(min=0), default=3, show_default=True, help="How many best classes to name.")
@click.option("--without-prediction", is_flag=True, help="Waive the prediction; the network may then stop early.")
@layout_option
@json_option
@click.pass_obj
def introspect(
    client: cutaway.Client,
    model: str,
    files: tuple[Path, ...],
    layers: tuple[str, ...],
    inputs: tuple[str, ...],
    gradients: tuple[str, ...],
    cams: tuple[cutaway.Cam, ...],
    statistics: bool,
    bins: int,
    pool: dict[str, Any] | None,
    channels: dict[str, Any] | None,
    precision: Literal["float16", "affine8"] | None,
    plan_only: bool,
    out: Path | None,
    model_version: str,
    top: int,
    without_prediction: bool,
    layout: Layout | None,
    as_json: bool,
) -> None:
    """Runs MODEL once on FILES, as predict does, and shows what was asked for of its inside.

    --layer, --input, --gradient and --cam may be given several times. With --out, each capture becomes a picture and
    each map an overlay on the picture as it was sent; with several samples there is a folder for each. values.npz holds
    the raw values as "output/LAYER", "input/LAYER", "gradient/LAYER" (and "/PATH" within a nested value), "cam/INDEX"
    (and "/RANK" from the second of a top k on) and "scores".

    --statistics, --pool, --channels and --precision shrink all that --layer, --input and --gradient take, on the server.
    """
    if not (layers or inputs or gradients or cams):
        raise click.UsageError("nothing to look at: give --layer, --input, --gradient or --cam")
    batch = load(files)
    shrink = {"statistics": statistics, "histogram_bins": bins, **(pool or {}), **(channels or {})}
    reduction: dict[str, Any] = {**shrink, "precision": precision}
    look: Look = {
        "layers": [cutaway.Capture(name, **reduction) for name in layers],
        "inputs": [cutaway.Capture(name, **reduction) for name in inputs],
        "gradients": [cutaway.Capture(name, **reduction) for name in gradients],
        "cams": cams,
        "top_k": 0 if without_prediction else top,
        "without_prediction": without_prediction,
        "version": model_version,
        "layout": layout,
    }
    if plan_only:
        show_plan(client.plan(model, batch.values, **look), as_json=as_json)
        return
    with client.introspect_stream(model, batch.values, **look) as events:
        seen = list(_watched(events))
    written = _write(out, seen, batch, layout, client.model(model, version=model_version)) if out else []
    report = _print_json if as_json else _print_tables
    report(seen, batch.names, written)
    if failures := [event for event in seen if isinstance(event, cutaway.Failure)]:
        raise click.ClickException("; ".join(f"{_failed(failure)}: {failure.message}" for failure in failures))


def _watched(events: Iterable[cutaway.Event]) -> Iterator[cutaway.Event]:
    """The events as they come, with a progress bar."""
    with progress_bar() as progress:
        task = progress.add_task("looking", total=None)
        for event in events:
            match event:
                case cutaway.Started():
                    progress.update(task, total=len(event.captures) + len(event.cams))
                case cutaway.Activation() | cutaway.Statistics():
                    progress.update(task, advance=1, description=event.layer)
                case cutaway.CamMap():
                    progress.update(task, advance=1, description=event.method)
                case cutaway.Progress():
                    progress.update(task, description=f"{event.what} {event.done}/{event.total}")
            yield event


def _write(out: Path, events: list[cutaway.Event], batch: Batch, layout: Layout | None, model: cutaway.Model) -> list[Path]:
    """Draws and writes all that was seen: after the call, for a reader that stops to draw would hold up the network."""
    types = {layer.name: layer.type for layer in model.layers}
    photographs = batch.photographs(layout)
    written: list[Path] = []
    with progress_bar() as progress:
        for event in progress.track(events, description="drawing"):
            drawings: Iterable[Drawing] = ()
            match event:
                case cutaway.Activation():
                    drawings = draw_activation(event, types.get(event.layer, ""))
                case cutaway.CamMap():
                    drawings = draw_cam(event, photographs, model.labels)
            written += [write_picture(out, drawing, len(batch.names)) for drawing in drawings]
    return [*written, write_values(out, events)]


def _print_json(events: list[cutaway.Event], names: list[str], written: list[Path]) -> None:
    seen = gather(events)
    print_json(
        {
            "model": seen.started.model,
            "version": seen.started.version,
            "request_id": seen.started.request_id,
            "samples": names,
            "captures": [capture_facts(event) for event in seen.captures],
            "cams": [map_facts(event) for event in events if isinstance(event, cutaway.CamMap)],
            "failures": [
                {"item": _failed(failure), "code": failure.code.name, "message": failure.message} for failure in seen.failures
            ],
            "scores_kind": seen.prediction and seen.scores_kind,
            "scores": seen.prediction and seen.scores.tolist(),
            "top": seen.prediction and [[best._asdict() for best in sample] for sample in seen.top],
            "seconds": seen.timings.stages,
            "layers": [layer._asdict() for layer in seen.timings.layers],
            "files": [str(file) for file in written],
        }
    )


def _print_tables(events: list[cutaway.Event], names: list[str], written: list[Path]) -> None:
    seen = gather(events)
    if seen.prediction:
        print_top(names, seen.prediction)
    if seen.captures:
        stdout().print(captures_table([capture_facts(event) for event in seen.captures]))
    if maps := [event for event in events if isinstance(event, cutaway.CamMap)]:
        stdout().print(maps_table(maps, names))
    stages = ", ".join(f"{stage} {seconds_text(spent)}" for stage, spent in seen.timings.stages.items())
    stdout().print(f"{seen.started.model} {seen.started.version}, request {seen.started.request_id}: {stages}", soft_wrap=True)
    for file in written:
        stdout().print(f"wrote {file}", soft_wrap=True)


def _failed(failure: cutaway.Failure) -> str:
    if failure.cam is not None:
        return f"cam {failure.cam}"
    return "/".join(filter(None, (failure.kind, failure.layer, failure.path)))
