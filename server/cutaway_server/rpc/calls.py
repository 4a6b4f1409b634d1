"""What every call has: a request id, a deadline, log lines, metrics, and refusals turned into status."""

import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Never

import grpc
import structlog
from google.protobuf.message import DecodeError

from cutaway_server.errors import BadInput, Cancelled, DeadlinePassed, Refusal, ServerFailed
from cutaway_server.metrics import Metrics, Tally
from cutaway_server.rpc.errors import abort, code_of
from cutaway_server.rpc.served import Models

log = structlog.get_logger()
_EARLY, _EARLY_SECONDS = (
    0.01,
    0.01,
)  # of its time that a client may end a call before the deadline that it sent, which is rounded up
_MODEL_FIELDS = ("model", "model_name", "name")  # of cutaway.v1, and of Open Inference
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
Metadata = Sequence[tuple[str, str | bytes]]
OnCancel = Callable[[Callable[[], None]], None]


class OpenCall:
    """A call that is open.

    Attributes:
        model: that it asks for, by the name that it gave.
        found: whether there is such a one, as far as is known.
        request_id: the client's x-request-id, or one made up.
        began, deadline: on the monotonic clock, in seconds.
        stopped: what ended its stream from inside; None where nothing did.
        on_cancel: told what to do when nobody waits for the answer any more. Does that at once where that is so already.
    """

    __slots__ = ("began", "deadline", "found", "method", "model", "on_cancel", "request_id", "stopped")

    def __init__(self, method: str, request_id: str, deadline: float, on_cancel: OnCancel, model: str = "") -> None:
        self.method = method
        self.model = model
        self.found = False
        self.request_id = request_id
        self.began = time.monotonic()
        self.deadline = deadline
        self.on_cancel = on_cancel
        self.stopped: Refusal | None = None

    @property
    def about(self) -> dict[str, str]:
        """What its log lines say of it."""
        return {"request_id": self.request_id, "method": self.method, "model": self.model[:100]}

    def seconds_left(self) -> float:
        """Until the deadline; 0 when it has passed."""
        return max(0.0, self.deadline - time.monotonic())

    def stop(self, why: Refusal) -> None:
        """Its stream is given up; the first reason counts."""
        self.stopped = self.stopped or why

    def reason_to_end(self, refusal: Refusal) -> Refusal:
        """GRPC tells of a passed deadline by cancelling: say which it was."""
        now = time.monotonic()
        early = _EARLY_SECONDS + _EARLY * (self.deadline - self.began)
        if isinstance(refusal, Cancelled) and now >= self.deadline - early:
            return DeadlinePassed("before the call was done")
        return refusal


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
        self._made_up = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._tallies: dict[tuple[str, str, str], Tally] = {}

    @contextmanager
    def open(
        self,
        method: str,
        request: Any,
        context: grpc.ServicerContext,
        refuse: Callable[[grpc.ServicerContext, Refusal], Never] = abort,
        on_cancel: OnCancel | None = None,
    ) -> Iterator[OpenCall]:
        """One call, from its handler's start to its end. A Refusal inside becomes its status, any other error INTERNAL.

        Args:
            refuse: for a request whose refusal does not end its RPC.
            on_cancel: the call's, for a request that is not all of its RPC.
        """

        def when_ended(stop: Callable[[], None]) -> None:
            if not context.add_callback(stop):
                stop()

        call = self.begin(method, context.invocation_metadata(), context.time_remaining(), on_cancel or when_ended)
        call.model = next((getattr(request, field) for field in _MODEL_FIELDS if hasattr(request, field)), "")
        try:
            context.set_trailing_metadata((("x-request-id", call.request_id),))
            if isinstance(request, DecodeError):
                raise BadInput("request", "bytes that are no message of this method", "its request message")
            yield call
        except Refusal as refusal:
            refuse(context, self.refused(call, refusal))
        except GeneratorExit:  # the stream was given up: nobody is there to be told
            ended = call.reason_to_end(call.stopped or Cancelled())
            log.info("ended", code=code_of(ended).name, reason=str(ended), **call.about)
            self._count(call, code_of(ended).name)
            raise
        except Exception:
            refuse(context, self.failed(call))
        else:
            self.answered(call)

    def begin(self, method: str, metadata: Metadata, seconds_left: float | None, on_cancel: OnCancel) -> OpenCall:
        """A call that has arrived.

        Args:
            metadata: that the client sent.
            seconds_left: until its own deadline; None where it has none.
        """
        limit = self._call_seconds if seconds_left is None else min(seconds_left, self._call_seconds)
        return OpenCall(method, self._request_id(metadata), time.monotonic() + limit, on_cancel)

    def answered(self, call: OpenCall) -> None:
        """It went well."""
        if self._log_success:
            log.info("answered", seconds=round(time.monotonic() - call.began, 6), **call.about)
        self._count(call, "OK")

    def refused(self, call: OpenCall, refusal: Refusal) -> Refusal:
        """What the caller is to be told."""
        refusal = call.reason_to_end(refusal)
        code = code_of(refusal)
        log.info("refused", code=code.name, reason=str(refusal), **call.about)
        self._count(call, code.name)
        return refusal

    def failed(self, call: OpenCall) -> Refusal:
        """For the exception that is being handled, which is the server's own fault: what the caller is to be told."""
        log.exception("the server failed", **call.about)
        self._count(call, grpc.StatusCode.INTERNAL.name)
        return ServerFailed(call.request_id)

    def _count(self, call: OpenCall, code: str) -> None:
        known = call.model if call.found or self._models.knows(call.model) else ""
        tally = self._tallies.get((call.method, known, code))
        if tally is None:
            timed, counted = self._metrics.request_seconds, self._metrics.requests
            tally = self._metrics.tally(timed.labels(call.method, known), counted.labels(call.method, known, code))
            self._tallies[call.method, known, code] = tally
        tally.add(time.monotonic() - call.began)

    def _request_id(self, metadata: Metadata) -> str:
        for key, value in metadata:
            if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
                return value
        return f"{self._made_up}{next(self._numbers):016x}"


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
