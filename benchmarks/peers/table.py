"""What was found, as the tables of docs/peers.md."""

from pathlib import Path
from statistics import median
from typing import Any

from contest import SERVERS
from figures import TITLES, Comparison, Figures, bold, caller_words, comparisons, contestants, number, spread, table, title
from networks import CLASSES
from summary import curve, engines, memory, summary

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
CHARTS = {
    "peers.svg": "Requests a second of Cutaway and of five other servers as users get them, by network and number of callers",
    "callers.svg": "Answers a second and the 99th percentile of Cutaway and TorchServe, for 1 to 256 callers of mnist",
}
BEGIN, END = "<!-- what follows is written by `make bench-peers` -->\n", "<!-- until here -->\n"


def report(results: dict[str, Any]) -> str:
    """All tables."""
    parts = [machine(results), engines(results), summary(results), memory(results), curve(results)]
    for network in CLASSES:
        figures = Figures(results, network)
        parts += (throughput(figures, network, comparison) for comparison in comparisons())
        parts += [times(figures, network), resources(figures, network)]
    return "\n".join(part for part in [*parts, failures(results), settings()] if part)


def machine(results: dict[str, Any]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    busiest = max((run.get("others_cpu", 0) for one in results["found"] for run in one["runs"]), default=0)
    rounds, seconds = len({one["round"] for one in results["found"]}), results["seconds"]  # those that came to be
    length = f"{rounds} round{'s' * (rounds > 1)}, {seconds:g} s a measurement, {2 * seconds:g} s for EfficientNet-Lite0"
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


def failures(results: dict[str, Any]) -> str:
    failed = {(one["server"], one["network"], one["engine"]): one["failed"] for one in results["found"] if "failed" in one}
    lines = [f"- {title((name, engine))}, {TITLES[network]}: {why}\n" for (name, network, engine), why in failed.items()]
    lines += [f"- {title((name, ''))}: {why}\n" for name, why in results["missing"].items()]
    return "### What did not run\n\n" + "".join(lines) if lines else ""


def settings() -> str:
    return "### Settings\n\n" + table(["", "set up as"], [[server.title, server.settings] for server in SERVERS])


def write(results: dict[str, Any]) -> None:
    """Puts charts and tables in place of those on the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text("\n".join([before + BEGIN, _drawn(), report(results), END + rest.partition(END)[2]]))


def _drawn() -> str:
    """The charts that there are: a run that was broken off has not drawn all."""
    return "".join(f"![{what}]({name})\n\n" for name, what in CHARTS.items() if (PAGE.parent / name).exists())
