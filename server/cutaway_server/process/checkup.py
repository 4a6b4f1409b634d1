"""What `cutaway model check` finds out of one model."""

import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.table import Table

from cutaway import pictures
from cutaway.cli._command import bytes_text, engine_text, seconds_text, stdout
from cutaway_server.introspection.plan_cams import possible_methods
from cutaway_server.models.arrays import to_array
from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.model import Model, NotServable, shape_text
from cutaway_server.models.repository.folders import Folder, scan
from cutaway_server.models.repository.load import Hardware, Permissions, load, manifest_of
from cutaway_server.models.repository.manifest import MANIFEST
from cutaway_server.prediction.batcher import Engine
from cutaway_server.prediction.engines.choosing import choose_recorded, only_eager, why_only_eager
from cutaway_server.prediction.engines.cuda_graphs import CudaGraphs
from cutaway_server.prediction.engines.opening import open_engine
from cutaway_server.process.trial import Trial

_BATCHES = (1, 2, 8)
_RUNS = 5


def found_in(folder: Path) -> list[Folder]:
    """The versions in a folder: it may be one, or a model, or hold models.

    Raises:
        NotServable: nothing of the kind is in it.
    """
    if (folder / MANIFEST).exists() or folder.resolve().name.isdecimal():
        whole = folder.resolve()
        return [Folder(whole.parent.name, whole.name, whole)]
    whole = folder.resolve()
    if any((version / MANIFEST).exists() for version in whole.iterdir()):
        versions = (version for version in whole.iterdir() if version.is_dir() and not version.name.startswith("."))
        in_order = sorted(versions, key=lambda version: (len(version.name), version.name))
        return [Folder(whole.name, version.name, version) for version in in_order]
    models, broken = scan([whole])
    found = [version for model in models for version in model.versions] + broken
    if not found:
        raise NotServable(f"{folder} holds no model: a {MANIFEST} stands in NAME/VERSION/")
    return found


class Checkup:
    """One model, loaded and tried.

    Args:
        trial: that its engine is made in, as a server does.
    Attributes:
        seconds: of a prediction, by the size of its batch; None for sizes that the network does not take.
        problems: what would fail in production, or surprise.
    Raises:
        NotServable: it cannot be served at all.
    """

    def __init__(self, folder: Folder, permissions: Permissions, device: str, threads: int, trial: Trial) -> None:
        if folder.problem:
            raise NotServable(folder.problem)
        began = time.monotonic()
        model = load(folder.path, folder.name, folder.version, permissions, Hardware(device, threads))
        self.load_seconds = time.monotonic() - began
        with TemporaryDirectory() as made:
            self.model = replace(model, engine=_choose_engine(model, folder, threads, trial, Path(made)))
            engine = open_engine(self.model)
        self.seconds = {batch: self._time(engine, batch) for batch in _BATCHES}
        self.problems = self._problems()

    def _time(self, engine: Engine, batch: int) -> float | None:
        probe = tuple(to_array(argument.cpu()) for argument in self.model.probe(batch))
        spent = []
        for _ in range(_RUNS):
            began = time.perf_counter()
            try:
                engine.run(probe)
            except Exception:  # whatever a stranger's network raises
                return None
            spent.append(time.perf_counter() - began)
        return median(spent)

    def _problems(self) -> list[str]:
        model = self.model
        found = [f"Predict fails on batches of {batch}" for batch, seconds in self.seconds.items() if seconds is None]
        if model.not_introspectable:
            found.append(f"Introspect is refused: {model.not_introspectable}")
        if model.class_count and not model.labels:
            found.append(f"its {model.class_count:,} classes have no labels; answers will have numbers only")
        if not any(spec.image for spec in model.inputs):
            found.append("it takes tensors only: no input has an image, so photographs are refused")
        if model.keeps_state:
            found.append(
                "a forward pass writes state of the network's own; mirrors that were stopped in one are made anew, which takes time"
            )
        silent = [layer.name for layer in model.layers if layer.never_fires]
        if silent:
            found.append(
                f"{len(silent)} of its modules never run, and cannot be captured: {', '.join(silent[:5])}{' …' * (len(silent) > 5)}"
            )
        return found

    def facts(self) -> dict[str, Any]:
        """For programs."""
        model = self.model
        return {
            "model": model.name,
            "version": model.version,
            "weights_digest": model.weights_digest,
            "file_digest": model.file_digest,
            "parameters": model.parameter_count,
            "bytes": model.weight_bytes,
            "engine": model.engine.name,
            "engine_speed_up": model.engine.speed_up,
            "engine_deviation": model.engine.deviation,
            "engines_rejected": dict(model.engine.rejected),
            "device": str(model.device),
            "inputs": [{"name": spec.name, "shape": shape_text(spec), "image": bool(spec.image)} for spec in model.inputs],
            "head": model.head,
            "scores": model.scores_kind.value,
            "classes": model.score_classes,
            "layers": [layer.name for layer in model.layers.firing],
            "introspection": model.not_introspectable or "available",
            "cam_methods": [] if model.not_introspectable else possible_methods(model),
            "load_seconds": self.load_seconds,
            "predict_seconds": self.seconds,
            "problems": self.problems,
        }


def _choose_engine(model: Model, folder: Folder, threads: int, trial: Trial, made: Path) -> EngineChoice:
    """As a server would."""
    wanted = manifest_of(folder.path).serving.engine or "auto"
    if wanted == CudaGraphs.name:
        return choose_recorded(model)
    if why := why_only_eager(model.device, model.autocast):
        return only_eager(model.engine, wanted, why)
    return trial.choose_engine(folder, wanted, threads, made)


def print_checkup(checkup: Checkup) -> None:
    """For people."""
    model, out = checkup.model, stdout()
    facts = Table(show_header=False, title=f"{model.name} version {model.version}")
    parameters = f"{model.parameter_count:,} parameters, " if model.parameter_count or not model.weight_bytes else ""
    facts.add_row("weights", f"{parameters}{bytes_text(model.weight_bytes)}, digest {model.weights_digest[:16]}…")
    if model.file_digest:
        facts.add_row("file", f"SHA-256 {model.file_digest}")
    for spec in model.inputs:
        picture = f", or photographs as {spec.image.color} {spec.image.height} x {spec.image.width}" if spec.image else ""
        facts.add_row("input", f"{spec.name}: {str(spec.dtype).removeprefix('torch.')} {shape_text(spec)}{picture}")
    where = f" at {model.head!r}" if model.head else ""
    facts.add_row("scores", f"{model.scores_kind.value}{where}, {model.score_classes:,} classes, {len(model.labels):,} labels")
    engine = model.engine
    said = engine_text(engine.name, engine.speed_up, engine.deviation)
    facts.add_row("engine", f"{said}, on {model.device}, {torch.get_num_threads()} CPU threads")
    for name, why in engine.rejected:
        facts.add_row(f"not {name}", why)
    facts.add_row("loading", seconds_text(checkup.load_seconds))
    for batch, seconds in checkup.seconds.items():
        facts.add_row(f"Predict, batch of {batch}", "fails" if seconds is None else f"{seconds_text(seconds)}, median of {_RUNS}")
    out.print(facts)
    if not model.not_introspectable:
        _print_layers(model)
        out.print("hooks: a private copy shows every layer as the network itself runs it, bit for bit")
        out.print(f"maps: {', '.join(possible_methods(model)) or 'none'}")
    for problem in checkup.problems:
        out.print("note:", style="bold yellow", end=" ")
        out.print(problem, soft_wrap=True)
    out.print("can be served", style="bold green")


def _print_layers(model: Model) -> None:
    table = Table("", "layer", "type", "output", "a sample", "time")
    for layer in model.layers.firing:
        shapes = [pictures.shape_text(["N" if size < 0 else size for size in output.shape]) for output in layer.outputs]
        sizes = [bytes_text(output.bytes_per_sample) for output in layer.outputs]
        table.add_row(str(layer.index), layer.name, layer.type, "\n".join(shapes), "\n".join(sizes), f"{layer.forward_share:.1%}")
    stdout().print(table)
