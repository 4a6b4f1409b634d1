"""Rows of two sides that are measured in turn, round by round, and shown as ratios. Nothing is asserted."""

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from report import machine_words, ratio_cells, table_of_figures
from rich.progress import Progress

from cutaway.cli._command import print_json, progress_bar, stdout
from cutaway_server.models.threads import available_cpus
from cutaway_server.process.settings import Settings

ROW_LIMIT = 40  # seconds: no round of a row begins after it, save the first two


@dataclass(frozen=True)
class Sides:
    """What is measured of a row. Each side makes the calls of one round and tells how many seconds each took.

    Attributes:
        setting: threads, callers, lanes, sizes.
        mb: of one call's answer, where a rate is shown.
        notes: filled in while it is measured.
    """

    ours: Callable[[], list[float]]
    against: Callable[[], list[float]]
    setting: str
    mb: float = 0.0
    notes: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Row:
    """One comparison. Its `figure` makes one number of seconds of the times of many calls."""

    name: str
    what: str
    against: str
    wanted: str
    sides: Callable[[Any], Sides]
    unit: str = "ms"
    figure: Callable[[Sequence[float]], float] = median


def times(call: Callable[[], object], calls: int) -> Callable[[], list[float]]:
    """So many calls, one after the other."""

    def run() -> list[float]:
        taken = []
        for _ in range(calls):
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
        return taken

    return run


def p99(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=100, method="inclusive")[98]


def cpu_of_others() -> float:
    """Seconds of CPU that all processes of the machine but these have taken so far; NaN where that cannot be told."""
    ours = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    try:
        everybody = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:4]  # user, nice, system
        mine = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in ours]  # user, system
    except OSError:
        return float("nan")
    return (sum(map(int, everybody)) - sum(map(int, chain(*mine)))) / os.sysconf("SC_CLK_TCK")


def measure(row: Row, stage: Any, rounds: int, progress: Progress) -> dict[str, Any]:
    """A warm-up, then rounds; who goes first changes from round to round."""
    task = progress.add_task(f"{row.name}: starting", total=rounds + 1)
    progress.refresh()
    sides = row.sides(stage)
    found: tuple[list[list[float]], list[list[float]]] = [], []
    began, others = time.monotonic(), cpu_of_others()
    for number in range(rounds + 1):
        if number > 2 and time.monotonic() > began + ROW_LIMIT:
            break
        order = (0, 1) if number % 2 else (1, 0)
        for side in order:
            found[side].append((sides.ours, sides.against)[side]())
        progress.update(task, advance=1, description=f"{row.name}: round {number}" if number else row.name, refresh=True)
    progress.remove_task(task)
    ours, against = (times[1:] for times in found)  # [0]: the warm-up
    others = (cpu_of_others() - others) / (time.monotonic() - began)
    return {**result(row, sides, ours, against), "cpus_of_others": others}


def result(row: Row, sides: Sides, ours: list[list[float]], against: list[list[float]]) -> dict[str, Any]:
    """The figures of a row. Of the rates the ratio is the inverse of that of times."""

    def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
        of_times = row.figure(mine) / row.figure(theirs)
        return 1 / of_times if row.unit == "MB/s" else of_times

    def shown(rounds: list[list[float]]) -> float:
        seconds = row.figure(list(chain(*rounds)))
        return sides.mb / seconds if row.unit == "MB/s" else 1e3 * seconds

    low, _, high = quantiles(map(ratio, ours, against), n=4, method="inclusive")
    return {
        "row": row.name,
        "what": row.what,
        "against": row.against,
        "setting": sides.setting,
        "unit": row.unit,
        "figure": row.figure.__name__,
        "ours": shown(ours),
        "theirs": shown(against),
        "ratio": ratio(list(chain(*ours)), list(chain(*against))),
        "ratio_quartiles": [low, high],
        "wanted": row.wanted,
        "rounds": len(ours),
        "calls": [sum(map(len, ours)), sum(map(len, against))],
        "notes": sides.notes(),
    }


def show(report: dict[str, Any]) -> None:
    """The report as a table."""
    table = table_of_figures("row", "what", "against", "ours", "against it", "ratio", "quartiles", "wanted", words=3)
    for found in report["rows"]:
        form = ".1f" if found["unit"] == "ms" else ",.0f"
        figures = (f"{found[side]:{form}} {found['unit']}" for side in ("ours", "theirs"))
        table.add_row(found["row"], found["what"], found["against"], *figures, *ratio_cells(found), found["wanted"])
    console = stdout()
    console.print(table)
    for found in report["rows"]:
        notes = f" {found['notes']}." if found["notes"] else ""
        counts = f"{found['rounds']} rounds, {found['calls'][0]} calls; {found['cpus_of_others']:.2f} CPUs taken by others"
        console.print(f"{found['row']}: {found['setting']}; {counts}.{notes}")
    console.print("Ratio: of the figures of all calls (medians, or the p99). Quartiles: of that ratio, round by round.")
    console.print(f"{machine_words(report)}.")


def run(about: str | None, rows: Sequence[Row], make_stage: Callable[[ExitStack, int], Any], machine: dict[str, Any]) -> None:
    """The command of a benchmark.

    Args:
        make_stage: what its rows measure with, from a stack that ends it and the number of threads.
        machine: what is said of what was measured, besides CPUs and versions.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in rows]
    only = f"a row to measure, and no other; may be given again ({', '.join(names)})"
    parser.add_argument("--only", action="append", choices=names, metavar="ROW", help=only)
    parser.add_argument("--rounds", type=int, choices=range(2, 101), default=12, metavar="2..100", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of the table")
    options = parser.parse_args()
    threads = Settings().threads  # the server's own setting: it reads the same environment
    torch.set_num_threads(threads)
    bar = progress_bar()
    bar.live.auto_refresh = False  # a bar that draws itself takes time from what is measured
    with ExitStack() as stack, bar as progress:
        stage = make_stage(stack, threads)
        found = [measure(row, stage, options.rounds, progress) for row in rows if not options.only or row.name in options.only]
    versions = {"Python": platform.python_version(), **{name: version(name) for name in ("grpcio", "torch", "torchvision")}}
    report = {"rows": found, "machine": {**machine, "CPUs": available_cpus(), **versions}}
    (print_json if options.json else show)(report)
