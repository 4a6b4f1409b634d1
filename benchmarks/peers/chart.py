"""The charts of docs/peers.md."""

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from contest import CUTAWAY
from networks import CLASSES
from table import Contestant, Figures, caller_words, comparisons, curve_runs, title

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "peers", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False})
matplotlib.rcParams.update({"axes.spines.right": False, "font.family": "sans-serif"})
from matplotlib import pyplot  # noqa: E402  # after the choice of what draws

DOCS = Path(__file__).parents[2] / "docs"
OURS, OTHERS = "#d1495b", "#8d99ae"
SHORT = {"mnist": "mnist", "lite0": "EfficientNet-Lite0"}


def draw(results: dict[str, Any]) -> None:
    """Writes docs/peers.svg and docs/callers.svg, as far as there are figures."""
    draw_peers(results)
    if curve_runs(results):
        draw_curve(results)


def draw_peers(results: dict[str, Any]) -> None:
    """Requests a second of all, as a user gets them: a row a network, a column a number of callers."""
    first = comparisons()[0]
    drawn, axes = pyplot.subplots(len(CLASSES), 3, figsize=(10, 4.6), layout="constrained")
    for row, network in zip(axes, CLASSES, strict=True):
        figures = Figures(results, network)
        for axis, callers in zip(row, figures.callers, strict=True):
            bars(axis, figures, [first.ours, *first.others], callers)
            axis.set_title(f"{SHORT[network]}, {caller_words(callers)}", loc="left", fontsize=9)
            axis.tick_params(left=False, labelleft=axis is row[0])
        row[1].set_xlabel("requests/s: median, least and greatest of the rounds")
    save(drawn, "peers")


def bars(axis: Any, figures: Figures, who: list[Contestant], callers: int) -> None:
    for at, one in enumerate(who):
        rates = list(figures.by_round(one, callers, "rps").values())
        if rates:
            middle = median(rates)
            error = [[middle - min(rates)], [max(rates) - middle]]
            axis.barh(at, middle, xerr=error, color=OURS if one[0] == CUTAWAY.name else OTHERS, ecolor="#444", capsize=2)
    axis.set_yticks(range(len(who)), [title(one).partition(",")[0] for one in who])
    axis.invert_yaxis()


def draw_curve(results: dict[str, Any]) -> None:
    """Answers a second and p99, as callers become many."""
    runs = curve_runs(results)
    drawn, axes = pyplot.subplots(1, 2, figsize=(10, 2.8), layout="constrained")
    for axis, figure, words in zip(axes, ("rps", "p99"), ("answers/s", "p99, ms"), strict=True):
        values = [[run[figure] for run in found] for found in runs.values()]
        axis.fill_between(list(runs), [min(of) for of in values], [max(of) for of in values], color=OURS, alpha=0.2, linewidth=0)
        axis.plot(list(runs), [median(of) for of in values], color=OURS, marker="o", markersize=3)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(runs), map(str, runs))
        if figure == "rps":
            axis.set_ylim(bottom=0)
        else:
            axis.set_yscale("log")  # what grows with the callers is a straight line
        axis.set_title(f"mnist, {words}", loc="left", fontsize=9)
        axis.set_xlabel("callers")
    save(drawn, "callers")


def save(drawn: Any, name: str) -> None:
    drawn.savefig(DOCS / f"{name}.svg", metadata={"Date": None})
    pyplot.close(drawn)
