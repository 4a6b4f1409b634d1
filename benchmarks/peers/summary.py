"""The first tables of docs/peers.md: what matters most, and Cutaway as callers become many."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from contest import CURVE, CURVED, CUTAWAY, FIRST, NARROW, OVERLOAD, PEERS
from figures import Comparison, Contestant, Figures, comparisons, number, quotients, spread, table, title
from servers import echo, in_process, serving_thread_ort
from servers.cutaway import NARROW_WAITING

OURS = (CUTAWAY.name, "auto")
EAGER_PEERS = tuple((server.name, "eager") for server in PEERS)
ECHO, THREAD = (echo.SERVER.name, "none"), (serving_thread_ort.SERVER.name, "onnxruntime")
IN_PROCESS = (in_process.SERVER.name, "auto")
BUSY = 32  # callers from which on more bring no more answers


def engines(results: dict[str, Any]) -> str:
    """What Cutaway chose for the folder."""
    runs = [run for one in Figures(results, "lite0").starts(IN_PROCESS) for run in one["runs"]]
    return f"For EfficientNet-Lite0 Cutaway chose {runs[0]['engine']}.\n" if runs else ""


def summary(results: dict[str, Any]) -> str:
    """Cutaway's figures as ratios to others, one line each."""
    mnist, lite0 = (Figures(results, network) for network in ("mnist", "lite0"))
    heads = ["Cutaway's figure to the other's", "1 caller", "8; Lite0: 4", "32; Lite0: 16"]
    rows = [_to_best("`mnist`", mnist, one) for one in comparisons()[:3]]
    rows += [
        _to_one("`mnist`, requests/s to a bare grpcio echo", mnist, ECHO, "rps"),
        _to_one("`mnist`, requests/s to grpcio's serving thread + ONNX Runtime", mnist, THREAD, "rps"),
        _to_one("`mnist`, the server's CPU a request to the same", mnist, THREAD, "server_cpu_ms"),
    ]
    rows += [_to_best("EfficientNet-Lite0", lite0, one) for one in comparisons()[:3]]
    rows += [
        _to_one("EfficientNet-Lite0, images/s to the same engine in process", lite0, IN_PROCESS, "rps"),
        _to_one("EfficientNet-Lite0, the server's CPU an image to the same", lite0, IN_PROCESS, "server_cpu_ms"),
    ]
    rows += [_p99(name, figures) for name, figures in (("`mnist`", mnist), ("EfficientNet-Lite0", lite0))]
    singles = [*_starts(mnist, lite0), *_many(mnist)]
    parts = [(heads, rows), (["", "seen"], singles)]
    said = [table(heads, filled) for heads, found in parts if (filled := [row for row in found if any(row[1:])])]
    return "### In short\n\n" + "\n".join(said) if said else ""


def _to_best(name: str, figures: Figures, comparison: Comparison) -> list[str]:
    cells = []
    for callers in figures.callers:
        best = figures.best(comparison.others, callers, "rps", max)
        cells.append(spread(figures.ratio(comparison.ours, best, callers)) if best else "")
    return [f"{name}, requests/s to the best peer's, {comparison.title}", *cells]


def _to_one(name: str, figures: Figures, other: Contestant, figure: str) -> list[str]:
    return [name, *(spread(figures.ratio(OURS, other, callers, figure)) for callers in figures.callers)]


def _p99(name: str, figures: Figures) -> list[str]:
    cells = []
    for callers in figures.callers:
        best = figures.best(EAGER_PEERS, callers, "p99", min)
        cells.append(spread(figures.ratio(OURS, best, callers, "p99")) if best else "")
    return [f"{name}, p99 to the lowest of a peer, as a user gets it", *cells]


def _starts(mnist: Figures, lite0: Figures) -> Iterable[list[str]]:
    """Memory and start beside the peer with the least."""
    for name, figures, ours in (
        ("`mnist`", mnist, OURS),
        ("EfficientNet-Lite0, first start", lite0, (FIRST.name, "auto")),
        ("EfficientNet-Lite0, started again", lite0, OURS),
    ):
        yield [f"{name}: resident memory to the least of a peer", spread(figures.to_least(ours, EAGER_PEERS, "memory_mib"))]
        yield [f"{name}: start to first answer to the least of a peer", spread(figures.to_least(ours, EAGER_PEERS, "start_s"))]


def _many(figures: Figures) -> list[list[str]]:
    """What more callers than are served at once meet."""
    shares = of_peak(figures, OURS)
    lowest = [min(of[callers] for callers in of if callers >= BUSY) for of in shares.values() if max(of) >= BUSY]
    few, most = (figures.by_round(OURS, callers, "p99") for callers in (BUSY, CURVE[-1]))
    slope = [ratio * BUSY / CURVE[-1] for ratio in quotients(most, few)]
    rows = [
        [f"`mnist`, {BUSY} to {CURVE[-1]} callers: fewest answers/s to the most of all", spread(lowest)],
        [f"`mnist`, p99 a caller: at {CURVE[-1]} callers to that at {BUSY}", spread(slope)],
    ]
    narrow = f"`mnist`, {CURVE[-1]} callers of whom {NARROW_WAITING} may wait"
    return [*rows, [narrow, _refusals(figures)]]


def _refusals(figures: Figures) -> str:
    """What those are told who come when as many wait as may wait."""
    who, callers = (NARROW.name, "auto"), CURVE[-1]
    answered, p99, refused, seconds, within = (
        figures.by_round(who, callers, name) for name in ("rps", "p99", "refused", "seconds", "refused_p99")
    )
    if not answered:
        return ""
    said = f"{spread(answered.values())} answers/s, p99 {spread(p99.values())} ms"
    return f"{said}; {spread(quotients(refused, seconds))} refused/s, p99 {spread(within.values())} ms"


def of_peak(figures: Figures, who: Contestant) -> dict[int, dict[int, float]]:
    """Answers a second as shares of the most in the round, by round and callers."""
    rates: dict[int, dict[int, float]] = {}
    for callers in CURVE:
        for number_of_round, rate in figures.by_round(who, callers, "rps").items():
            rates.setdefault(number_of_round, {})[callers] = rate
    return {one: {callers: rate / max(of.values()) for callers, rate in of.items()} for one, of in rates.items()}


def memory(results: dict[str, Any]) -> str:
    """What an engine without PyTorch in the serving process would save."""
    figures = Figures(results, "mnist")
    whole, bare = (figures.of_start(who, "memory_mib").values() for who in (OURS, THREAD))
    if not (whole and bare):
        return ""
    with_torch, without = median(whole), median(bare)
    return (
        f"`mnist` takes {number(with_torch)} MiB in Cutaway, and {number(without)} MiB in a process of grpcio and ONNX Runtime. "
        f"An engine without PyTorch in the serving process would save {number(with_torch - without)} MiB at most.\n"
    )


def curve(results: dict[str, Any]) -> str:
    """Cutaway, and some peers, as callers become many."""
    figures = Figures(results, "mnist")
    peers = [who for who in CURVED if who != OURS and figures.by_round(who, CURVE[-2], "rps")]
    shares = of_peak(figures, OURS).values()
    rows = []
    for callers in (*CURVE, OVERLOAD):
        rates, p50, p99 = (figures.by_round(OURS, callers, name).values() for name in ("rps", "p50", "p99"))
        if rates:
            peak = [of[callers] for of in shares if callers in of]
            refused = quotients(*(figures.by_round(OURS, callers, name) for name in ("refused", "seconds")))
            ours = [*map(spread, (rates, peak, p50, p99, [one / callers for one in p99], refused))]
            rows.append([str(callers), *ours, *(_beside(figures, who, callers) for who in peers)])
    if len(rows) <= len(figures.callers):
        return ""
    heads = ["callers", "answers/s", "of the most", "p50, ms", "p99, ms", "p99 a caller, ms", "refused/s"]
    heads += [f"{title(who).partition(',')[0]}: answers/s; p99, ms" for who in peers]
    return "### `mnist`, as callers become many\n\n" + table(heads, rows)


def _beside(figures: Figures, who: Contestant, callers: int) -> str:
    rates, p99 = (figures.by_round(who, callers, name).values() for name in ("rps", "p99"))
    return f"{number(median(rates))}; {number(median(p99))}" if rates else ""
