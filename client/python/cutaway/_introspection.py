"""All that one introspection saw, gathered from its events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, NoReturn, TypeAlias, TypeVar, overload

import numpy as np

from cutaway._errors import NotCaptured, NotInAnswer
from cutaway._events import (
    Activation,
    CamMap,
    CamPicture,
    Event,
    Failure,
    Faithfulness,
    Finished,
    PlannedCam,
    Prediction,
    ScoredClass,
    Started,
    Statistics,
    Timings,
)
from cutaway._tensors import Array

M = TypeVar("M", CamMap, Faithfulness)
V = TypeVar("V")


class Captures(dict[str, V], Generic[V]):
    """Tensors by layer name (or by path within a layer's nested value).

    Looking up what is not there raises NotCaptured: with what the server said of it, or with the names that there are.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self.failures: dict[str, Failure] = {}
        """What failed on the server, by the same names."""

    def __missing__(self, name: str) -> NoReturn:
        if failure := self.failures.get(name):
            raise NotCaptured(f"the {self._what} {name!r} could not be had: {failure.message}", code=failure.code)
        close = get_close_matches(name, self) or list(self)
        there = f"; there is {', '.join(map(repr, close[:8]))}" if close else ""
        raise NotCaptured(f"no {self._what} {name!r} was captured{there}")

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {_brief(value)}" for name, value in self.items()) + "}"


def _brief(value: object) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)


Place: TypeAlias = tuple[int, int]
"""Of a map: its index into the cams of the call, and its rank."""


class Cams(Sequence[M], Generic[M]):
    """One for each map of `started.cams`, in that order.

    Looking up one that failed, or was not asked for, raises NotInAnswer and says why.
    """

    def __init__(self, absent: str, planned: Sequence[PlannedCam], failures: dict[Place, Failure]) -> None:
        self._absent = absent
        self._places = [(cam.cam, cam.rank) for cam in planned]
        self.maps: dict[Place, M] = {}
        """Those that came."""
        self.failures = failures
        """Those that did not."""

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> M: ...
    @overload
    def __getitem__(self, index: slice) -> list[M]: ...
    def __getitem__(self, index: int | slice) -> M | list[M]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = self._places[index]
        if place in self.maps:
            return self.maps[place]
        number = range(len(self))[index]
        if failure := self.failures.get(place):
            raise NotInAnswer(f"map {number} could not be made: {failure.message}", code=failure.code)
        raise NotInAnswer(self._absent.format(number))

    def __repr__(self) -> str:
        return f"<{len(self.maps)} of {len(self)}, {len(self.failures)} failed>"


Part: TypeAlias = Array | Statistics
Value: TypeAlias = Part | Captures[Part]


@dataclass(frozen=True, eq=False)
class Introspection:
    """What one call saw inside a network.

    Each of activations, inputs and gradients maps a layer name to its array (the batch first, in the layer's own dtype;
    bfloat16 as float32), or to the Statistics that were asked for instead. Where the layer's value is nested, it maps to a
    dict from paths in it ("0", "out") to those. Where a layer was asked for in several ways, the first one is there.
    """

    started: Started
    """What the call was resolved to: model, version, provenance, planned captures, total_bytes, request_id."""
    activations: Captures[Value]
    """What layers put out."""
    inputs: Captures[Value]
    """What layers were given."""
    gradients: Captures[Value]
    """Gradients of the target's score with respect to what layers put out."""
    captures: tuple[Activation | Statistics, ...]
    """All that was taken at layers, in the order in which it came, with the channels that were kept."""
    cams: Cams[CamMap]
    """The class activation maps, raw, in the order of `started.cams`: that of the request, a top k as so many maps."""
    scaled: Cams[CamMap]
    """The same maps scaled, where that was asked for."""
    pictures: tuple[CamPicture, ...]
    """Those of the maps, in the order in which they came."""
    faithfulness: Cams[Faithfulness]
    """Whether the same maps can be believed, where that was asked for."""
    failures: tuple[Failure, ...]
    """What could not be had, and why."""
    prediction: Prediction | None
    """None where it was waived."""
    finished: Finished

    @property
    def timings(self) -> Timings:
        """Where the time went: stages by name and layers, in seconds."""
        return self.finished.timings

    @property
    def scores(self) -> Array:
        """What the network put out. NotInAnswer where the prediction was waived."""
        return self._predicted.scores

    @property
    def logits(self) -> Array:
        """The scores where they are logits. NotInAnswer where they are something else, or were waived."""
        return self._predicted.logits

    @property
    def scores_kind(self) -> str:
        """What the scores are. NotInAnswer where the prediction was waived."""
        return self._predicted.scores_kind

    @property
    def top(self) -> tuple[tuple[ScoredClass, ...], ...]:
        """For each sample its best classes. NotInAnswer where the prediction was waived."""
        return self._predicted.top

    @property
    def _predicted(self) -> Prediction:
        if self.prediction is None:
            raise NotInAnswer("this introspection was asked for without a prediction")
        return self.prediction


def started_of(events: Sequence[Event]) -> Started:
    """What a call was resolved to."""
    return next(event for event in events if isinstance(event, Started))


def gather(events: Iterable[Event]) -> Introspection:
    """All events of one complete stream as one answer."""
    captures: dict[str, Captures[Value]] = {
        "output": Captures("activation"),
        "input": Captures("input"),
        "gradient": Captures("gradient"),
    }
    prediction: Prediction | None = None
    failures: list[Failure] = []
    lost: dict[Place, Failure] = {}
    came: list[Activation | Statistics] = []
    pictures: list[CamPicture] = []
    for event in events:
        match event:
            case Started():
                started = event
                cams: Cams[CamMap] = Cams("map {} did not come", event.cams, lost)
                scaled: Cams[CamMap] = Cams(_NOT_SCALED, event.cams, lost)
                faithfulness: Cams[Faithfulness] = Cams(_NOT_MEASURED, event.cams, lost)
            case Activation() | Statistics():
                came.append(event)
                _put(captures[event.kind], event)
            case CamMap():
                (scaled if event.form == "scaled" else cams).maps[event.cam, event.rank] = event
            case CamPicture():
                pictures.append(event)
            case Faithfulness():
                faithfulness.maps[event.cam, event.rank] = event
            case Prediction():
                prediction = event
            case Failure():
                failures.append(event)
                _note(captures, lost, event)
            case Finished():
                finished = event
    return Introspection(
        started=started,
        activations=captures["output"],
        inputs=captures["input"],
        gradients=captures["gradient"],
        captures=tuple(came),
        cams=cams,
        scaled=scaled,
        pictures=tuple(pictures),
        faithfulness=faithfulness,
        failures=tuple(failures),
        prediction=prediction,
        finished=finished,
    )


_NOT_SCALED = "map {} did not come scaled: ask for it with normalisation or upsampling"
_NOT_MEASURED = "the faithfulness of map {} was not measured: ask for it with faithfulness=True"


def _put(captures: Captures[Value], event: Activation | Statistics) -> None:
    value = event if isinstance(event, Statistics) else event.array
    if event.path == "":
        captures.setdefault(event.layer, value)
    else:
        _nested(captures, event.layer).setdefault(event.path, value)


def _note(captures: dict[str, Captures[Value]], lost: dict[Place, Failure], event: Failure) -> None:
    if event.cam is not None:
        lost[event.cam, event.rank] = event
    elif event.layer is not None and event.kind in captures:
        if event.path == "":
            captures[event.kind].failures[event.layer] = event
        else:
            _nested(captures[event.kind], event.layer).failures[event.path] = event


def _nested(captures: Captures[Value], layer: str) -> Captures[Part]:
    value = captures.get(layer)
    if not isinstance(value, Captures):
        value = captures[layer] = Captures(f"part of {layer!r}")
    return value
