"""The command `cutaway model`: writes, checks and converts what `cutaway serve --models` serves."""

import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from cutaway.cli._command import json_option, print_json, stdout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutaway_server.models.repository.load import Permissions

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_TRIAL_SECONDS = 600
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _permitting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of `cutaway serve` that let folders do more."""
    factory = click.option(
        "--allow-factory",
        multiple=True,
        metavar="PACKAGE.MODULE:NAME",
        help="A callable that may be a factory. May be given more than once.",
    )
    code = click.option("--allow-code", is_flag=True, help="Run module.py, torch.export archives and TorchScript.")
    return code(factory(command))


def _permissions(allow_code: bool, allow_factory: tuple[str, ...]) -> "Permissions":
    from cutaway_server.models.repository.load import Permissions

    return Permissions(allow_code, allow_factory)


@contextmanager
def _saying_why() -> "Iterator[None]":
    from cutaway_server.models.model import NotServable, said

    try:
        yield
    except NotServable as error:
        cause = f"\n  {type(error.__cause__).__name__}: {said(error.__cause__)}" if error.__cause__ else ""
        raise click.ClickException(f"{error}{cause}") from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def model() -> None:
    """Write, check and convert what `cutaway serve --models DIR` serves."""
    from cutaway_server.process.logs import log_for_people

    log_for_people()


@model.command(short_help="Print the JSON schema of model.yaml.")
@click.option("--versions", is_flag=True, help="Of versions.yaml instead.")
def schema(versions: bool) -> None:
    """Prints the JSON schema of model.yaml, by which editors complete and check it."""
    from cutaway_server.models.repository.manifest import Manifest, Versions

    found = (Versions if versions else Manifest).model_json_schema()
    click.echo(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **found}, indent=2))


def _keyword(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs, the values as YAML reads them."""
    pairs = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{pair!r} is no KEY=VALUE")
        try:
            pairs[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"{value!r} is no YAML value") from error
    return pairs


@model.command(short_help="Write a model's folder.")
@click.argument("name")
@click.option(
    "--models", type=click.Path(file_okay=False, path_type=Path), default="models", show_default=True, help="The folder of models."
)
@click.option("--version", type=click.IntRange(min=1), help="The next one if not given.")
@click.option(
    "--factory", metavar="PACKAGE.MODULE:NAME", help="What makes the network: torchvision.models:resnet18, timm:resnet18 …"
)
@click.option("--module", type=_FILE, help="A Python file whose function build() makes it.")
@click.option("--exported", type=_FILE, help="An archive of torch.export (.pt2).")
@click.option("--torchscript", type=_FILE, help="A TorchScript archive. Predict only.")
@click.option("--onnx", type=_FILE, help="An ONNX file. Predict only.")
@click.option(
    "--arg", "arguments", multiple=True, metavar="KEY=VALUE", callback=_keyword, help="Of the factory or build(): num_classes=10"
)
@click.option("--weights", type=_FILE, help="A safetensors file, or a state dict saved by torch.save.")
@click.option("--labels", metavar="FILE|imagenet", help="A file with a label a line, a JSON list, or ImageNet's.")
@click.option("--preset", type=click.Choice(["imagenet", "inception", "mnist"]), help="How photographs are prepared.")
@click.option("--shape", metavar="3,224,224", help="Of one sample; instead of a preset, or beside it for other sizes of tensors.")
@click.option(
    "--scores",
    type=click.Choice(["logits", "log_probabilities", "probabilities", "sigmoid"]),
    default="logits",
    show_default=True,
    help="What the network's numbers are.",
)
@click.option("--head", default="", metavar="PATH", help="Of the scores, where the network gives several tensors: out, 0.")
@_permitting
def add(
    name: str,
    models: Path,
    version: int | None,
    arguments: dict[str, Any],
    weights: Path | None,
    labels: str | None,
    preset: str | None,
    shape: str | None,
    scores: str,
    head: str,
    allow_code: bool,
    allow_factory: tuple[str, ...],
    **sources: Any,
) -> None:
    """Writes the folder DIR/NAME/VERSION with a model.yaml, and checks that it can be served.

    Weights are stored as safetensors, with their digest pinned. What is more particular than the flags is written into the
    model.yaml by hand: see docs/models.md.
    """
    from cutaway_server.models.repository import add as folder
    from cutaway_server.models.repository.load import Hardware, load
    from cutaway_server.models.repository.onnx_files import onnx_files

    given = {source: value for source, value in sources.items() if value}
    if len(given) != 1:
        raise click.UsageError("give exactly one of --factory, --module, --exported, --torchscript, --onnx")
    ((source, value),) = given.items()
    own_input = {**({"image": preset} if preset else {}), **({"shape": _shape(shape)} if shape else {})}
    if not own_input:
        raise click.UsageError("give --preset or --shape: what the network takes is never guessed")
    own = value if source == "factory" else f"{'network' if source != 'module' else 'module'}{value.suffix}"
    with _saying_why():
        named_labels, files = folder.label_files(labels)
        given_as = {copy: f"--labels {file.name}" for copy, file in files.items()}
        content: dict[str, Any] = {
            "network": {source: own, **({"arguments": arguments} if arguments else {})},
            "inputs": [own_input],
            **({"head": head} if head else {}),
            "scores": scores,
            **({"labels": named_labels} if named_labels else {}),
        }
        if source != "factory":
            files = {**files, own: value}
            given_as[own] = f"--{source} {value.name}"
        if source == "onnx":
            files = {**onnx_files(value).beside, **files}
        if weights:
            given_as[folder.WEIGHTS] = f"--weights {weights.name}"
        permissions = _permissions(allow_code, allow_factory)

        def check(path: Path, chosen: str) -> None:
            with _naming_what_was_given(given_as):
                load(path, name, chosen, permissions, Hardware("cpu", fixed=True))

        written = folder.add(models, name, version, content, weights=weights, files=files, check=check)
    click.echo(
        f"wrote {written}; it loads and runs. See it: cutaway model check {written}; serve it: cutaway serve --models {models}"
    )


@contextmanager
def _naming_what_was_given(given_as: dict[str, str]) -> "Iterator[None]":
    """What is said of a copy, whose folder goes when it does not do, names the flag and the file that it was made from."""
    from cutaway_server.models.model import NotServable

    try:
        yield
    except NotServable as error:
        words = re.split(r"(?<![\w./-])([\w.-]+\.\w+)(?![\w-])", str(error))
        raise NotServable("".join(given_as.get(word, word) for word in words)) from error.__cause__


def _shape(text: str) -> list[int | list[int]]:
    """3,224,224 or 3,64-512,64-512"""
    sizes: list[int | list[int]] = []
    for part in text.split(","):
        ends = part.strip().split("-")
        if not all(end.isdecimal() for end in ends) or len(ends) > 2:
            raise click.BadParameter(f"--shape {text!r} is no list of sizes, as 3,224,224 or 3,64-512,64-512")
        sizes.append(int(ends[0]) if len(ends) == 1 else [int(end) for end in ends])
    return sizes


@model.command(short_help="Load models, look into them, say what would fail.")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--device", default="cpu", show_default=True, help="What to run it on: cpu, cuda, cuda:N, auto.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of a forward pass.")
@_permitting
@json_option
def check(folder: Path, device: str, threads: int, allow_code: bool, allow_factory: tuple[str, ...], as_json: bool) -> None:
    """Loads the model in DIR, or all that are in it, and says what a server would do with it.

    DIR is one version (models/resnet18/1), a model, or a whole folder of models. Prints the layer table, times predictions, tries
    the hooks on a private copy, and says what would fail in production. Exit code 1 where something cannot be served.
    """
    from cutaway_server.models.model import NotServable, said
    from cutaway_server.models.threads import use_cpu_threads
    from cutaway_server.process.checkup import Checkup, found_in, print_checkup
    from cutaway_server.process.trial import Trial

    use_cpu_threads(threads)
    with _saying_why():
        folders = found_in(folder)
    reports = []
    failed = False
    permissions = _permissions(allow_code, allow_factory)
    trial = Trial(permissions, _TRIAL_SECONDS)
    click.get_current_context().call_on_close(trial.end)
    for one in folders:
        try:
            checkup = Checkup(one, permissions, device, threads, trial)
        except Exception as error:  # NotServable, and whatever a stranger's network raises beyond that
            failed = True
            cause = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ else ""
            problem = str(error) if isinstance(error, NotServable) else f"loading it raises {type(error).__name__}: {said(error)}"
            reports.append({"model": one.name, "version": one.version, "problem": problem})
            if not as_json:
                which = f"{one.name} version {one.version}" if one.version else one.name
                stdout().print("cannot be served:", style="bold red", end=" ")
                stdout().print(f"{which}: {problem}{cause}", soft_wrap=True)
            continue
        reports.append(checkup.facts())
        if not as_json:
            print_checkup(checkup)
    if as_json:
        print_json(reports)
    if failed:
        raise SystemExit(1)


@model.command(short_help="Save the tensors of a file as safetensors.")
@click.argument("file", type=_FILE)
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def convert(file: Path, out: Path) -> None:
    """Reads the state dict in FILE, by itself, within a checkpoint or of a whole network, and writes it to OUT as safetensors.

    Nothing that the file holds is run: other objects are passed over, and what cannot be read without them is refused.
    """
    from cutaway_server.models.repository.add import save_state
    from cutaway_server.models.repository.convert import rescue_state

    if out.suffix != ".safetensors":
        raise click.BadParameter("OUT must end in .safetensors")
    if out.exists():
        raise click.ClickException(f"{out} is there already")
    with _saying_why():
        state = rescue_state(file, file.name)
        save_state(state, out)
    click.echo(f"wrote {out}: {len(state):,} tensors, {sum(value.numel() for value in state.values()):,} numbers")
