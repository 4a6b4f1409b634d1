"""The events of one introspection as the bytes of messages."""

import time

from cutaway.v1 import introspect_pb2, tensor_pb2
from cutaway_server.introspection import events, reduce
from cutaway_server.introspection.plan import CaptureKind, Expected, Plan, PlannedCapture
from cutaway_server.introspection.plan_cams import PlannedCam
from cutaway_server.metrics import Metrics
from cutaway_server.models.model import Model
from cutaway_server.rpc.cams import encode_cam, encode_cost, encode_judged, encode_planned_cam
from cutaway_server.rpc.encode import MIRROR_ENGINE, SCORES_KINDS, encode_provenance, encode_top
from cutaway_server.rpc.errors import code_of
from cutaway_server.rpc.tensors import WIRE_DTYPES, duration

_CAPTURE_KINDS = {
    CaptureKind.OUTPUT: introspect_pb2.CAPTURE_KIND_OUTPUT,
    CaptureKind.INPUT: introspect_pb2.CAPTURE_KIND_INPUT,
    CaptureKind.GRADIENT: introspect_pb2.CAPTURE_KIND_GRADIENT,
}
Response = introspect_pb2.IntrospectResponse


class StreamEncoder:
    """Encodes one stream, and keeps the account of what that took."""

    def __init__(self, model: Model, request_id: str, metrics: Metrics) -> None:
        self._model = model
        self._request_id = request_id
        self._seconds = 0.0
        self._layer = ""  # that the pieces now belong to; empty for scores and maps
        self._by_layer: dict[str, float] = {}
        self._encode_seconds = metrics.encode_seconds.labels(model.name)
        self._sent_bytes = metrics.sent_bytes.labels(model.name)

    def encode(self, event: events.Event) -> bytes:
        """One event. Finished tells of all that came before it."""
        began = time.perf_counter()
        if isinstance(event, events.Piece):
            message = encode_piece(event)
            self._count(event, time.perf_counter() - began)
            return message
        message = self._message(event).SerializeToString()
        self._seconds += time.perf_counter() - began
        return message

    def _count(self, piece: events.Piece, seconds: float) -> None:
        self._seconds += seconds
        self._sent_bytes.inc(len(piece.data))
        if piece.header:
            subject = piece.header.subject
            self._layer = subject.layer if isinstance(subject, events.CaptureSubject) else ""
        if self._layer:
            self._by_layer[self._layer] = self._by_layer.get(self._layer, 0.0) + seconds

    def _message(self, event: events.Event) -> Response:
        match event:
            case events.Started():
                return Response(started=_encode_started(event.plan, self._request_id))
            case events.Failed():
                return Response(item_failed=_encode_failed(event))
            case events.Predicted():
                return Response(prediction=self._prediction(event))
            case events.Progress():
                return Response(progress=introspect_pb2.Progress(what=event.what, done=event.done, total=event.total))
            case events.Judged():
                return Response(faithfulness=encode_judged(event))
            case events.Finished():
                self._encode_seconds.observe(self._seconds)
                return Response(finished=self._finished(event))
            case events.Piece():
                raise AssertionError("pieces are encoded around their data")

    def _prediction(self, event: events.Predicted) -> introspect_pb2.Prediction:
        top = encode_top(event.top, self._model.labels)
        kind = SCORES_KINDS[self._model.scores_kind]
        return introspect_pb2.Prediction(scores_item=event.scores_item, scores_kind=kind, top=top, engine=MIRROR_ENGINE)

    def _finished(self, event: events.Finished) -> introspect_pb2.Finished:
        stages = {**event.stages, "encode": self._seconds} if event.stages else {}
        return introspect_pb2.Finished(
            stages=[introspect_pb2.StageTiming(stage=stage, duration=duration(spent)) for stage, spent in stages.items()],
            layers=[
                introspect_pb2.LayerTiming(
                    layer=cost.layer,
                    completed_after=None if cost.completed_after is None else duration(cost.completed_after),
                    capture=duration(cost.capture),
                    bytes=cost.bytes,
                    reduce=duration(cost.reduce),
                    encode=duration(self._by_layer.get(cost.layer, 0.0)),
                )
                for cost in event.layers
            ],
            bytes_sent=event.bytes_sent,
            last_layer=event.last_layer,
            cams=map(encode_cost, event.cams),
        )


def encode_piece(piece: events.Piece) -> bytes:
    """`IntrospectResponse(chunk=…)` as bytes, written around the data so that it is copied once and not three times."""
    chunk = introspect_pb2.Chunk(item=piece.item, offset=piece.offset)
    if piece.header:
        chunk.header.CopyFrom(_encode_header(piece.header))
    rest = chunk.SerializeToString()
    data_tag = _tag(introspect_pb2.Chunk.DATA_FIELD_NUMBER) + _varint(len(piece.data))
    length = len(rest) + len(data_tag) + len(piece.data)
    return b"".join((_tag(Response.CHUNK_FIELD_NUMBER), _varint(length), rest, data_tag, piece.data))


def _tag(field: int) -> bytes:
    return _varint(field << 3 | 2)  # 2: a length, then so many bytes


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _encode_started(plan: Plan, request_id: str) -> introspect_pb2.Started:
    stop = plan.stops_after
    return introspect_pb2.Started(
        model=plan.model.name,
        version=plan.model.version,
        provenance=encode_provenance(plan.model, MIRROR_ENGINE),
        batch=plan.batch,
        captures=[_encode_planned(capture, tensor) for capture in plan.captures for tensor in capture.expected],
        cams=map(encode_planned_cam, plan.cams),
        total_bytes=plan.total_bytes,
        request_id=request_id,
        estimate=introspect_pb2.Estimate(
            forward_passes=plan.forward_passes,
            backward_passes=plan.backward_passes,
            stops_after=stop.name if stop else "",
            compute=duration(plan.compute_seconds),
        ),
        seed=plan.seed if plan.chance else None,
    )


def _encode_planned(capture: PlannedCapture, tensor: Expected) -> introspect_pb2.PlannedCapture:
    return introspect_pb2.PlannedCapture(
        layer=capture.layer.name,
        kind=_CAPTURE_KINDS[capture.kind],
        path=tensor.path,
        dtype=WIRE_DTYPES.get(tensor.dtype, tensor_pb2.DATA_TYPE_UNSPECIFIED),
        shape=tensor.shape,
        bytes=tensor.bytes,
        full_bytes=tensor.full_bytes,
        capture=capture.index,
    )


def _encode_header(header: events.Header) -> introspect_pb2.ChunkHeader:
    message = introspect_pb2.ChunkHeader(
        dtype=WIRE_DTYPES[header.dtype] if header.dtype else tensor_pb2.DATA_TYPE_UNSPECIFIED,
        shape=header.shape,
        total_bytes=header.total_bytes,
        encoding=introspect_pb2.ENCODING_RAW if header.dtype else introspect_pb2.ENCODING_PNG,
    )
    if header.affine8:
        message.encoding = introspect_pb2.ENCODING_AFFINE8
        message.affine8.scales.extend(header.affine8.scales)
        message.affine8.zero_points.extend(header.affine8.zero_points)
    subject = header.subject
    if isinstance(subject, events.CaptureSubject):
        message.capture.CopyFrom(_encode_capture(subject))
    elif isinstance(subject, events.CamSubject):
        message.cam.CopyFrom(encode_cam(subject))
    else:
        message.scores.SetInParent()
    return message


def _encode_capture(subject: events.CaptureSubject) -> introspect_pb2.CaptureHeader:
    message = introspect_pb2.CaptureHeader(
        layer=subject.layer,
        kind=_CAPTURE_KINDS[subject.kind],
        path=subject.path,
        batch_first=subject.batch_first,
        capture=subject.index,
    )
    shrink = subject.shrink
    if isinstance(shrink, reduce.Statistics):
        message.statistics.SetInParent()
        message.statistics.histogram_bins = shrink.bins
    elif isinstance(shrink, reduce.Pool):
        method = introspect_pb2.POOL_METHOD_MAX if shrink.largest else introspect_pb2.POOL_METHOD_MEAN
        message.pool.CopyFrom(introspect_pb2.Pool(method=method, size=shrink.size))
    elif subject.kept is not None:
        message.channels.per_sample = isinstance(shrink, reduce.TopChannels)
        for kept in subject.kept:
            message.channels.indices.extend(kept if isinstance(kept, list) else [kept])
    return message


def _encode_failed(event: events.Failed) -> introspect_pb2.ItemFailed:
    message = introspect_pb2.ItemFailed(code=code_of(event.why).value[0], message=str(event.why))
    if isinstance(event.subject, PlannedCam):
        message.cam, message.rank = event.subject.index, event.subject.target.rank
    else:
        message.capture.CopyFrom(_encode_capture(event.subject))
    return message
