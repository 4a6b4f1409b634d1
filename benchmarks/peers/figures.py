"""What was found, by network, contestant, number of callers and round; and how numbers are written."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from contest import CALLERS, CUTAWAY, FIRST, MARKS, NARROW, PEERS, SERVERS, Found

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


def contestants() -> list[Contestant]:
    return [(server.name, engine) for server in SERVERS if server is not NARROW for engine in server.engines]


def title(who: Contestant) -> str:
    """For tables."""
    name, engine = who
    server = next(one for one in SERVERS if one.name == name)
    return server.title if server in (FIRST, NARROW, *MARKS) or not engine else f"{server.title}, {ENGINES[engine]}"


class Figures:
    """What was found of one network. Figures come by round."""

    def __init__(self, results: dict[str, Any], network: str) -> None:
        self.callers = CALLERS[network]
        self._starts = [one for one in results["found"] if one["network"] == network]

    def starts(self, who: Contestant) -> list[Found]:
        return [one for one in self._starts if (one["server"], one["engine"]) == who]

    def by_round(self, who: Contestant, callers: int, figure: str) -> dict[int, float]:
        runs = ((one["round"], run) for one in self.starts(who) for run in one["runs"])
        return {number: run[figure] for number, run in runs if run["callers"] == callers}

    def of_start(self, who: Contestant, figure: str) -> dict[int, float]:
        """Memory, or seconds to the first answer."""
        return {one["round"]: one[figure] for one in self.starts(who) if figure in one}

    def ratio(self, ours: Contestant, other: Contestant, callers: int, figure: str = "rps") -> list[float]:
        """Ours to the other's, round by round."""
        return quotients(*(self.by_round(who, callers, figure) for who in (ours, other)))

    def best(self, others: Iterable[Contestant], callers: int, figure: str, choose: Callable[..., Any]) -> Contestant | None:
        """The other with the highest, or lowest, median."""
        found = {who: self.by_round(who, callers, figure).values() for who in others}
        return choose((who for who in found if found[who]), key=lambda who: median(found[who]), default=None)

    def to_least(self, ours: Contestant, others: Iterable[Contestant], figure: str) -> list[float]:
        """Our memory, or start, to that of the other with the least."""
        found = {who: of for who in others if (of := self.of_start(who, figure))}
        least = min(found, key=lambda who: median(found[who].values()), default=None)
        return quotients(self.of_start(ours, figure), found[least]) if least else []


def quotients(mine: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Of each round that has both."""
    return [mine[number] / theirs[number] for number in mine.keys() & theirs.keys()]


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
