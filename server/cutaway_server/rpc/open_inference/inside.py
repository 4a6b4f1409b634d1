"""Layers and maps as outputs: what an introspection gives, gathered into whole tensors."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch

from cutaway_server.errors import Refusal
from cutaway_server.introspection import events
from cutaway_server.introspection.plan import Plan
from cutaway_server.introspection.plan_cams import PlannedCam
from cutaway_server.models.model import Model
from cutaway_server.rpc.decode import Decoded
from cutaway_server.rpc.introspections import Introspections, Planned, new_seed
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference.datatypes import datatype
from cutaway_server.rpc.open_inference.encode import Output, scores_output
from cutaway_server.rpc.open_inference.outputs import LAYER, SCORES, Wanted

_STREAM = "ask for fewer layers, or by ModelStreamInfer, which answers each output by itself"
_CHUNKS = "cutaway.v1.InferenceService/Introspect streams it in chunks, and reduces it before"
_PLACE = re.compile(r"(outputs|captures|cams)\[(\d+)\]")
_FLOAT32_BYTES = 4


class Gathered(NamedTuple):
    """One output, or why it cannot be had, and its place among those that were asked for."""

    place: int
    output: Output | Refusal


def plan_inside(introspections: Introspections, model: Model, decoded: Decoded, wanted: Wanted, began: float) -> Planned:
    """Plans what is wanted.

    Args:
        began: when its inputs began to be decoded, on the monotonic clock.
    Raises:
        Refusal: names the output.
    """
    with in_our_words(wanted):
        return introspections.plan(
            model,
            decoded,
            began=began,
            captures=wanted.captures,
            cams=wanted.cams,
            top_k=None if wanted.best is None else 0,
            seed=new_seed(),
        )


def check_size(plan: Plan, limits: Limits, *, streamed: bool) -> None:
    """Raises AnswerTooLarge where it is known that a message will not hold what is planned."""
    sizes = [tensor.bytes for capture in plan.captures for tensor in capture.expected]
    sizes += [math.prod(cam.shape) * _FLOAT32_BYTES for cam in plan.cams]
    check_bytes(max(sizes, default=0) if streamed else sum(sizes), limits, streamed=streamed)


def check_bytes(size: int, limits: Limits, *, streamed: bool) -> None:
    """Raises AnswerTooLarge for more bytes of layers and maps than one message may have."""
    limits.check_answer(size, _CHUNKS if streamed else _STREAM)


def gather(stream: Iterable[events.Event], model: Model, wanted: Wanted, limits: Limits) -> Iterator[Gathered]:
    """Each tensor when it is whole.

    Args:
        stream: of the introspection's events.
        limits: of one message.
    Raises:
        Refusal: what stopped the introspection; AnswerTooLarge.
    """
    header, pieces, gathered = None, list[memoryview](), 0
    for event in stream:
        if isinstance(event, events.Failed):
            yield Gathered(_place(event.subject, wanted), _renamed(event.why, wanted))
        if not isinstance(event, events.Piece):
            continue
        if event.header:
            header, pieces, gathered = event.header, [], 0
            check_bytes(header.total_bytes, limits, streamed=True)
        assert header is not None
        pieces.append(event.data)
        gathered += len(event.data)
        if gathered == header.total_bytes:
            yield _whole(header, b"".join(pieces), model, wanted)
            pieces = []


def _whole(header: events.Header, data: bytes, model: Model, wanted: Wanted) -> Gathered:
    subject, dtype = header.subject, header.dtype
    assert dtype is not None
    if isinstance(subject, events.ScoresSubject):
        scores = torch.frombuffer(data, dtype=dtype).reshape(header.shape)
        return Gathered(wanted.names.index(SCORES), scores_output(model, scores, wanted.best or 0))
    name, parameters = _capture(subject) if isinstance(subject, events.CaptureSubject) else _cam(subject, wanted)
    return Gathered(_place(subject, wanted), Output(name, datatype(dtype), header.shape, data, parameters))


def _capture(subject: events.CaptureSubject) -> tuple[str, dict[str, str]]:
    return LAYER + "/".join(filter(None, (subject.layer, subject.path))), {}


def _cam(subject: events.CamSubject, wanted: Wanted) -> tuple[str, dict[str, str]]:
    facts = {
        "layer": ",".join(layer.name for layer in subject.cam.layers),
        "classes": ",".join(map(str, subject.classes)),
        "note": "; ".join(f"sample {note.sample}: {note.why.value}" for note in subject.notes),
    }
    return wanted.names[_place(subject, wanted)], {key: fact for key, fact in facts.items() if fact}


def _place(subject: events.CaptureSubject | events.CamSubject | PlannedCam, wanted: Wanted) -> int:
    if isinstance(subject, events.CaptureSubject):
        return subject.index
    cam = subject.cam if isinstance(subject, events.CamSubject) else subject
    return wanted.cam_places[cam.index]


@contextmanager
def in_our_words(wanted: Wanted) -> Iterator[None]:
    """A refusal inside names the output that it is about."""
    try:
        yield
    except Refusal as refusal:
        raise _renamed(refusal, wanted) from refusal


def _renamed(refusal: Refusal, wanted: Wanted) -> Refusal:
    found = _PLACE.match(getattr(refusal, "field", ""))
    if not found:
        return refusal
    place = wanted.cam_places[int(found[2])] if found[1] == "cams" else int(found[2])
    renamed: Refusal = replace(refusal, field=f"outputs[{place}].name")  # type: ignore[call-arg]  # it has that field
    return renamed
