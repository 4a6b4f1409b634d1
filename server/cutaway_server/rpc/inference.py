"""cutaway.v1.InferenceService: decode, call, encode."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from torch import Tensor

from cutaway.v1 import inference_pb2, introspect_pb2, predict_pb2
from cutaway_server.errors import BadInput, Cancelled
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.events import NOTHING_RAN, Started
from cutaway_server.introspection.lanes import Lanes
from cutaway_server.introspection.plan import Plan, make_plan
from cutaway_server.metrics import Metrics
from cutaway_server.models.model import Model
from cutaway_server.models.repository import Repository
from cutaway_server.prediction.batcher import Batcher, Prediction
from cutaway_server.rpc.calls import Calls, OpenCall
from cutaway_server.rpc.cams import decode_cams, wants_overlays
from cutaway_server.rpc.decode import Decoded, decode_captures, decode_inputs
from cutaway_server.rpc.encode import encode_model, encode_prediction
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.pictures import drawer
from cutaway_server.rpc.stall_watch import StallWatch
from cutaway_server.rpc.stream import StreamEncoder

SERVICE = "cutaway.v1.InferenceService"


class InferenceService:
    """The handlers of the contract.

    Args:
        batchers, lanes: by model name and version; a model that cannot be introspected has no lanes.
        introspect_pool: threads of Introspect's own: a reader that stands still holds one of these and no other call's.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        batchers: Mapping[tuple[str, str], Batcher],
        lanes: Mapping[tuple[str, str], Lanes],
        lanes_per_model: int,
        limits: Limits,
        calls: Calls,
        watch: StallWatch,
        introspect_pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._repository = repository
        self._batchers = batchers
        self._lanes = lanes
        self._lanes_per_model = lanes_per_model
        self._limits = limits
        self._calls = calls
        self._watch = watch
        self._introspect_pool = introspect_pool
        self._metrics = metrics

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """What a grpc.server serves."""

        def introspect(request: introspect_pb2.IntrospectRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
            return self.introspect(request, context)

        introspect.experimental_thread_pool = self._introspect_pool  # type: ignore[attr-defined]  # grpc looks for it here
        unary = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "ListModels": unary(self.list_models, _parser(inference_pb2.ListModelsRequest), _serialize),
                "GetModel": unary(self.get_model, _parser(inference_pb2.GetModelRequest), _serialize),
                "Predict": unary(self.predict, _parser(predict_pb2.PredictRequest), _serialize),
                "Introspect": grpc.unary_stream_rpc_method_handler(introspect, _parser(introspect_pb2.IntrospectRequest), None),
            },
        )

    def list_models(
        self, request: inference_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ListModelsResponse:
        """All models, without their layers."""
        with self._calls.open("ListModels", request, context):
            models = [encode_model(model, lanes=self._lane_count(model), layers=False) for model in self._repository]
            return inference_pb2.ListModelsResponse(models=models)

    def get_model(self, request: inference_pb2.GetModelRequest, context: grpc.ServicerContext) -> inference_pb2.GetModelResponse:
        """One model, with its layers."""
        with self._calls.open("GetModel", request, context):
            model = self._model(request)
            return inference_pb2.GetModelResponse(model=encode_model(model, lanes=self._lane_count(model), layers=True))

    def predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:
        """Decode, run, encode."""
        with self._calls.open("Predict", request, context) as call:
            model = self._model(request)
            check_top_k(model, request.top_k)
            decoded = decode_inputs(model, request.inputs, self._limits)
            scores = self._run(model, decoded, call, context)
            return encode_prediction(model, scores, request.top_k)

    def _run(self, model: Model, decoded: Decoded, call: OpenCall, context: grpc.ServicerContext) -> Tensor:
        prediction = Prediction(decoded.arguments, call.deadline, call.request_id)
        self._batchers[model.name, model.version].submit(prediction)
        if not context.add_callback(prediction.cancel):
            prediction.cancel()
        return prediction.result()

    def introspect(self, request: introspect_pb2.IntrospectRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Plan, queue for a lane, and send what comes."""
        with self._calls.open("Introspect", request, context) as open_call:
            began = time.monotonic()
            model = self._model(request)
            plan, decoded = self._plan(model, request)
            plan_seconds = time.monotonic() - began
            self._metrics.plan_seconds.labels(model.name).observe(plan_seconds)
            encoder = StreamEncoder(model, open_call.request_id, self._metrics)
            if request.plan_only:
                yield encoder.encode(Started(plan))
                yield encoder.encode(NOTHING_RAN)
                return
            call = Call(
                plan,
                decoded.arguments,
                request_id=open_call.request_id,
                buffer_bytes=self._limits.buffer_bytes,
                deadline=open_call.deadline,
                stall_s=self._limits.stall_seconds,
                plan_seconds=plan_seconds,
                draw=drawer(decoded.photographs),
            )
            if not context.add_callback(lambda: call.stop(Cancelled())):
                raise Cancelled
            self._lanes[model.name, model.version].submit(call)
            try:
                with self._watch.watching(call, context.cancel) as stream:
                    for event in call.events():
                        message = encoder.encode(event)
                        with stream.sending():
                            yield message
            finally:
                open_call.stopped = call.stopped
                call.stop(Cancelled())

    def _plan(self, model: Model, request: introspect_pb2.IntrospectRequest) -> tuple[Plan, Decoded]:
        model.check_introspectable()
        if request.without_prediction and request.top_k:
            raise BadInput("top_k", f"{request.top_k} with without_prediction", "0, or a prediction")
        check_top_k(model, request.top_k)
        captures, cams = decode_captures(request.captures), decode_cams(request.cams)
        decoded = decode_inputs(model, request.inputs, self._limits, keep_photographs=wants_overlays(request.cams))
        plan = make_plan(
            model,
            batch=decoded.batch,
            captures=captures,
            cams=cams,
            top_k=None if request.without_prediction else request.top_k,
            placements=decoded.placements,
            seed=request.seed if request.HasField("seed") else secrets.randbits(63),
            max_passes=self._limits.passes,
        )
        return plan, decoded

    def _model(self, request: Any) -> Model:
        if not request.model:
            raise BadInput("model", "an empty name", f"one of {', '.join(sorted({m.name for m in self._repository}))}")
        return self._repository.get(request.model, request.version)

    def _lane_count(self, model: Model) -> int:
        return self._lanes_per_model if (model.name, model.version) in self._lanes else 0


def check_top_k(model: Model, top_k: int) -> None:
    """Raises BadInput where a top k is asked of scores that tell no classes apart."""
    if top_k and not model.class_count:
        raise BadInput("top_k", str(top_k), "0: the network's output is not [N, classes]")


def _parser(message: Any) -> Callable[[bytes], Any]:
    """What turns a request's bytes into the message, or into the error, which `Calls.open` refuses: grpc would say INTERNAL."""

    def parse(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError as error:
            return error

    return parse


def _serialize(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized
