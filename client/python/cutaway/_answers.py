"""Messages of the server as the values of this package: pure functions."""

from collections.abc import Sequence

from cutaway._errors import status_code
from cutaway._events import (
    Affine,
    Failure,
    Finished,
    LayerTiming,
    PlannedCam,
    PlannedCapture,
    Prediction,
    ScoredClass,
    Started,
    Timings,
)
from cutaway._models import Model, read_model, read_provenance
from cutaway._tensors import decode, dtype_name
from cutaway._words import seconds, word
from cutaway.v1 import inference_pb2, introspect_pb2, model_pb2, predict_pb2


def models(answer: inference_pb2.ListModelsResponse) -> list[Model]:
    """All models."""
    return [read_model(model) for model in answer.models]


def model(answer: inference_pb2.GetModelResponse) -> Model:
    """One model with its layer table."""
    return read_model(answer.model)


def prediction(answer: predict_pb2.PredictResponse) -> Prediction:
    """The answer to Predict."""
    return Prediction(
        model=answer.model,
        version=answer.version,
        scores=decode(answer.scores.dtype, answer.scores.shape, answer.scores.data),
        scores_kind=word(model_pb2.ScoresKind, answer.scores_kind),
        top=top_classes(answer.top),
    )


def top_classes(top: Sequence[predict_pb2.TopClasses]) -> tuple[tuple[ScoredClass, ...], ...]:
    """The best classes of each sample."""
    return tuple(
        tuple(ScoredClass(best.index, best.label, best.score, best.probability) for best in sample.classes) for sample in top
    )


def started(message: introspect_pb2.Started) -> Started:
    """What was resolved."""
    return Started(
        model=message.model,
        version=message.version,
        provenance=read_provenance(message.provenance),
        batch=message.batch,
        captures=tuple(_planned(capture) for capture in message.captures),
        cams=tuple(PlannedCam(cam.cam, cam.method, cam.layer) for cam in message.cams),
        total_bytes=message.total_bytes,
        request_id=message.request_id,
    )


def _planned(message: introspect_pb2.PlannedCapture) -> PlannedCapture:
    known = bool(message.dtype)  # a scalar's shape is empty too, but it has bytes
    return PlannedCapture(
        layer=message.layer,
        kind=capture_kind(message.kind),
        path=message.path,
        dtype=dtype_name(message.dtype) if known else None,
        shape=tuple(message.shape) if known and (message.shape or message.bytes) else None,
        bytes=message.bytes,
    )


def capture_kind(kind: int) -> str:
    """What is taken: "output", "input" or "gradient"; unspecified means output."""
    return word(introspect_pb2.CaptureKind, kind or introspect_pb2.CAPTURE_KIND_OUTPUT)


def placement(header: introspect_pb2.CamHeader) -> tuple[Affine, ...]:
    """Where each sample's map lies."""
    return tuple(Affine(place.scale_x, place.scale_y, place.offset_x, place.offset_y) for place in header.placement)


def failure(message: introspect_pb2.ItemFailed) -> Failure:
    """One item that will not come."""
    subject = message.WhichOneof("subject")
    is_capture = subject == "capture"
    return Failure(
        layer=message.capture.layer if is_capture else None,
        kind=capture_kind(message.capture.kind) if is_capture else None,
        path=message.capture.path,
        cam=message.cam if subject == "cam" else None,
        code=status_code(message.code),
        message=message.message,
    )


def finished(message: introspect_pb2.Finished) -> Finished:
    """The end of a complete stream. A stage that is named twice counts once, with the sum."""
    stages: dict[str, float] = {}
    for timing in message.stages:
        stages[timing.stage] = stages.get(timing.stage, 0.0) + seconds(timing.duration)
    layers = tuple(
        LayerTiming(cost.layer, seconds(cost.completed_after), seconds(cost.capture), cost.bytes) for cost in message.layers
    )
    return Finished(Timings(stages, layers), message.bytes_sent, message.last_layer)
