"""A gRPC server that answers bytes by hand, to show the client what no real server would send; and those bytes."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np

from cutaway.v1 import inference_pb2, introspect_pb2, model_pb2, predict_pb2, tensor_pb2

SERVICE = "cutaway.v1.InferenceService"


class FakeServer:
    """Answers each method with what `answers` holds for it, and keeps the requests' bytes.

    An answer is a message (or its bytes), a list of those for Introspect, or a function from the request's bytes and
    the call's context to one of these. A method without an answer is UNIMPLEMENTED.
    """

    def __init__(self) -> None:
        self.answers: dict[str, object] = {}
        self.requests: dict[str, bytes] = {}
        self.address = ""

    def unary(self, method: str) -> Callable:
        return lambda request, context: _bytes(self._answer(method, request, context))

    def stream(self, method: str) -> Callable:
        def handler(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from map(_bytes, self._answer(method, request, context))

        return handler

    def _answer(self, method: str, request: bytes, context: grpc.ServicerContext):
        self.requests[method] = request
        if method not in self.answers:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        answer = self.answers[method]
        return answer(request, context) if callable(answer) else answer


def _bytes(message) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


@contextmanager
def running() -> Iterator[FakeServer]:
    fake = FakeServer()
    handlers = {method: grpc.unary_unary_rpc_method_handler(fake.unary(method)) for method in ("ListModels", "GetModel", "Predict")}
    handlers["Introspect"] = grpc.unary_stream_rpc_method_handler(fake.stream("Introspect"))
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()


class Endless:
    """An Introspect answer that starts and never goes on; `ended` is set when the call is over on the server's side."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> Iterator[introspect_pb2.IntrospectResponse]:
        context.add_callback(self.ended.set)
        yield started()
        self.ended.wait()


# --- messages ---


def tensor(array: np.ndarray) -> tensor_pb2.Tensor:
    """Little-endian float32, written down without the client's own encoder."""
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.astype("<f4").tobytes())


def model(layers: bool = False) -> model_pb2.Model:
    described = model_pb2.Model(
        name="mnist",
        version="1",
        state=model_pb2.MODEL_STATE_READY,
        scores_kind=model_pb2.SCORES_KIND_LOGITS,
        class_count=3,
        parameter_count=21840,
    )
    described.inputs.add(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[-1, 1, 28, 28]).image.color = 1
    described.introspection.available = True
    described.introspection.cam_methods.extend(["cam", "grad-cam"])
    if layers:
        described.labels.extend(["cat", "dog", "newt"])
        conv = described.layers.add(name="conv1", kind=model_pb2.LAYER_KIND_MODULE, type="Conv2d", index=0)
        conv.outputs.add(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[-1, 2, 3, 3], bytes_per_sample=72, batch_first=True)
        described.layers.add(
            name="spare", kind=model_pb2.LAYER_KIND_MODULE, type="Linear", index=-1, never_fires="it is never called"
        )
    return described


def models() -> inference_pb2.ListModelsResponse:
    return inference_pb2.ListModelsResponse(models=[model()])


def prediction(
    scores: np.ndarray, kind: int = model_pb2.SCORES_KIND_LOGITS, top: Iterable[int] = ()
) -> predict_pb2.PredictResponse:
    classes = [predict_pb2.TopClasses(classes=[best(index)]) for index in top]
    return predict_pb2.PredictResponse(model="mnist", version="1", scores=tensor(scores), scores_kind=kind, top=classes)


def best(index: int) -> predict_pb2.ScoredClass:
    return predict_pb2.ScoredClass(index=index, label=f"class {index}", score=4.0, probability=0.75)


def response(**event) -> introspect_pb2.IntrospectResponse:
    return introspect_pb2.IntrospectResponse(**event)


def started(captures: Iterable[introspect_pb2.PlannedCapture] = (), cams: int = 0) -> introspect_pb2.IntrospectResponse:
    event = introspect_pb2.Started(model="mnist", version="1", batch=1, captures=captures, request_id="r1")
    for index in range(cams):
        event.cams.add(cam=index, method="grad-cam", layers=["conv1"], backward_passes=1, shape=[1, 2, 2])
    event.estimate.MergeFrom(introspect_pb2.Estimate(forward_passes=1, backward_passes=1))
    return response(started=event)


def header(array: np.ndarray, **subject) -> introspect_pb2.ChunkHeader:
    if not subject:
        subject = {"capture": introspect_pb2.CaptureHeader(layer="conv1", kind=1, batch_first=True)}
    return introspect_pb2.ChunkHeader(
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        shape=array.shape,
        total_bytes=4 * array.size,
        encoding=introspect_pb2.ENCODING_RAW,
        **subject,
    )


def capture(layer: str, kind: int = introspect_pb2.CAPTURE_KIND_OUTPUT, path: str = "") -> dict:
    return {"capture": introspect_pb2.CaptureHeader(layer=layer, kind=kind, path=path, batch_first=True)}


def cam(index: int = 0, classes: Iterable[int] = (1,), **fields) -> dict:
    settings = introspect_pb2.CamSettings(relu=True, score=introspect_pb2.SCORE_MODEL, join=introspect_pb2.CHANNEL_JOIN_SUM)
    said = {"method": "grad-cam", "layers": ["conv1"], "settings": settings, "form": introspect_pb2.CAM_FORM_RAW, **fields}
    return {"cam": introspect_pb2.CamHeader(cam=index, classes=classes, **said)}


def chunk(
    item: int, data: bytes = b"", offset: int = 0, header: introspect_pb2.ChunkHeader | None = None
) -> introspect_pb2.IntrospectResponse:
    return response(chunk=introspect_pb2.Chunk(item=item, header=header, offset=offset, data=data))


def whole(item: int, array: np.ndarray, **subject) -> introspect_pb2.IntrospectResponse:
    """A float32 item in one chunk."""
    return chunk(item, array.astype("<f4").tobytes(), header=header(array, **subject))


def picture(item: int, png: bytes, form: int = introspect_pb2.CAM_FORM_OVERLAY, **fields) -> introspect_pb2.IntrospectResponse:
    """A PNG file in one chunk."""
    said = introspect_pb2.ChunkHeader(total_bytes=len(png), encoding=introspect_pb2.ENCODING_PNG, **cam(form=form, **fields))
    return chunk(item, png, header=said)


def measures(samples: int = 1, **lists: list[float]) -> introspect_pb2.Measures:
    """All seven: 0.125 for each sample, where no list says otherwise."""
    names = [field.name for field in introspect_pb2.Measures.DESCRIPTOR.fields]
    return introspect_pb2.Measures(**{name: lists.get(name, [0.125] * samples) for name in names})


def faithfulness(rank: int = 0, **both: introspect_pb2.Measures) -> introspect_pb2.IntrospectResponse:
    both = {"map": measures(insertion=[0.75]), "random": measures(insertion=[0.5]), **both}
    return response(faithfulness=introspect_pb2.Faithfulness(rank=rank, steps=16, **both))


def scored(item: int, array: np.ndarray, top: Iterable[int] = ()) -> list[introspect_pb2.IntrospectResponse]:
    """A prediction and its scores."""
    event = introspect_pb2.Prediction(scores_item=item, scores_kind=model_pb2.SCORES_KIND_LOGITS)
    for index in top:
        event.top.add(classes=[best(index)])
    return [response(prediction=event), whole(item, array, scores=introspect_pb2.ScoresHeader())]


def failed(code: int, message: str, **subject) -> introspect_pb2.IntrospectResponse:
    return response(item_failed=introspect_pb2.ItemFailed(code=code, message=message, **subject))


def finished() -> introspect_pb2.IntrospectResponse:
    event = introspect_pb2.Finished(last_layer="fc2", bytes_sent=72)
    event.stages.add(stage="forward").duration.FromNanoseconds(1_500_000)
    event.stages.add(stage="capture").duration.FromNanoseconds(250_000)
    event.layers.add(layer="conv1", bytes=72).completed_after.FromNanoseconds(1_000_000)
    event.cams.add().map.FromNanoseconds(2_000_000)
    return response(finished=event)


def complete_stream() -> list[introspect_pb2.IntrospectResponse]:
    """One of everything, for one sample of 3 classes."""
    rise = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3)
    return [
        started(cams=1),
        whole(1, rise, **capture("conv1")),
        whole(2, np.ones((1, 4), np.float32), **capture("fc1", introspect_pb2.CAPTURE_KIND_INPUT)),
        *scored(3, np.array([[0.5, 4.0, -1.0]], np.float32), top=[1]),
        whole(4, -rise, **capture("conv1", introspect_pb2.CAPTURE_KIND_GRADIENT)),
        response(progress=introspect_pb2.Progress(what="grad-cam", done=1, total=1)),
        whole(
            5,
            np.array([[[0, 1], [0, 0]]], np.float32),
            **cam(placement=[introspect_pb2.Affine(scale_x=14, scale_y=14)]),
        ),
        finished(),
    ]
