"""From what the wings give to messages."""

import torch
from google.protobuf import duration_pb2
from torch import Tensor

from cutaway.v1 import introspect_pb2, model_pb2, predict_pb2, tensor_pb2
from cutaway_server.introspection import events
from cutaway_server.introspection.plan import CaptureKind, PlannedCapture, possible_methods
from cutaway_server.models.layer_table import Layer, LayerKind, LayerTensor
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.scores import ScoredClass, ScoresKind, top_classes
from cutaway_server.rpc.errors import code_of
from cutaway_server.rpc.tensors import WIRE_DTYPES, encode_tensor

SCORES_KINDS = {
    ScoresKind.LOGITS: model_pb2.SCORES_KIND_LOGITS,
    ScoresKind.LOG_PROBABILITIES: model_pb2.SCORES_KIND_LOG_PROBABILITIES,
    ScoresKind.PROBABILITIES: model_pb2.SCORES_KIND_PROBABILITIES,
    ScoresKind.SIGMOID: model_pb2.SCORES_KIND_SIGMOID,
}
_LAYER_KINDS = {
    LayerKind.MODULE: model_pb2.LAYER_KIND_MODULE,
    LayerKind.FUNCTION: model_pb2.LAYER_KIND_FUNCTION,
    LayerKind.METHOD: model_pb2.LAYER_KIND_METHOD,
}
_CAPTURE_KINDS = {
    CaptureKind.OUTPUT: introspect_pb2.CAPTURE_KIND_OUTPUT,
    CaptureKind.INPUT: introspect_pb2.CAPTURE_KIND_INPUT,
    CaptureKind.GRADIENT: introspect_pb2.CAPTURE_KIND_GRADIENT,
}
_COLORS = {"gray": model_pb2.COLOR_MODE_GRAY, "rgb": model_pb2.COLOR_MODE_RGB}


def encode_model(model: Model, *, lanes: int, layers: bool) -> model_pb2.Model:
    """A model, with its layer table if wanted."""
    return model_pb2.Model(
        name=model.name,
        version=model.version,
        state=model_pb2.MODEL_STATE_READY,
        inputs=[_encode_spec(spec) for spec in model.inputs],
        scores_kind=SCORES_KINDS[model.scores_kind],
        class_count=model.class_count,
        labels=model.labels,
        layers=[_encode_layer(layer) for layer in model.layers] if layers else (),
        introspection=model_pb2.Introspection(
            available=not model.not_introspectable,
            reason=model.not_introspectable,
            lanes=lanes,
            cam_methods=possible_methods(model) if not model.not_introspectable else (),
        ),
        provenance=encode_provenance(model),
        parameter_count=model.parameter_count,
    )


def encode_provenance(model: Model) -> model_pb2.Provenance:
    """What makes a model's answers."""
    return model_pb2.Provenance(
        weights_digest=model.weights_digest, engine=model.engine, device=str(model.device), torch_version=torch.__version__
    )


def encode_prediction(model: Model, scores: Tensor, top_k: int) -> predict_pb2.PredictResponse:
    """The answer of Predict."""
    return predict_pb2.PredictResponse(
        model=model.name,
        version=model.version,
        scores=encode_tensor(scores),
        scores_kind=SCORES_KINDS[model.scores_kind],
        top=encode_top(top_classes(scores, model.scores_kind, top_k), model.labels),
    )


def encode_top(top: list[list[ScoredClass]], labels: tuple[str, ...]) -> list[predict_pb2.TopClasses]:
    """The best classes of each sample, with their labels where there are any."""
    return [
        predict_pb2.TopClasses(
            classes=[
                predict_pb2.ScoredClass(
                    index=best.index, label=labels[best.index] if labels else "", score=best.score, probability=best.probability
                )
                for best in sample
            ]
        )
        for sample in top
    ]


def _encode_spec(spec: InputSpec) -> model_pb2.InputSpec:
    message = model_pb2.InputSpec(name=spec.name, dtype=WIRE_DTYPES[spec.dtype], shape=spec.shape)
    if spec.image:
        message.image.CopyFrom(
            model_pb2.ImageSpec(
                color=_COLORS[spec.image.color],
                height=spec.image.height,
                width=spec.image.width,
                resize_shorter=spec.image.resize_shorter,
                resample=spec.image.resample,
                mean=spec.image.mean,
                std=spec.image.std,
                invert_bright_background=spec.image.invert_bright_background,
            )
        )
    return message


def _encode_layer(layer: Layer) -> model_pb2.Layer:
    return model_pb2.Layer(
        name=layer.name,
        kind=_LAYER_KINDS[layer.kind],
        type=layer.type,
        index=layer.index,
        container=layer.container,
        outputs=[
            model_pb2.LayerOutput(
                path=output.path,
                dtype=WIRE_DTYPES.get(output.dtype, tensor_pb2.DATA_TYPE_UNSPECIFIED),
                shape=output.shape,
                bytes_per_sample=output.bytes_per_sample,
                batch_first=output.batch_first,
            )
            for output in layer.outputs
        ],
        never_fires=layer.never_fires,
    )


def encode_event(event: events.Event, request_id: str, model: Model) -> introspect_pb2.IntrospectResponse:
    """One event of a stream."""
    if isinstance(event, events.Started):
        return introspect_pb2.IntrospectResponse(started=_encode_started(event, request_id))
    if isinstance(event, events.Piece):
        return introspect_pb2.IntrospectResponse(chunk=_encode_piece(event))
    if isinstance(event, events.Predicted):
        return introspect_pb2.IntrospectResponse(
            prediction=introspect_pb2.Prediction(
                scores_item=event.scores_item,
                scores_kind=SCORES_KINDS[model.scores_kind],
                top=encode_top(event.top, model.labels),
            )
        )
    if isinstance(event, events.Failed):
        return introspect_pb2.IntrospectResponse(item_failed=_encode_failed(event))
    return introspect_pb2.IntrospectResponse(finished=_encode_finished(event))


def _encode_started(event: events.Started, request_id: str) -> introspect_pb2.Started:
    plan = event.plan
    captures = [_encode_planned(capture, tensor, plan.batch) for capture in plan.captures for tensor in capture.tensors]
    return introspect_pb2.Started(
        model=plan.model.name,
        version=plan.model.version,
        provenance=encode_provenance(plan.model),
        batch=plan.batch,
        captures=captures,
        cams=[introspect_pb2.PlannedCam(cam=cam.index, method=cam.method.name, layer=cam.layer.name) for cam in plan.cams],
        total_bytes=sum(capture.bytes for capture in captures),
        request_id=request_id,
    )


def _encode_planned(capture: PlannedCapture, tensor: LayerTensor, batch: int) -> introspect_pb2.PlannedCapture:
    return introspect_pb2.PlannedCapture(
        layer=capture.layer.name,
        kind=_CAPTURE_KINDS[capture.kind],
        path=tensor.path,
        dtype=WIRE_DTYPES.get(tensor.dtype, tensor_pb2.DATA_TYPE_UNSPECIFIED),
        shape=tensor.shape_for(batch),
        bytes=tensor.bytes_per_sample * (batch if tensor.batch_first else 1),
    )


def _encode_piece(piece: events.Piece) -> introspect_pb2.Chunk:
    message = introspect_pb2.Chunk(item=piece.item, offset=piece.offset, data=piece.data)
    if piece.header:
        message.header.CopyFrom(_encode_header(piece.header))
    return message


def _encode_header(header: events.Header) -> introspect_pb2.ChunkHeader:
    message = introspect_pb2.ChunkHeader(
        dtype=WIRE_DTYPES[header.dtype],
        shape=header.shape,
        total_bytes=header.total_bytes,
        encoding=introspect_pb2.ENCODING_RAW,
    )
    subject = header.subject
    if isinstance(subject, events.CaptureSubject):
        message.capture.CopyFrom(_encode_capture(subject))
    elif isinstance(subject, events.CamSubject):
        message.cam.CopyFrom(_encode_cam(subject))
    else:
        message.scores.SetInParent()
    return message


def _encode_cam(subject: events.CamSubject) -> introspect_pb2.CamHeader:
    cam = subject.cam
    score = introspect_pb2.SCORE_PROBABILITY if cam.target.probability else introspect_pb2.SCORE_MODEL
    return introspect_pb2.CamHeader(
        cam=cam.index,
        method=cam.method.name,
        layer=cam.layer.name,
        classes=subject.classes,
        settings=introspect_pb2.CamSettings(relu=cam.relu, score=score),
        placement=[introspect_pb2.Affine(**placement._asdict()) for placement in subject.placements],
    )


def _encode_capture(subject: events.CaptureSubject) -> introspect_pb2.CaptureHeader:
    return introspect_pb2.CaptureHeader(
        layer=subject.layer, kind=_CAPTURE_KINDS[subject.kind], path=subject.path, batch_first=subject.batch_first
    )


def _encode_failed(event: events.Failed) -> introspect_pb2.ItemFailed:
    message = introspect_pb2.ItemFailed(code=code_of(event.why).value[0], message=str(event.why))
    if isinstance(event.subject, int):
        message.cam = event.subject
    else:
        message.capture.CopyFrom(_encode_capture(event.subject))
    return message


def _encode_finished(event: events.Finished) -> introspect_pb2.Finished:
    return introspect_pb2.Finished(
        stages=[introspect_pb2.StageTiming(stage=stage, duration=_duration(seconds)) for stage, seconds in event.stages.items()],
        layers=[
            introspect_pb2.LayerTiming(
                layer=cost.layer, completed_after=_duration(cost.completed_after), capture=_duration(cost.capture), bytes=cost.bytes
            )
            for cost in event.layers
        ],
        bytes_sent=event.bytes_sent,
        last_layer=event.last_layer,
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(max(0, round(seconds * 1e9)))
    return duration
