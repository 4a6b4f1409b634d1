"""What every call has: a request id, a deadline, log lines, metrics, and refusals turned into status."""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Never

import grpc
import structlog
from google.protobuf.message import DecodeError

from cutaway_server.errors import BadInput, Cancelled, DeadlinePassed, Refusal, ServerFailed
from cutaway_server.metrics import Metrics
from cutaway_server.rpc.errors import abort, code_of
from cutaway_server.rpc.served import Models

log = structlog.get_logger()
_MODEL_FIELDS = ("model", "model_name", "name")  # of cutaway.v1, and of Open Inference
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Calls:
    """Opens and closes calls.

    Args:
        call_seconds: what a call without a deadline may take, and at most one with.
        log_success: whether calls that went well are logged too.
    """

    def __init__(self, metrics: Metrics, models: Models, *, call_seconds: float, log_success: bool) -> None:
        self._metrics = metrics
        self._models = models
        self._call_seconds = call_seconds
        self._log_success = log_success

    @contextmanager
    def open(
        self,
        method: str,
        request: Any,
        context: grpc.ServicerContext,
        refuse: Callable[[grpc.ServicerContext, Refusal], Never] = abort,
    ) -> Iterator["OpenCall"]:
        """One call, from its handler's start to its end. A Refusal inside becomes its status, any other error INTERNAL.

        Args:
            refuse: for a request whose refusal does not end its RPC.
        """
        began = time.monotonic()
        model = next((getattr(request, field) for field in _MODEL_FIELDS if hasattr(request, field)), "")
        call = OpenCall(_request_id(context), began + self._seconds_left(context))
        structlog.contextvars.bind_contextvars(request_id=call.request_id, method=method, model=model[:100])
        code = grpc.StatusCode.OK
        try:
            context.set_trailing_metadata((("x-request-id", call.request_id),))
            if isinstance(request, DecodeError):
                raise BadInput("request", "bytes that are no message of this method", "its request message")
            yield call
        except Refusal as refusal:
            refusal = call.reason_to_end(refusal)
            code = code_of(refusal)
            log.info("refused", code=code.name, reason=str(refusal))
            refuse(context, refusal)
        except GeneratorExit:  # the stream was given up: nobody is there to be told
            ended = call.reason_to_end(call.stopped or Cancelled())
            code = code_of(ended)
            log.info("ended", code=code.name, reason=str(ended))
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            log.exception("the server failed")
            refuse(context, ServerFailed(call.request_id))
        finally:
            known = model if any(known.name == model for known in self._models.all()) else ""
            self._metrics.requests.labels(method, known, code.name).inc()
            self._metrics.request_seconds.labels(method, known).observe(time.monotonic() - began)
            if self._log_success and code is grpc.StatusCode.OK:
                log.info("answered", seconds=round(time.monotonic() - began, 6))
            structlog.contextvars.clear_contextvars()

    def _seconds_left(self, context: grpc.ServicerContext) -> float:
        left = context.time_remaining()
        return self._call_seconds if left is None else min(left, self._call_seconds)


class OpenCall:
    """A call that is open.

    Attributes:
        request_id: the client's x-request-id, or one made up.
        deadline: on the monotonic clock, in seconds.
        stopped: what ended its stream from inside; None where nothing did.
    """

    def __init__(self, request_id: str, deadline: float) -> None:
        self.request_id = request_id
        self.deadline = deadline
        self.stopped: Refusal | None = None

    def seconds_left(self) -> float:
        """Until the deadline; 0 when it has passed."""
        return max(0.0, self.deadline - time.monotonic())

    def stop(self, why: Refusal) -> None:
        """Its stream is given up; the first reason counts."""
        self.stopped = self.stopped or why

    def reason_to_end(self, refusal: Refusal) -> Refusal:
        """GRPC tells of a passed deadline by cancelling: say which it was."""
        if isinstance(refusal, Cancelled) and time.monotonic() >= self.deadline:
            return DeadlinePassed("before the call was done")
        return refusal


def _request_id(context: grpc.ServicerContext) -> str:
    for key, value in context.invocation_metadata():
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def parser(message: Any) -> Callable[[bytes], Any]:
    """What turns a request's bytes into the message, or into the error, which `Calls.open` refuses: grpc would say INTERNAL."""

    def parse(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError as error:
            return error

    return parse


def serialize(message: Any) -> bytes:
    """A message's bytes."""
    serialized: bytes = message.SerializeToString()
    return serialized
