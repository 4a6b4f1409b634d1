"""What was found, as the tables of docs/peers.md."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from contest import CALLERS, CUTAWAY, MARKS, PEERS, SERVERS, Found
from networks import CLASSES

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
CHARTS = {
    "peers.svg": "Requests a second of Cutaway and of five other servers as users get them, by network and number of callers",
    "callers.svg": "Answers a second and the 99th percentile of Cutaway, for 1 to 512 callers of mnist",
}
BEGIN, END = "<!-- what follows is written by `make bench-peers` -->\n", "<!-- until here -->\n"
TITLES = {"mnist": "`mnist`", "lite0": "EfficientNet-Lite0"}
ENGINES = {"auto": "its own choice", "eager": "PyTorch eager", "onnxruntime": "ONNX Runtime"}

Contestant = tuple[str, str]
"""A server's name and an engine."""


@dataclass(frozen=True)
class Comparison:
    """Cutaway with an engine, and those beside whom it is put."""

    title: str
    ours: Contestant
    others: tuple[Contestant, ...]


def comparisons() -> list[Comparison]:
    eager = tuple((server.name, "eager") for server in PEERS)
    onnxruntime = tuple((server.name, "onnxruntime") for server in PEERS if "onnxruntime" in server.engines)
    marks = tuple((server.name, engine) for server in MARKS for engine in server.engines)
    return [
        Comparison("as a user gets it", (CUTAWAY.name, "auto"), eager),
        Comparison("PyTorch eager in all", (CUTAWAY.name, "eager"), eager),
        Comparison("ONNX Runtime in all that can", (CUTAWAY.name, "onnxruntime"), onnxruntime),
        Comparison("beside other marks", (CUTAWAY.name, "auto"), marks),
    ]


class Figures:
    """What was found of one network."""

    def __init__(self, results: dict[str, Any], network: str) -> None:
        self.callers = CALLERS[network]
        self._starts = [one for one in results["found"] if one["network"] == network and "curve" not in one]

    def starts(self, who: Contestant) -> list[Found]:
        return [one for one in self._starts if (one["server"], one["engine"]) == who]

    def by_round(self, who: Contestant, callers: int, figure: str) -> dict[int, float]:
        runs = ((one["round"], run) for one in self.starts(who) for run in one["runs"])
        return {number: run[figure] for number, run in runs if run["callers"] == callers}

    def ratio(self, ours: Contestant, other: Contestant, callers: int, figure: str = "rps") -> list[float]:
        """Ours to the other's, round by round."""
        mine, theirs = (self.by_round(who, callers, figure) for who in (ours, other))
        return [mine[number] / theirs[number] for number in mine.keys() & theirs.keys()]

    def best(self, others: Iterable[Contestant], callers: int, figure: str, choose: Callable[..., Any]) -> Contestant | None:
        """The other with the highest, or lowest, median."""
        known = [who for who in others if self.by_round(who, callers, figure)]
        return choose(known, key=lambda who: median(self.by_round(who, callers, figure).values()), default=None)


def report(results: dict[str, Any]) -> str:
    """All tables."""
    parts = [machine(results)]
    for network in CLASSES:
        figures = Figures(results, network)
        parts += (throughput(figures, network, comparison) for comparison in comparisons())
        parts += [times(figures, network), resources(figures, network)]
    return "\n".join(part for part in [*parts, curve(results), failures(results), settings()] if part)


def machine(results: dict[str, Any]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    busiest = max((run.get("others_cpu", 0) for one in results["found"] for run in one["runs"]), default=0)
    length = f"{results['rounds']} rounds, {results['seconds']:g} s a measurement"
    return f"{said}; {length}. Other programs took {busiest:.2f} of a CPU at most.\n"


def throughput(figures: Figures, network: str, comparison: Comparison) -> str:
    """Requests a second, and how many times as many Cutaway answers."""
    rows = []
    for who in (comparison.ours, *comparison.others):
        cells = []
        for callers in figures.callers:
            rate = spread(figures.by_round(who, callers, "rps").values())
            ratio = "" if who == comparison.ours else spread(figures.ratio(comparison.ours, who, callers))
            cells += [rate, ratio]
        if any(cells):
            rows.append([title(who), *cells])
    if len(rows) < 2:
        return ""
    best = ["**the best of them**"]
    for callers in figures.callers:
        who = figures.best(comparison.others, callers, "rps", max)
        best += ["", bold(spread(figures.ratio(comparison.ours, who, callers))) if who else ""]
    heads = [cell for callers in figures.callers for cell in (caller_words(callers), "ratio")]
    marks = comparison.others == comparisons()[-1].others
    return f"### {TITLES[network]}, requests/s, {comparison.title}\n\n" + table(["", *heads], [*rows, *([] if marks else [best])])


def times(figures: Figures, network: str) -> str:
    """p50 and p99 of an answer."""
    rows = []
    for who in contestants():
        cells = []
        for callers in figures.callers:
            p50, p99 = (figures.by_round(who, callers, name).values() for name in ("p50", "p99"))
            cells.append(f"{number(median(p50))}; {spread(p99)}" if p50 else "")
        if any(cells):
            rows.append([title(who), *cells])
    if not rows:
        return ""
    ours, others = comparisons()[0].ours, comparisons()[0].others
    best = ["**p99 of Cutaway beside the lowest of a peer, as a user gets them**"]
    for callers in figures.callers:
        who = figures.best(others, callers, "p99", min)
        best.append(bold(spread(figures.ratio(ours, who, callers, "p99"))) if who else "")
    return f"### {TITLES[network]}, ms to an answer: p50; p99\n\n" + table(["", *map(caller_words, figures.callers)], [*rows, best])


def resources(figures: Figures, network: str) -> str:
    """Memory, start, and CPU time of the server."""
    rows = []
    for who in contestants():
        starts = figures.starts(who)
        memory, start = ([one[name] for one in starts if name in one] for name in ("memory_mib", "start_s"))
        cpu = figures.by_round(who, figures.callers[-1], "server_cpu_ms").values()
        if memory or cpu:
            rows.append([title(who), spread(memory), spread(start), spread(cpu)])
    heads = ["", "resident, MiB", "start to first answer, s", f"CPU of the server a request, ms, {figures.callers[-1]} callers"]
    return f"### {TITLES[network]}, memory and start\n\n" + table(heads, rows) if rows else ""


def curve(results: dict[str, Any]) -> str:
    """Cutaway as callers become many."""
    found = curve_runs(results)
    rows = []
    for callers, runs in found.items():
        figures = [spread([run[name] for run in runs]) for name in ("rps", "p50", "p99")]
        rows.append([str(callers), *figures, spread([run["refused"] / run["seconds"] for run in runs])])
    return (
        "### `mnist`, as callers become many\n\n" + table(["callers", "answers/s", "p50, ms", "p99, ms", "refused/s"], rows)
        if rows
        else ""
    )


def curve_runs(results: dict[str, Any]) -> dict[int, list[Found]]:
    """The runs of the curve, by callers."""
    found: dict[int, list[Found]] = {}
    for one in results["found"]:
        for run in one["runs"] if "curve" in one else ():
            found.setdefault(run["callers"], []).append(run)
    return found


def failures(results: dict[str, Any]) -> str:
    failed = {(one["server"], one["network"], one["engine"]): one["failed"] for one in results["found"] if "failed" in one}
    lines = [f"- {title((name, engine))}, {TITLES[network]}: {why}\n" for (name, network, engine), why in failed.items()]
    lines += [f"- {title((name, ''))}: {why}\n" for name, why in results["missing"].items()]
    return "### What did not run\n\n" + "".join(lines) if lines else ""


def settings() -> str:
    return "### Settings\n\n" + table(["", "set up as"], [[server.title, server.settings] for server in SERVERS])


def contestants() -> list[Contestant]:
    return [(server.name, engine) for server in SERVERS for engine in server.engines]


def title(who: Contestant) -> str:
    name, engine = who
    server = next(one for one in SERVERS if one.name == name)
    return server.title if server in MARKS or not engine else f"{server.title}, {ENGINES[engine]}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def bold(words: str) -> str:
    return words and f"**{words}**"


def caller_words(callers: int) -> str:
    return f"{callers} caller{'s' if callers > 1 else ''}"


def spread(values: Iterable[float]) -> str:
    """Median, least and greatest."""
    known = list(values)
    if len(known) < 2:
        return "".join(map(number, known))
    return f"{number(median(known))} ({between(known)})"


def between(values: Iterable[float]) -> str:
    return f"{number(min(values))} to {number(max(values))}"


def number(value: float) -> str:
    """Three figures; whole numbers in full."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def write(results: dict[str, Any]) -> None:
    """Puts charts and tables in place of those on the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text("\n".join([before + BEGIN, _drawn(), report(results), END + rest.partition(END)[2]]))


def _drawn() -> str:
    """The charts that there are: a run that was broken off has not drawn all."""
    return "".join(f"![{what}]({name})\n\n" for name, what in CHARTS.items() if (PAGE.parent / name).exists())
