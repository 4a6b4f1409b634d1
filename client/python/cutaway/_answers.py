"""Messages of the server as the values of this package: pure functions."""

from collections.abc import Sequence

import numpy as np

from cutaway._errors import BrokenAnswer, status_code
from cutaway._events import (
    Activation,
    Affine,
    Estimate,
    Failure,
    Finished,
    LayerTiming,
    PlannedCam,
    PlannedCapture,
    Prediction,
    ScoredClass,
    Started,
    Statistics,
    Timings,
)
from cutaway._models import Model, read_model, read_provenance
from cutaway._tensors import Array, decode, dtype_name
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
        estimate=Estimate(
            message.estimate.forward_passes,
            message.estimate.backward_passes,
            message.estimate.stops_after,
            seconds(message.estimate.compute),
        ),
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
        full_bytes=message.full_bytes,
        capture=message.capture,
    )


def capture_kind(kind: int) -> str:
    """What is taken: "output", "input" or "gradient"; unspecified means output."""
    return word(introspect_pb2.CaptureKind, kind or introspect_pb2.CAPTURE_KIND_OUTPUT)


def captured(header: introspect_pb2.CaptureHeader, array: Array) -> Activation | Statistics:
    """One capture, or the numbers about it.

    Raises:
        BrokenAnswer: the array does not fit what the header says of it.
    """
    kind = capture_kind(header.kind)
    if header.WhichOneof("reduction") != "statistics":
        channels = _kept_channels(header.channels, array) if header.HasField("channels") else None
        return Activation(header.layer, kind, header.path, header.batch_first, array, header.capture, channels)
    if array.ndim != 2 or array.shape[1] != _COLUMNS + header.statistics.histogram_bins:
        raise BrokenAnswer(f"statistics came with the shape {array.shape}")
    numbers = dict(zip(_NUMBERS, array.T, strict=False))
    histogram = array[:, _COLUMNS:].astype(np.int64)
    non_finite = array[:, _COLUMNS - 1].astype(np.int64)
    return Statistics(
        layer=header.layer,
        kind=kind,
        path=header.path,
        batch_first=header.batch_first,
        capture=header.capture,
        **numbers,
        non_finite=non_finite,
        histogram=histogram,
    )


_NUMBERS = ("minimum", "maximum", "mean", "std", "zeros", "l2")
_COLUMNS = len(_NUMBERS) + 1


def _kept_channels(message: introspect_pb2.KeptChannels, array: Array) -> Array:
    indices = np.array(message.indices, np.int64)
    shape = array.shape[:2] if message.per_sample else array.shape[1:2]
    if indices.size != np.prod(shape):
        raise BrokenAnswer(f"{indices.size} channel indices came with an array of shape {array.shape}")
    return indices.reshape(shape)


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
        LayerTiming(
            layer=cost.layer,
            completed_after=seconds(cost.completed_after) if cost.HasField("completed_after") else None,
            capture=seconds(cost.capture),
            bytes=cost.bytes,
            reduce=seconds(cost.reduce),
            encode=seconds(cost.encode),
        )
        for cost in message.layers
    )
    return Finished(Timings(stages, layers), message.bytes_sent, message.last_layer)
