"""`cutaway predict`: what a network says of some files."""

from pathlib import Path

import click
from rich.table import Table

import cutaway
from cutaway.cli._command import ClientCommand, class_text, json_option, print_json, stdout
from cutaway.cli._input_files import Layout, files_argument, layout_option, load


@click.command(cls=ClientCommand, short_help="What a network says of some files.")
@click.argument("model")
@files_argument
@click.option("--model-version", default="", metavar="VERSION", help="Of the model; the default one if not given.")
@click.option("--top", type=click.IntRange(min=0), default=3, show_default=True, help="How many best classes to name.")
@layout_option
@json_option
@click.pass_obj
def predict(
    client: cutaway.Client,
    model: str,
    files: tuple[Path, ...],
    model_version: str,
    top: int,
    layout: Layout | None,
    as_json: bool,
) -> None:
    """Runs MODEL on FILES, which make one batch: PNG or JPEG pictures, or arrays in .npy files, the batch first."""
    batch = load(files)
    answer = client.predict(model, batch.values, top_k=top, version=model_version, layout=layout)
    if as_json:
        print_json(
            {
                "model": answer.model,
                "version": answer.version,
                "engine": answer.engine,
                "scores_kind": answer.scores_kind,
                "scores": answer.scores.tolist(),
                "samples": batch.names,
                "top": [[best._asdict() for best in sample] for sample in answer.top],
            }
        )
        return
    print_top(batch.names, answer)


def print_top(names: list[str], answer: cutaway.Prediction) -> None:
    """A row a sample, with its best classes."""
    if not answer.top:
        stdout().print(f"{answer.model}: {answer.scores_kind} of shape {answer.scores.shape}")
        return
    table = Table("sample", *(f"{place + 1}." for place in range(len(answer.top[0]))))
    for name, best in zip(names, answer.top, strict=True):
        table.add_row(name, *map(class_text, best))
    stdout().print(table)
