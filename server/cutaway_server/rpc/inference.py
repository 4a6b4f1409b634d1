"""cutaway.v1.InferenceService, but for Predict, which is an engine method: decode, call, encode."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from cutaway.v1 import inference_pb2, introspect_pb2
from cutaway_server.errors import BadInput
from cutaway_server.introspection.events import NOTHING_RAN, Started
from cutaway_server.metrics import Metrics
from cutaway_server.models.model import Model
from cutaway_server.rpc.calls import Calls, OpenCall, parser, serialize
from cutaway_server.rpc.cams import decode_cams, wants_overlays
from cutaway_server.rpc.decode import decode_captures, decode_inputs
from cutaway_server.rpc.encode import encode_listed, encode_model
from cutaway_server.rpc.introspections import Introspections, Planned, new_seed
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.predict import check_top_k
from cutaway_server.rpc.served import Models, Served, State, check_named
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
        introspections: Introspections,
        introspect_pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._models = models
        self._limits = limits
        self._calls = calls
        self._introspections = introspections
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
            check_named(self._models, request.model, "model")
            listed = self._models.find(request.model, request.version)
            if listed.state is State.FAILED:
                return inference_pb2.GetModelResponse(model=encode_listed(listed))
            with self._models.use(request.model, request.version, call.deadline) as served:
                return inference_pb2.GetModelResponse(model=encode_model(served, reason=listed.reason, whole=True))

    def introspect(self, request: introspect_pb2.IntrospectRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Plan, queue for a lane, and send what comes."""
        with self._calls.open("Introspect", request, context) as open_call:
            check_named(self._models, request.model, "model")
            with self._models.use(request.model, request.version, open_call.deadline) as served:
                yield from self._introspect(served, request, open_call, context)

    def _introspect(
        self, served: Served, request: introspect_pb2.IntrospectRequest, open_call: OpenCall, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        planned = self._plan(served.model, request)
        encoder = StreamEncoder(planned.plan.model, open_call.request_id, self._metrics)
        if request.plan_only:
            yield encoder.encode(Started(planned.plan))
            yield encoder.encode(NOTHING_RAN)
            return
        with self._introspections.run(served, planned, open_call, context.cancel) as (call, stream):
            for event in call.events():
                message = encoder.encode(event)
                with stream.sending():
                    yield message

    def _plan(self, model: Model, request: introspect_pb2.IntrospectRequest) -> Planned:
        model.check_introspectable()
        if request.without_prediction and request.top_k:
            raise BadInput("top_k", f"{request.top_k} with without_prediction", "0, or a prediction")
        check_top_k(model, request.top_k)
        began = time.monotonic()
        captures, cams = decode_captures(request.captures), decode_cams(request.cams)
        decoded = decode_inputs(model, request.inputs, self._limits, keep_photographs=wants_overlays(request.cams))
        return self._introspections.plan(
            model,
            decoded,
            began=began,
            captures=captures,
            cams=cams,
            top_k=None if request.without_prediction else request.top_k,
            seed=request.seed if request.HasField("seed") else new_seed(),
        )
