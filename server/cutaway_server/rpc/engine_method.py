"""Methods that one run of an engine answers: parse, decode, run, encode. How they are called is `fast_path`'s matter, or gRPC's."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import grpc

from cutaway_server.models.arrays import Array
from cutaway_server.models.model import Model
from cutaway_server.prediction.batcher import AwaitedPrediction
from cutaway_server.rpc.calls import Calls, OpenCall
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.served import Models, Served, check_named

_MANY = 1000  # classes named in one answer


class EngineMethod(ABC):
    """A unary method, from a request's bytes to an answer's.

    Attributes:
        name: in logs and metrics.
        path: as gRPC has it, /SERVICE/METHOD.
        model_field: of the request, where the model's name stands.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    model_field: ClassVar[str]

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    @abstractmethod
    def parse(self, data: bytes) -> Any:
        """The request.

        Raises:
            BadInput: these bytes are none.
        """

    @abstractmethod
    def named(self, request: Any) -> tuple[str, str]:
        """Name and version of the model that is asked for; the version is empty for the default one."""

    @abstractmethod
    def at_hand(self, request: Any, model: Model) -> tuple[Array, ...] | None:
        """What `decode` gives, where the request holds it plainly and right; None where it takes work, or a refusal, to tell."""

    @abstractmethod
    def decode(self, request: Any, model: Model) -> tuple[Array, ...]:
        """The network's arguments, on the host, the batch first.

        Raises:
            Refusal: the request is not as it must be.
        """

    @abstractmethod
    def encode(self, request: Any, model: Model, scores: Array) -> bytes:
        """The answer, whatever its size."""

    def encode_within_limits(self, request: Any, model: Model, scores: Array) -> bytes:
        """The answer.

        Raises:
            AnswerTooLarge: one message cannot hold it.
        """
        data = self.encode(request, model, scores)
        self._limits.check_answer(len(data))
        return data

    def seconds(self, request: Any) -> float | None:
        """That the request gives itself; None where it does not.

        Raises:
            BadInput: it says so wrongly.
        """
        return None

    def answer(self, request: Any, served: Served, call: OpenCall) -> bytes:
        """All steps, in a thread that may wait.

        Raises:
            Refusal: whatever ended it.
        """
        return self.encode_within_limits(request, served.model, run_engine(served, self.decode(request, served.model), call))


def names_many(arguments: tuple[Array, ...], best: int) -> bool:
    """Whether an answer with so many of the best classes for each sample takes long to write."""
    return best * len(arguments[0]) > _MANY


def run_engine(served: Served, arguments: tuple[Array, ...], call: OpenCall) -> Array:
    """The scores, the batch first, in a thread that may wait.

    Raises:
        Refusal: as `Batcher.submit` and `AwaitedPrediction.result`.
    """
    prediction = AwaitedPrediction(arguments, call.deadline, call.request_id)
    served.batcher.submit(prediction)
    call.on_cancel(prediction.cancel)
    return prediction.result()


def answer(method: EngineMethod, data: bytes, models: Models, call: OpenCall) -> bytes:
    """A call from its request's bytes to its answer's, in a thread that may wait.

    Raises:
        Refusal: whatever ended it.
    """
    request, named = opened(method, data, models, call)
    with models.use(*named, call.deadline) as served:
        return method.answer(request, served, call)


def opened(method: EngineMethod, data: bytes, models: Models, call: OpenCall) -> tuple[Any, tuple[str, str]]:
    """The request, and name and version of its model. After this the call knows its model and its deadline.

    Raises:
        BadInput: it is none, names no model, or its own limit of time is none.
    """
    request = method.parse(data)
    named = method.named(request)
    call.model = named[0] or check_named(models, "", method.model_field)
    if (seconds := method.seconds(request)) is not None:
        call.deadline = min(call.deadline, call.began + seconds)
    return request, named


def ordinary_handler(method: EngineMethod, models: Models, calls: Calls) -> "grpc.RpcMethodHandler[bytes, bytes]":
    """The method for a thread of gRPC's pool."""

    def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
        with calls.open(method.name, None, context) as call:
            return answer(method, data, models, call)

    return grpc.unary_unary_rpc_method_handler(handle)
