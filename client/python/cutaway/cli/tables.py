"""`cutaway models` and `cutaway layers`: what a server has."""

import dataclasses

import click
from rich.table import Table

import cutaway
from cutaway import pictures
from cutaway.cli._command import ClientCommand, bytes_text, json_option, print_json, seconds_text, stdout


@click.command(cls=ClientCommand)
@json_option
@click.pass_obj
def models(client: cutaway.Client, as_json: bool) -> None:
    """Lists the models of a server."""
    found = client.models()
    if as_json:
        print_json([_without_layers(model) for model in found])
        return
    table = Table("model", "version", "state", "input", "scores", "classes", "parameters", "looking inside")
    for model in found:
        table.add_row(
            model.name,
            model.version,
            model.state + (f": {model.state_reason}" if model.state_reason else ""),
            "\n".join(_input_text(spec) for spec in model.inputs),
            model.scores_kind if model.inputs else "",  # nothing is known of what is not in memory
            str(model.class_count or ""),
            f"{model.parameter_count:,}" if model.parameter_count else "",
            ", ".join(model.introspection.cam_methods) if model.introspection.available else model.introspection.reason,
        )
    stdout().print(table)


@click.command(cls=ClientCommand)
@click.argument("model")
@click.option("--model-version", default="", metavar="VERSION", help="Of the model; the default one if not given.")
@json_option
@click.pass_obj
def layers(client: cutaway.Client, model: str, model_version: str, as_json: bool) -> None:
    """Lists the layers of MODEL, in order of execution."""
    found = client.model(model, version=model_version)
    if as_json:
        print_json([dataclasses.asdict(layer) for layer in found.layers])
        return
    table = Table("", "layer", "type", "kind", "shape", "dtype", "a sample", "time", "note")
    for layer in found.layers:
        outputs = layer.outputs
        table.add_row(
            str(layer.index) if layer.index >= 0 else "",
            layer.name,
            layer.type,
            layer.kind,
            "\n".join(_shape_text(output) for output in outputs),
            "\n".join(output.dtype for output in outputs),
            "\n".join(bytes_text(output.bytes) for output in outputs),
            "" if layer.never_fires else f"{layer.forward_share:.1%}",
            layer.never_fires or ("container" if layer.container else ""),
        )
    stdout().print(table)
    stdout().print(f"time: share of a forward pass, {seconds_text(found.forward_seconds)} a sample when the model was loaded")


def _without_layers(model: cutaway.Model) -> dict[str, object]:
    fields = dataclasses.asdict(model)
    del fields["layers"]  # empty in a list of models
    return fields


def _input_text(spec: cutaway.InputSpec) -> str:
    picture = " or a picture" if spec.image else ""
    low, high = spec.min_shape[1:] or spec.shape[1:], spec.max_shape[1:] or spec.shape[1:]
    sizes = [f"{least}…{most}" if least != most else least for least, most in zip(low, high, strict=True)]
    return f"{spec.name}: {spec.dtype} {pictures.shape_text(['N', *sizes])}{picture}"


def _shape_text(output: cutaway.LayerOutput) -> str:
    return (f"{output.path}: " if output.path else "") + _sizes(output.shape)


def _sizes(shape: tuple[int, ...]) -> str:
    return pictures.shape_text(["N" if size < 0 else size for size in shape])
