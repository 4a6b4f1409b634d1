"""inference.GRPCInferenceService: what there is to ask, and what answers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from importlib.metadata import version
from typing import Any

import grpc

from cutaway_server.errors import BadInput, DeadlinePassed, UnknownModel
from cutaway_server.metrics import Metrics
from cutaway_server.rpc.calls import Calls, parser, serialize
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference import describe, messages
from cutaway_server.rpc.open_inference.infer import Inferences
from cutaway_server.rpc.open_inference.statistics import statistics
from cutaway_server.rpc.served import Models, State, check_named

OPEN_INFERENCE = "inference.GRPCInferenceService"
_EXTENSIONS = ("classification", "model_configuration", "statistics")
_ANSWERING = (State.READY, State.PARKED)
Context = grpc.ServicerContext


class OpenInferenceService:
    """The handlers of the protocol, but for ModelInfer, which is an engine method.

    Args:
        stream_pool: threads of ModelStreamInfer's own: an open stream holds one of these and no other call's.
        reload: looks at the folders of models within so many seconds; None where callers may not load and unload.
    Attributes:
        is_ready: what ServerReady says.
    """

    def __init__(
        self,
        models: Models,
        *,
        inferences: Inferences,
        limits: Limits,
        calls: Calls,
        metrics: Metrics,
        stream_pool: ThreadPoolExecutor,
        reload: Callable[[float], bool] | None,
    ) -> None:
        self.is_ready = False
        self._models = models
        self._inferences = inferences
        self._limits = limits
        self._calls = calls
        self._metrics = metrics
        self._stream_pool = stream_pool
        self._reload = reload

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """What a grpc.server serves."""

        def stream(requests: Any, context: Context) -> Any:
            return self._inferences.stream(requests, context)

        stream.experimental_thread_pool = self._stream_pool  # type: ignore[attr-defined]  # grpc looks for it here
        unary: dict[str, tuple[Callable[[Any, Context], Any], Any]] = {
            "ServerLive": (self.server_live, messages.ServerLiveRequest),
            "ServerReady": (self.server_ready, messages.ServerReadyRequest),
            "ModelReady": (self.model_ready, messages.ModelReadyRequest),
            "ServerMetadata": (self.server_metadata, messages.ServerMetadataRequest),
            "ModelMetadata": (self.model_metadata, messages.ModelMetadataRequest),
            "ModelConfig": (self.model_config, messages.ModelConfigRequest),
            "ModelStatistics": (self.model_statistics, messages.ModelStatisticsRequest),
            "RepositoryIndex": (self.repository_index, messages.RepositoryIndexRequest),
        }
        if self._reload:
            unary["RepositoryModelLoad"] = (self.repository_model_load, messages.RepositoryModelLoadRequest)
            unary["RepositoryModelUnload"] = (self.repository_model_unload, messages.RepositoryModelUnloadRequest)
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(behaviour, parser(request), serialize)
            for method, (behaviour, request) in unary.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(stream, parser(messages.ModelInferRequest), serialize)
        return grpc.method_handlers_generic_handler(OPEN_INFERENCE, handlers)

    def close(self) -> None:
        """Ends what would otherwise stay open."""
        self._inferences.close()

    def server_live(self, request: messages.ServerLiveRequest, context: Context) -> messages.ServerLiveResponse:
        """Yes."""
        with self._calls.open("ServerLive", request, context):
            return messages.ServerLiveResponse(live=True)

    def server_ready(self, request: messages.ServerReadyRequest, context: Context) -> messages.ServerReadyResponse:
        """As health."""
        with self._calls.open("ServerReady", request, context):
            return messages.ServerReadyResponse(ready=self.is_ready)

    def model_ready(self, request: messages.ModelReadyRequest, context: Context) -> messages.ModelReadyResponse:
        """A parked one is ready: a call has it loaded."""
        with self._calls.open("ModelReady", request, context):
            check_named(self._models, request.name, "name")
            try:
                state = self._models.find(request.name, request.version).state
            except UnknownModel:
                return messages.ModelReadyResponse(ready=False)
            return messages.ModelReadyResponse(ready=state in _ANSWERING)

    def server_metadata(self, request: messages.ServerMetadataRequest, context: Context) -> messages.ServerMetadataResponse:
        """Only extensions that are there: clients go by them."""
        with self._calls.open("ServerMetadata", request, context):
            extensions = (*_EXTENSIONS, *(("model_repository",) if self._reload else ()))
            return messages.ServerMetadataResponse(name="cutaway", version=version("cutaway"), extensions=extensions)

    def model_metadata(self, request: messages.ModelMetadataRequest, context: Context) -> messages.ModelMetadataResponse:
        """Loads a parked model."""
        with self._calls.open("ModelMetadata", request, context) as call:
            check_named(self._models, request.name, "name")
            with self._models.use(request.name, request.version, call.deadline) as served:
                versions = [one.version for one in self._models.all() if one.name == request.name and one.state in _ANSWERING]
                return describe.metadata(served.model, versions)

    def model_config(self, request: messages.ModelConfigRequest, context: Context) -> messages.ModelConfigResponse:
        """Loads a parked model."""
        with self._calls.open("ModelConfig", request, context) as call:
            check_named(self._models, request.name, "name")
            with self._models.use(request.name, request.version, call.deadline) as served:
                joins = served.batcher.max_batch > 1
                return messages.ModelConfigResponse(config=describe.configuration(served.model, self._limits, joins=joins))

    def model_statistics(self, request: messages.ModelStatisticsRequest, context: Context) -> messages.ModelStatisticsResponse:
        """Of all models for an empty name."""
        with self._calls.open("ModelStatistics", request, context):
            names = [request.name] if request.name else sorted({listed.name for listed in self._models.all()})
            models = [self._models.find(name, request.version if request.name else "") for name in names]
            return messages.ModelStatisticsResponse(model_stats=[statistics(self._metrics, model) for model in models])

    def repository_index(self, request: messages.RepositoryIndexRequest, context: Context) -> messages.RepositoryIndexResponse:
        """All, or those in memory."""
        with self._calls.open("RepositoryIndex", request, context):
            models = [listed for listed in self._models.all() if listed.state is State.READY or not request.ready]
            return describe.index(models)

    def repository_model_load(
        self, request: messages.RepositoryModelLoadRequest, context: Context
    ) -> messages.RepositoryModelLoadResponse:
        """Looks at the folders again, where there are any, and waits until the default version is in memory."""
        with self._calls.open("RepositoryModelLoad", request, context) as call:
            check_named(self._models, request.model_name, "model_name")
            if request.parameters:
                raise BadInput(
                    "parameters", ", ".join(sorted(request.parameters))[:100], "none: models come from the server's folders"
                )
            assert self._reload
            try:
                self._reload(call.seconds_left())
            except NotInTime as error:
                raise DeadlinePassed("while the models were loaded, which goes on") from error
            with self._models.use(request.model_name, "", call.deadline):
                return messages.RepositoryModelLoadResponse()

    def repository_model_unload(
        self, request: messages.RepositoryModelUnloadRequest, context: Context
    ) -> messages.RepositoryModelUnloadResponse:
        """Parks all versions."""
        with self._calls.open("RepositoryModelUnload", request, context) as call:
            check_named(self._models, request.model_name, "model_name")
            self._models.unload(request.model_name, call.deadline)
            return messages.RepositoryModelUnloadResponse()
