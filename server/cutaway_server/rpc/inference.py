"""cutaway.v1.InferenceService: decode, call, encode."""

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from torch import Tensor

from cutaway.v1 import inference_pb2, introspect_pb2, predict_pb2
from cutaway_server.errors import BadInput, Cancelled
from cutaway_server.introspection.call import Call
from cutaway_server.introspection.events import NOTHING_RAN, Started
from cutaway_server.introspection.plan import Plan, make_plan
from cutaway_server.metrics import Metrics
from cutaway_server.models.model import Model
from cutaway_server.prediction.batcher import Prediction
from cutaway_server.rpc.calls import Calls, OpenCall, parser, serialize
from cutaway_server.rpc.cams import decode_cams, wants_overlays
from cutaway_server.rpc.decode import Decoded, decode_captures, decode_inputs
from cutaway_server.rpc.encode import encode_listed, encode_model, encode_prediction
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.pictures import drawer
from cutaway_server.rpc.served import Models, Served, State
from cutaway_server.rpc.stall_watch import StallWatch
from cutaway_server.rpc.stream import StreamEncoder

SERVICE = "cutaway.v1.InferenceService"


class InferenceService:
    """The handlers of the contract.

    Args:
        introspect_pool: threads of Introspect's own: a reader that stands still holds one of these and no other call's.
    """

    def __init__(
        self,
        models: Models,
        *,
        limits: Limits,
        calls: Calls,
        watch: StallWatch,
        introspect_pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._models = models
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
                "ListModels": unary(self.list_models, parser(inference_pb2.ListModelsRequest), serialize),
                "GetModel": unary(self.get_model, parser(inference_pb2.GetModelRequest), serialize),
                "Predict": unary(self.predict, parser(predict_pb2.PredictRequest), serialize),
                "Introspect": grpc.unary_stream_rpc_method_handler(introspect, parser(introspect_pb2.IntrospectRequest), None),
            },
        )

    def list_models(
        self, request: inference_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ListModelsResponse:
        """All models, without their labels and layers."""
        with self._calls.open("ListModels", request, context):
            return inference_pb2.ListModelsResponse(models=map(encode_listed, self._models.all()))

    def get_model(self, request: inference_pb2.GetModelRequest, context: grpc.ServicerContext) -> inference_pb2.GetModelResponse:
        """One model, whole; of one that could not be loaded, why."""
        with self._calls.open("GetModel", request, context) as call:
            self._check_named(request)
            listed = self._models.find(request.model, request.version)
            if listed.state is State.FAILED:
                return inference_pb2.GetModelResponse(model=encode_listed(listed))
            with self._models.use(request.model, request.version, call.deadline) as served:
                return inference_pb2.GetModelResponse(model=encode_model(served, reason=listed.reason, whole=True))

    def predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:
        """Decode, run, encode."""
        with self._calls.open("Predict", request, context) as call:
            self._check_named(request)
            with self._models.use(request.model, request.version, call.deadline) as served:
                check_top_k(served.model, request.top_k)
                decoded = decode_inputs(served.model, request.inputs, self._limits)
                scores = self._run(served, decoded, call, context)
                return encode_prediction(served.model, scores, request.top_k)

    def _run(self, served: Served, decoded: Decoded, call: OpenCall, context: grpc.ServicerContext) -> Tensor:
        prediction = Prediction(decoded.arguments, call.deadline, call.request_id)
        served.batcher.submit(prediction)
        if not context.add_callback(prediction.cancel):
            prediction.cancel()
        return prediction.result()

    def introspect(self, request: introspect_pb2.IntrospectRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Plan, queue for a lane, and send what comes."""
        with self._calls.open("Introspect", request, context) as open_call:
            self._check_named(request)
            with self._models.use(request.model, request.version, open_call.deadline) as served:
                yield from self._introspect(served, request, open_call, context)

    def _introspect(
        self, served: Served, request: introspect_pb2.IntrospectRequest, open_call: OpenCall, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        began = time.monotonic()
        plan, decoded = self._plan(served.model, request)
        plan_seconds = time.monotonic() - began
        self._metrics.plan_seconds.labels(plan.model.name).observe(plan_seconds)
        encoder = StreamEncoder(plan.model, open_call.request_id, self._metrics)
        if request.plan_only:
            yield encoder.encode(Started(plan))
            yield encoder.encode(NOTHING_RAN)
            return
        call = Call(
            plan,
            decoded.arguments,
            request_id=open_call.request_id,
            buffer_bytes=self._buffer_bytes(),
            deadline=open_call.deadline,
            stall_s=self._limits.stall_seconds,
            plan_seconds=plan_seconds,
            draw=drawer(decoded.photographs),
        )
        if not context.add_callback(lambda: call.stop(Cancelled())):
            raise Cancelled
        assert served.lanes is not None
        served.lanes.submit(call)
        try:
            with self._watch.watching(call, context.cancel) as stream:
                for event in call.events():
                    message = encoder.encode(event)
                    with stream.sending():
                        yield message
        finally:
            open_call.stopped = call.stopped
            call.stop(Cancelled())

    def _buffer_bytes(self) -> int:
        """Each lane's share of what all calls may hold for their readers, at most what one may."""
        lanes = sum(listed.served.lanes.count for listed in self._models.all() if listed.served and listed.served.lanes)
        return min(self._limits.buffer_bytes, self._limits.all_buffers_bytes // max(1, lanes))

    def _plan(self, model: Model, request: introspect_pb2.IntrospectRequest) -> tuple[Plan, Decoded]:
        model.check_introspectable()
        if request.without_prediction and request.top_k:
            raise BadInput("top_k", f"{request.top_k} with without_prediction", "0, or a prediction")
        check_top_k(model, request.top_k)
        captures, cams = decode_captures(request.captures), decode_cams(request.cams)
        decoded = decode_inputs(model, request.inputs, self._limits, keep_photographs=wants_overlays(request.cams))
        plan = make_plan(
            model.at(decoded.arguments),
            batch=decoded.batch,
            captures=captures,
            cams=cams,
            top_k=None if request.without_prediction else request.top_k,
            placements=decoded.placements,
            seed=request.seed if request.HasField("seed") else secrets.randbits(63),
            max_passes=self._limits.passes,
        )
        return plan, decoded

    def _check_named(self, request: Any) -> None:
        if not request.model:
            raise BadInput("model", "an empty name", f"one of {', '.join(sorted({one.name for one in self._models.all()}))}")


def check_top_k(model: Model, top_k: int) -> None:
    """Raises BadInput where a top k is asked of scores that tell no classes apart."""
    if top_k and not model.class_count:
        raise BadInput("top_k", str(top_k), "0: the network's output is not [N, classes]")
