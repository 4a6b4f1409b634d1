"""The charts of docs/peers.md."""

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from contest import CURVE, CURVED, CUTAWAY
from figures import Contestant, Figures, caller_words, comparisons, title
from networks import CLASSES

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
    mnist = Figures(results, "mnist")
    if any(mnist.by_round(who, CURVE[-1], "rps") for who in CURVED):
        draw_curve(mnist)


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


def draw_curve(figures: Figures) -> None:
    """Answers a second and p99, as callers become many."""
    drawn, axes = pyplot.subplots(1, 2, figsize=(10, 3), layout="constrained")
    for axis, figure, words in zip(axes, ("rps", "p99"), ("answers/s", "p99, ms"), strict=True):
        for who, style in zip(CURVED, ("-", "--"), strict=True):
            line(axis, figures, who, figure, style)
        axis.set_xscale("log", base=2)
        axis.set_xticks(CURVE, map(str, CURVE))
        if figure == "rps":
            axis.set_ylim(bottom=0)
        else:
            axis.set_yscale("log")  # what grows with the callers is a straight line
        axis.set_title(f"mnist, {words}", loc="left", fontsize=9)
        axis.set_xlabel("callers")
    axes[0].legend(frameon=False, fontsize=8)
    save(drawn, "callers")


def line(axis: Any, figures: Figures, who: Contestant, figure: str, style: str) -> None:
    """Medians, with the least and the greatest as a band."""
    found = {callers: list(of) for callers in CURVE if (of := figures.by_round(who, callers, figure).values())}
    colour = OURS if who[0] == CUTAWAY.name else OTHERS
    lows, highs, middles = ([choose(of) for of in found.values()] for choose in (min, max, median))
    axis.fill_between(list(found), lows, highs, color=colour, alpha=0.2, linewidth=0)
    axis.plot(list(found), middles, style, color=colour, marker="o", markersize=3, label=title(who).partition(",")[0])


def save(drawn: Any, name: str) -> None:
    drawn.savefig(DOCS / f"{name}.svg", metadata={"Date": None})
    pyplot.close(drawn)
