"""cutaway.v1.AdminService: changes what the server serves."""

from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

import grpc

from cutaway.v1 import admin_pb2
from cutaway_server.errors import DeadlinePassed, NothingToReload
from cutaway_server.rpc.calls import Calls, parser, serialize
from cutaway_server.rpc.encode import encode_listed
from cutaway_server.rpc.served import Models

ADMIN_SERVICE = "cutaway.v1.AdminService"


class AdminService:
    """The handlers of the service that is off unless the operator turns it on.

    Args:
        reload: looks at the folders within so many seconds; says whether there are any. Raises TimeoutError.
    """

    def __init__(self, models: Models, calls: Calls, reload: Callable[[float], bool]) -> None:
        self._models = models
        self._calls = calls
        self._reload = reload

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """What a grpc.server serves."""
        reload = grpc.unary_unary_rpc_method_handler(self.reload_models, parser(admin_pb2.ReloadModelsRequest), serialize)
        return grpc.method_handlers_generic_handler(ADMIN_SERVICE, {"ReloadModels": reload})

    def reload_models(
        self, request: admin_pb2.ReloadModelsRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ReloadModelsResponse:
        """Reloads, and lists what there is then."""
        with self._calls.open("ReloadModels", request, context) as call:
            try:
                if not self._reload(call.seconds_left()):
                    raise NothingToReload
            except NotInTime as error:
                raise DeadlinePassed("while the models were loaded, which goes on") from error
            return admin_pb2.ReloadModelsResponse(models=map(encode_listed, self._models.all()))
