"""Which engine runs Predict: tried against the network itself, timed beside it, and taken if it is equal and faster."""

import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from cutaway_server.models.arrays import Array, to_array, to_tensor
from cutaway_server.models.engine_choice import EngineChoice, Timing
from cutaway_server.models.model import Model, NotServable, Shape, said
from cutaway_server.models.model import probe as draw_probe
from cutaway_server.models.onnx_export import NotExportable
from cutaway_server.models.sources.onnx import OnnxNetwork
from cutaway_server.models.threads import use_cpu_threads
from cutaway_server.prediction.batcher import Engine
from cutaway_server.prediction.engines.cuda_graphs import CudaGraphs, NotRecordable
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.prediction.engines.opening import RUNTIMES, installed, open_runtime

TOLERANCE = 1e-4
"""How far an engine's scores may be from the network's own, as a share of the largest of them."""

_NO_FILE = "it was handed in by a program, and exporting it in that program's own process would disturb other networks there"
_CHECKED = (1, 3, 8)  # sizes of batches
_TIMED = (1, 8)
_ROUNDS = 5
_AT_LEAST, _ENOUGH = 0.05, 3.0  # seconds that timing one size of batch may take

Timings = MutableMapping[str, tuple[Timing, ...]]
Answers = list[tuple[tuple[Array, ...], Array | None]]  # to the probes, by the network itself; None where it fails


class NotTaken(Exception):
    """Why an engine does not run a model, in one line."""


def choose_engine(
    model: Model,
    wanted: str,
    threads: int,
    onnx: Callable[[], tuple[Path, str]],
    timings: Timings,
    runtimes: tuple[str, ...] = RUNTIMES,
) -> EngineChoice:
    """The engine that is wanted, or for "auto" the fastest of those that give what the network gives.

    The caller has PyTorch use as many threads as Predict will.

    Args:
        threads: CPU threads that one run may use.
        onnx: gives an ONNX file of the network, and its digest; called where one is needed.
        timings: what was measured before, by names and threads. What is measured now is put there.
        runtimes: that "auto" chooses from.
    Raises:
        NotServable: the one that is wanted by name cannot be taken.
    """
    own = model.engine
    if wanted in ("eager", own.name):
        return own
    names = (wanted,) if wanted != "auto" else tuple(name for name in runtimes if name != own.name and installed(name))
    answers = cache(partial(_answers, model))
    right: list[_Right] = []
    rejected: list[tuple[str, str]] = []
    for name in names:
        try:
            right += _tried(model, name, threads, onnx, timings, answers)
        except (NotTaken, NotExportable, NotServable) as why:
            if wanted != "auto":
                raise NotServable(f"engine {name} cannot run it: {why}") from why
            rejected.append((name, str(why)))
    timings.update(_timings(model, {one.key: one.engine for one in right if one.key not in timings}))
    choices = [replace(one.choice, timings=timings[one.key]) for one in right]
    fastest = {choice.name: choice for choice in sorted(choices, key=lambda choice: choice.speed_up)}
    taken = [own, *fastest.values()]
    best = taken[-1] if wanted != "auto" else max(taken, key=lambda choice: choice.speed_up)
    rejected += [(other.name, _slower(other, best)) for other in taken if other is not best and other is not own]
    return EngineChoice(**{**vars(best), "rejected": tuple(rejected)})


def choose_in_process(model: Model, wanted: str, threads: int) -> Model:
    """A model that was handed in, with its engine: one that runs the ONNX file that it brings along, or eager.

    It is not exported: that takes tracing, which changes how PyTorch runs in the whole process.

    Raises:
        NotServable: the engine that is wanted by name cannot run it.
    """
    if wanted == CudaGraphs.name:
        return replace(model, engine=choose_recorded(model))
    if why := why_only_eager(model.device, model.autocast) or ("" if model.onnx else _NO_FILE):
        return replace(model, engine=only_eager(model.engine, wanted, why))

    def choose() -> EngineChoice:
        use_cpu_threads(threads)
        assert model.onnx is not None
        own = model.onnx
        # A package that is loaded takes memory for good, so only the one that is likely to be taken is.
        return choose_engine(model, wanted, threads, lambda: (own, ""), {}, runtimes=("onnxruntime",))

    with ThreadPoolExecutor(1) as own_thread:  # whose CPU threads end with it
        return replace(model, engine=own_thread.submit(choose).result())


def choose_recorded(model: Model) -> EngineChoice:
    """For a model on a CUDA device: its kernels recorded. Traces nothing, so that it may be done in a process that serves.

    Raises:
        NotServable: they cannot be, or do not give what the network gives.
    """
    try:
        engine = CudaGraphs(model)
        answers = _answers(model)
        for probe, expected in answers:
            if expected is not None:
                engine.record(probe)
        deviation = _deviation(model, engine, answers)
    except (NotTaken, NotRecordable) as why:
        raise NotServable(f"engine {CudaGraphs.name} cannot run it: {why}") from why
    return EngineChoice(engine.name, deviation=deviation, tolerance=TOLERANCE, timings=_timings(model, {"": engine})[""])


def why_only_eager(device: torch.device, autocast: torch.dtype | None) -> str:
    """Why a model runs as it is, whatever it is like; empty where others may run it."""
    if device.type != "cpu":
        return f"it runs on {device}, and other engines than cudagraphs run on the CPU alone"
    if autocast is not None:
        return f"it runs in {str(autocast).removeprefix('torch.')} where PyTorch deems that safe, which PyTorch alone does"
    return ""


def only_eager(own: EngineChoice, wanted: str, why: str) -> EngineChoice:
    """The choice where only the network as it is can run.

    Raises:
        NotServable: another engine is wanted by name.
    """
    if wanted in ("eager", own.name):
        return own
    if wanted != "auto":
        raise NotServable(f"engine {wanted} cannot run it: {why}")
    return EngineChoice(own.name, rejected=tuple((name, why) for name in RUNTIMES if name != own.name and installed(name)))


class _Right(NamedTuple):
    """An engine that gives what the network gives, with so many threads."""

    choice: EngineChoice
    engine: Engine

    @property
    def key(self) -> str:
        """Of its timings."""
        return _key(self.choice.name, self.choice.threads)


def _key(name: str, threads: int) -> str:
    return f"{name} {threads}"


def _tried(
    model: Model, name: str, threads: int, onnx: Callable[[], tuple[Path, str]], timings: Timings, answers: Callable[[], Answers]
) -> list[_Right]:
    """With each number of threads that may be the fastest: small networks run faster on one. That is known where all are timed."""
    if why := why_only_eager(model.device, model.autocast):
        raise NotTaken(why)
    file, sha256 = onnx()
    output = model.head if isinstance(model.network, OnnxNetwork) else ""
    counts = sorted({1, threads})
    if all(_key(name, count) in timings for count in counts):
        counts = [max(counts, key=lambda count: EngineChoice(timings=timings[_key(name, count)]).speed_up)]
    right = []
    for count in counts:
        engine = open_runtime(name, file, count, output)
        deviation = _deviation(model, engine, answers())
        right.append(_Right(EngineChoice(name, file, sha256, count, deviation, TOLERANCE), engine))
    return right


def _slower(other: EngineChoice, best: EngineChoice) -> str:
    return f"it is right, but {best.name} is faster: {best.speed_up:.2f} times the network itself, against {other.speed_up:.2f}"


def _answers(model: Model) -> Answers:
    itself = Eager(model)
    answers: Answers = []
    for probe in _probes(model):
        try:
            answers.append((probe, itself.run(tuple(argument.copy() for argument in probe))))
        except Exception:  # a size that the network itself does not take
            answers.append((probe, None))
    return answers


def _deviation(model: Model, engine: Engine, answers: Answers) -> float:
    """The greatest difference of the engine's scores from the network's, each as a share of the largest score of its probe.

    Raises:
        NotTaken: it is too great, or the engine fails or says another class, for one of the probes.
    """
    deviations = []
    for probe, expected in answers:
        if expected is None:
            _check_refuses(engine, probe)
        else:
            deviations.append(_compared(model, engine, probe, expected))
    if not deviations:
        raise NotTaken("the network itself runs on none of the probes")
    return max(deviations)


def _check_refuses(engine: Engine, probe: tuple[Array, ...]) -> None:
    """Raises NotTaken where an engine answers what the network itself fails on: an export forgets what Python checks."""
    try:
        engine.run(probe)
    except Exception:  # as it should
        return
    raise NotTaken(f"the network itself fails on {_shapes(probe)}, which it would answer")


def _compared(model: Model, engine: Engine, probe: tuple[Array, ...], expected: Array) -> float:
    shapes = _shapes(probe)
    try:
        given = engine.run(probe)
    except Exception as error:
        raise NotTaken(f"it fails on {shapes}: {type(error).__name__}: {said(error)}") from error
    if given.shape != expected.shape or given.dtype != expected.dtype:
        raise NotTaken(f"for {shapes} it gives {given.dtype} {list(given.shape)}, not {expected.dtype} {list(expected.shape)}")
    scores, own = to_tensor(given, model.scores_dtype).double(), to_tensor(expected, model.scores_dtype).double()
    deviation, scale = float((scores - own).abs().max()), float(own.abs().max())
    share = deviation / scale if scale else deviation
    if not share <= TOLERANCE:  # NaN, too
        raise NotTaken(f"for {shapes} its scores differ by {share:.1e} of the largest one; the limit is {TOLERANCE:.0e}")
    if model.class_count and not torch.equal(scores.argmax(1), own.argmax(1)):
        raise NotTaken(f"for {shapes} it says another class")
    return share


def _shapes(probe: tuple[Array, ...]) -> str:
    return ", ".join(str(list(argument.shape)) for argument in probe)


def _probes(model: Model) -> Iterator[tuple[Array, ...]]:
    """Batches of the usual sizes; and the least, the greatest and the middle ones, where sizes may vary."""
    for seed, batch in enumerate(_CHECKED):
        yield _drawn(model, batch, seed=seed)
    if any(spec.least for spec in model.inputs):
        ends = [(spec.least or spec.shape, spec.most or spec.shape) for spec in model.inputs]
        for part in (0.0, 0.5, 1.0):
            sizes = tuple(tuple(low + int(part * (high - low)) for low, high in zip(*end, strict=True))[1:] for end in ends)
            yield _drawn(model, 1, sizes, seed=7)


def _drawn(model: Model, batch: int, sizes: tuple[Shape, ...] = (), seed: int = 0) -> tuple[Array, ...]:
    return tuple(map(to_array, draw_probe(model.inputs, batch, torch.device("cpu"), sizes, seed)))


def _timings(model: Model, engines: Mapping[str, Engine]) -> Timings:
    """Runs of all in turns, so that what else the machine does slows each."""
    found: dict[str, tuple[Timing, ...]] = dict.fromkeys(engines, ())
    itself = Eager(model)
    runners = [itself, *engines.values()]
    for batch in _TIMED if engines else ():
        probe = _drawn(model, batch)
        try:
            itself.run(probe)
        except Exception:  # a size that the network itself does not take
            continue
        for engine in engines.values():
            engine.run(probe)
        runs: list[list[float]] = []
        spent = 0.0
        while len(runs) < 2 or ((len(runs) < _ROUNDS or spent < _AT_LEAST) and spent < _ENOUGH):
            runs.append([_seconds(runner, probe) for runner in runners])
            spent += sum(runs[-1])
        eager, *others = (median(times) for times in zip(*runs, strict=True))
        for key, seconds in zip(engines, others, strict=True):
            found[key] += (Timing(batch, eager, seconds),)
    return found


def _seconds(engine: Engine, probe: tuple[Array, ...]) -> float:
    began = time.perf_counter()
    engine.run(probe)
    return time.perf_counter() - began
