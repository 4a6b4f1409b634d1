"""The command `cutaway sanity`."""

import math
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.table import Table

from cutaway._inputs import input_messages
from cutaway._tensors import Array
from cutaway.cli._command import json_option, print_json, progress_bar, stdout
from cutaway.cli._input_files import Layout, layout_option

if TYPE_CHECKING:
    from torch import Tensor

    from cutaway_server.introspection.sanity import Left
    from cutaway_server.models.model import Model

_EACH = 6  # the built-in digits are sorted: six of a kind


@click.command()
@click.argument("model")
@click.argument("method")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--layer", multiple=True, metavar="NAME", help="At this layer; at several the maps are fused.")
@click.option("--class", "class_index", type=click.IntRange(min=0), metavar="K", help="Explain this class, not the predicted one.")
@click.option("--independent", is_flag=True, help="Draw each layer alone, the others as they were learnt.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the weights.")
@layout_option
@json_option
def sanity(
    model: str,
    method: str,
    files: tuple[Path, ...],
    layer: tuple[str, ...],
    class_index: int | None,
    independent: bool,
    seed: int,
    layout: Layout | None,
    as_json: bool,
) -> None:
    """Show how much of the maps by METHOD stays when the weights of MODEL are drawn anew.

    Layer by layer, from the output down; no server is needed. What stays is the rank correlation with the map of the network as
    it was: 1 is all, 0 is nothing. A map that stays when the network has forgotten all it learnt shows the picture, not the
    network (Adebayo et al. 2018).

    FILES are pictures or .npy arrays; ten digits if there are none.
    """
    # Imported here: PyTorch takes seconds, and --help and wrong use need none of it.
    from cutaway_server.errors import Refusal
    from cutaway_server.introspection.look import NoGradient
    from cutaway_server.introspection.maps import DidNotRun
    from cutaway_server.introspection.plan_cams import CamRequest
    from cutaway_server.introspection.sanity import Randomisation
    from cutaway_server.introspection.target import Target

    try:
        loaded = _load(model)
        target = Target(classes=() if class_index is None else (class_index,))
        request = CamRequest("cam", method, layer, target)
        shaken = Randomisation(loaded, request, _arguments(loaded, files, layout), seed=seed)
        with progress_bar() as progress:
            run = shaken.run(independent=independent)
            left = list(progress.track(run, total=len(shaken.layers), description="layers"))
    except (Refusal, NoGradient, DidNotRun, OSError, ValueError, TypeError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error
    facts = {
        "model": loaded.name,
        "version": loaded.version,
        "method": method,
        "layers": [layer.name for layer in shaken.planned.layers],
        "independent": independent,
        "seed": seed,
        "drawn": [_left(one) for one in left],
    }
    if as_json:
        print_json(facts)
    else:
        _print_table(facts)


def _load(name: str) -> "Model":
    from cutaway_server.errors import UnknownModel
    from cutaway_server.models.builtin import FACTORIES, load_builtin

    if name not in FACTORIES:
        raise UnknownModel(name, "", list(FACTORIES))
    return load_builtin(name)


def _arguments(model: "Model", files: tuple[Path, ...], layout: Layout | None) -> tuple["Tensor", ...]:
    from cutaway_server.rpc.decode import decode_inputs
    from cutaway_server.rpc.limits import Limits

    messages = input_messages(files, layout) if files else input_messages(_digits(), "NHW")
    own = 1 << 60  # bytes, pixels, seconds: one's own files on one's own machine
    return decode_inputs(model, messages, Limits(own, own, own, own, own, own, own, own)).arguments


def _digits() -> Array:
    """One of each kind, [10, 28, 28] uint8."""
    with resources.files("cutaway_server.models.mnist").joinpath("digits.npz").open("rb") as file:
        digits: Array = np.load(file)["x"][::_EACH]
        return digits


def _left(left: "Left") -> dict[str, Any]:
    return {"layer": left.layer, "signed": left.signed.tolist(), "unsigned": left.unsigned.tolist()}


def _print_table(facts: dict[str, Any]) -> None:
    at = f" at {', '.join(facts['layers'])}" if facts["layers"] else ""
    stdout().print(f"What stays of maps by {facts['method']}{at}, {facts['model']} version {facts['version']}", soft_wrap=True)
    drawn = "alone" if facts["independent"] else "and all after it"
    table = Table(f"weights drawn anew: this layer {drawn}", "rank correlation", "of absolute values", "maps compared")
    for stage in facts["drawn"]:
        compared = [value for value in stage["signed"] if math.isfinite(value)]
        means = _mean(stage["signed"]), _mean(stage["unsigned"])
        table.add_row(stage["layer"] or "the network itself", *means, f"{len(compared)} of {len(stage['signed'])}")
    stdout().print(table)


def _mean(values: list[float]) -> str:
    """Of those that are: a map that is the same everywhere has no ranks."""
    there = [value for value in values if math.isfinite(value)]
    return f"{sum(there) / len(there):.2f}" if there else ""
