"""Gradients and maps, after the forward pass."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from torch import Tensor

from cutaway_server.errors import CamNotPossible, NetworkFailed, NotHookable, Refusal
from cutaway_server.introspection import faithfulness
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.events import CamCost, CamForm, CamSubject, CaptureSubject, Failed, Judged
from cutaway_server.introspection.faithfulness import Measures
from cutaway_server.introspection.look import NO_WAY, Look, NoGradient
from cutaway_server.introspection.maps import DidNotRun, MapMaker
from cutaway_server.introspection.nothing import notes
from cutaway_server.introspection.plan import CaptureKind, PlannedCapture
from cutaway_server.introspection.plan_cams import Picture, PlannedCam
from cutaway_server.introspection.reruns import Bench, MapRuns
from cutaway_server.introspection.sender import Sender
from cutaway_server.metrics import Metrics
from cutaway_server.models.layer_table import Layer
from cutaway_server.models.mirror import Mirror
from cutaway_server.models.preprocessing import Placement

log = structlog.get_logger()
_FORMS = {Picture.HEAT_MAP: CamForm.HEAT_MAP, Picture.OVERLAY: CamForm.OVERLAY}


class Explanations:
    """Sends the gradients and maps of one call.

    Args:
        look: the pass that all share.
        stages: where the seconds spent are added.
    Attributes:
        costs: of the maps, in the order in which they came.
    """

    def __init__(
        self, call: Call, sender: Sender, look: Look, *, mirror: Mirror, batch: int, stages: dict[str, float], metrics: Metrics
    ) -> None:
        self.costs: list[CamCost] = []
        self._call = call
        self._plan = call.plan
        self._sender = sender
        self._look = look
        self._bench = Bench(call, mirror, batch)
        self._maker = MapMaker(self._bench, mirror.network, call.plan.model.gap_head, call.plan.seed)
        self._stages = stages
        self._cam_seconds = metrics.cam_seconds
        self._reruns = metrics.reruns.labels(call.plan.model.name)

    def send(self) -> None:
        """Sends first the gradients, then the maps; what cannot be made fails alone."""
        for capture in self._plan.captures:
            if capture.kind is CaptureKind.GRADIENT:
                self._send_gradient(capture)
        for planned in self._plan.cams:
            self._call.check()
            try:
                self._send_cam(planned)
            finally:
                self._reruns.inc(self._bench.runs)
                self._bench.runs = 0
        if self._look.seconds:
            self._stages["gradient"] = self._look.seconds

    def _send_gradient(self, capture: PlannedCapture) -> None:
        self._call.check()
        layer = capture.layer
        field = f"captures[{capture.index}]"
        if layer.name not in self._look.held:
            self._call.put(Failed(CaptureSubject.of(capture), NotHookable(field, layer.name, NO_WAY)))
        for path in self._look.held.get(layer.name, {}):
            subject = CaptureSubject.of(capture, path)
            try:
                gradient = self._look.gradient(capture.target, layer.name, path)
            except NoGradient as error:
                self._call.put(Failed(subject, NotHookable(field, layer.name, str(error))))
            else:
                self._sender.capture(subject, gradient, capture.reduction, None)

    def _send_cam(self, planned: PlannedCam) -> None:
        self._bench.begin(planned.method.name, planned.passes.forward * self._plan.batch)
        clock, gradients = _Clock(), self._look.seconds
        try:
            with clock.stage("cam"):
                plane = self._maker.plane(planned, self._look)
            self._send_map(planned, plane, clock)
            if planned.points:
                with clock.stage("faithfulness"):
                    judged = self._judge(planned, plane)
                self._call.put(judged)
        except Refusal:
            raise
        except (NoGradient, DidNotRun) as error:
            self._call.put(Failed(planned, _not_possible(planned, str(error))))
        except Exception as error:  # whatever a stranger's network raises at inputs that are made here
            log.warning("a map failed", method=planned.method.name, exc_info=error)
            self._call.put(Failed(planned, NetworkFailed(self._plan.model.name)))
        self._stages["cam"] = self._stages.get("cam", 0.0) - (self._look.seconds - gradients)  # which have a stage of their own
        for stage, seconds in clock.seconds.items():
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds
        self._cam_seconds.labels(self._plan.model.name, planned.method.name).observe(clock.seconds.get("cam", 0.0))
        self.costs.append(CamCost(planned.index, planned.target.rank, clock.seconds))

    def _send_map(self, planned: PlannedCam, plane: Tensor, clock: "_Clock") -> None:
        """The raw map, then the other forms that were asked for."""
        subject = self._subject(planned, plane)
        self._sender.send(subject, plane)
        size = self._look.x.shape[2:]
        if planned.scaling:
            self._sender.send(subject.as_form(CamForm.SCALED), planned.scaling.of(plane, size))
        for picture in planned.pictures:
            for sample, values in enumerate(plane):
                with clock.stage("pictures"):
                    file = self._call.draw(picture, values, subject.placements[sample : sample + 1], sample, tuple(size))
                self._sender.send_file(subject.as_form(_FORMS[picture], sample), file)

    def _subject(self, planned: PlannedCam, plane: Tensor) -> CamSubject:
        question = self._look.question(planned.target)
        return CamSubject(
            planned,
            classes=tuple(question.classes.tolist()),
            against=() if question.against is None else tuple(question.against.tolist()),
            placements=self._placements(planned.layers, plane),
            notes=notes(planned, self._look, plane),
        )

    def _placements(self, layers: Sequence[Layer], plane: Tensor) -> tuple[Placement, ...]:
        """Where the maps lie on the photographs: from a map's cells to the network's input, and from there on as the input lies."""
        rows, columns = plane.shape[-2:]
        height, width = self._look.x.shape[-2:]
        largest = max(layers, key=lambda layer: math.prod(layer.outputs[0].shape[2:]), default=None)
        row, column = (largest and largest.stride) or (height / rows, width / columns)
        return tuple(
            Placement(
                scale_x=picture.scale_x * column,
                scale_y=picture.scale_y * row,
                offset_x=picture.offset_x + picture.scale_x * (width - column * columns) / 2,
                offset_y=picture.offset_y + picture.scale_y * (height - row * rows) / 2,
            )
            for picture in self._plan.placements
        )

    def _judge(self, planned: PlannedCam, plane: Tensor) -> Judged:
        """Measures of the map and of the random one, of the probability of the class."""
        random = self._maker.random_plane(planned, self._look)
        return Judged(planned, self._measures(planned, plane, real=True), self._measures(planned, random, real=False))

    def _measures(self, planned: PlannedCam, plane: Tensor, *, real: bool) -> Measures:
        look, draw = self._look, self._maker.draw()
        chance = look.question(planned.target).as_probability()
        runs = MapRuns(self._bench, look, chance, None, planned.options, draw)
        measured = faithfulness.measure(plane, runs, planned.points)

        def again(x: Tensor) -> Tensor:
            if real:
                return self._maker.plane_of(planned, look, x)
            return self._maker.random_plane(planned, self._maker.another_look(planned, look, x) if planned.layers else look)

        return Measures(**measured._asdict(), sensitivity=faithfulness.sensitivity(plane, again, look.x, draw))


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def _not_possible(planned: PlannedCam, reason: str) -> CamNotPossible:
    place = " and ".join(repr(layer.name) for layer in planned.layers) or "the network's input"
    instead = "'eigen-cam' and 'score-cam' need no gradient" if planned.layers else "'occlusion' needs no gradient"
    return CamNotPossible(f"cams[{planned.index}]", f"{planned.method.name} at {place}", reason, instead)
