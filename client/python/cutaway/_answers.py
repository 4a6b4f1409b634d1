"""Messages of the server as the values of this package: pure functions."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from cutaway._errors import BrokenAnswer, status_code
from cutaway._events import (
    Activation,
    Affine,
    CamMap,
    CamPicture,
    CamTiming,
    Estimate,
    Failure,
    Faithfulness,
    Finished,
    LayerTiming,
    Measures,
    Note,
    PlannedCam,
    PlannedCapture,
    Prediction,
    Scaling,
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
        engine=answer.engine,
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
        cams=tuple(_planned_cam(cam) for cam in message.cams),
        total_bytes=message.total_bytes,
        request_id=message.request_id,
        estimate=Estimate(
            message.estimate.forward_passes,
            message.estimate.backward_passes,
            message.estimate.stops_after,
            seconds(message.estimate.compute),
        ),
        seed=message.seed if message.HasField("seed") else None,
    )


def _planned_cam(message: introspect_pb2.PlannedCam) -> PlannedCam:
    return PlannedCam(
        cam=message.cam,
        method=message.method,
        layers=tuple(message.layers),
        rank=message.rank,
        forward_passes=message.forward_passes,
        backward_passes=message.backward_passes,
        shape=tuple(message.shape),
        faithfulness_forward_passes=message.faithfulness_forward_passes,
        faithfulness_backward_passes=message.faithfulness_backward_passes,
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


def cam_map(header: introspect_pb2.CamHeader, array: Array) -> CamMap:
    """A map, raw or scaled.

    Raises:
        BrokenAnswer: it says to be a picture, or has no axes in space or too many.
    """
    form = word(introspect_pb2.CamForm, header.form)
    if form not in ("raw", "scaled") or not 2 <= array.ndim <= 5:
        raise BrokenAnswer(f"a class activation map came in the form {form!r} with the shape {array.shape}")
    settings = header.settings
    return CamMap(
        cam=header.cam,
        rank=header.rank,
        method=header.method,
        layers=tuple(header.layers),
        classes=tuple(header.classes),
        against=tuple(header.against),
        relu=settings.relu,
        score=word(introspect_pb2.Score, settings.score),
        channels=word(introspect_pb2.ChannelJoin, settings.join),
        augment=settings.augment,
        steps=settings.steps,
        window=tuple(settings.window),
        stride=tuple(settings.stride),
        fusion=word(introspect_pb2.Fusion, header.fusion) if len(header.layers) > 1 else None,
        form=form,
        scaling=_scaling(header.scaling) if header.HasField("scaling") else None,
        placement=tuple(Affine(place.scale_x, place.scale_y, place.offset_x, place.offset_y) for place in header.placement),
        notes=tuple(Note(note.sample, word(introspect_pb2.CamNothing, note.reason), note.message) for note in header.notes),
        map=array,
    )


def _scaling(message: introspect_pb2.Scaling) -> Scaling:
    return Scaling(
        normalisation=word(introspect_pb2.Normalisation, message.normalisation or introspect_pb2.NORMALISATION_NONE),
        upsampling=word(introspect_pb2.Upsampling, message.upsampling or introspect_pb2.UPSAMPLING_NONE),
    )


def cam_picture(header: introspect_pb2.CamHeader, png: bytes) -> CamPicture:
    """A picture of a map.

    Raises:
        BrokenAnswer: it says to be none.
    """
    kind = word(introspect_pb2.CamForm, header.form)
    if kind not in ("heat-map", "overlay"):
        raise BrokenAnswer(f"a PNG file came as a map in the form {kind!r}")
    return CamPicture(header.cam, header.rank, kind, header.sample, png)


def faithfulness(message: introspect_pb2.Faithfulness) -> Faithfulness:
    """Whether a map can be believed.

    Raises:
        BrokenAnswer: the measures are of different numbers of samples.
    """
    of_map, of_random = _measures(message.map), _measures(message.random)
    counts = {len(values) for measures in (of_map, of_random) for values in vars(measures).values()}
    if len(counts) > 1:
        raise BrokenAnswer(f"measures of faithfulness came for {', '.join(map(str, sorted(counts)))} samples at once")
    return Faithfulness(message.cam, message.rank, of_map, of_random, message.steps)


def _measures(message: introspect_pb2.Measures) -> Measures:
    return Measures(**{field.name: np.array(getattr(message, field.name), np.float64) for field in fields(Measures)})


def failure(message: introspect_pb2.ItemFailed) -> Failure:
    """One item that will not come."""
    subject = message.WhichOneof("subject")
    is_capture = subject == "capture"
    return Failure(
        layer=message.capture.layer if is_capture else None,
        kind=capture_kind(message.capture.kind) if is_capture else None,
        path=message.capture.path,
        cam=message.cam if subject == "cam" else None,
        rank=message.rank,
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
    cams = tuple(
        CamTiming(cost.cam, cost.rank, seconds(cost.map), seconds(cost.faithfulness), seconds(cost.pictures))
        for cost in message.cams
    )
    return Finished(Timings(stages, layers, cams), message.bytes_sent, message.last_layer)
