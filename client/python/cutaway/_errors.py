"""Every error that this package raises on purpose.

    Error                     .code .message .details; __cause__ is the RpcError where a call failed
    │
    │   a status of gRPC each, as the server answered it:
    ├── Cancelled             the call was given up
    ├── Unknown               the server failed and did not say how
    ├── InvalidArgument       the request is wrong: the details name the field
    ├── DeadlineExceeded      the time given to the call is over
    ├── NotFound              no such model or version
    ├── AlreadyExists
    ├── PermissionDenied      the caller may not do this
    ├── ResourceExhausted     a limit was passed, or too many calls wait
    ├── FailedPrecondition    this model cannot do that
    ├── Aborted
    ├── OutOfRange
    ├── Unimplemented         not in this version of the server
    ├── Internal              a fault of the server
    ├── Unavailable           no server there, or one that is going away
    ├── DataLoss
    ├── Unauthenticated       the server does not know who calls
    │
    │   raised by the client itself:
    ├── BrokenAnswer          the bytes that came break the contract, or stop too early
    └── NotInAnswer           what was looked up in an answer is not in it; says why
        └── NotCaptured       the same for a layer; also a KeyError

An argument that is refused before any call is made is Python's own ValueError or TypeError.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2


class Error(Exception):
    """A call that failed, or an answer that does not hold what was asked of it.

    Attributes:
        code: the gRPC status code; errors that the client found itself carry the closest one.
        message: one sentence for a person.
        details: google.rpc messages: BadRequest, ErrorInfo, ResourceInfo, RetryInfo, QuotaFailure, PreconditionFailure;
            a type that this client does not know stays a google.protobuf.Any.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, *, code: grpc.StatusCode | None = None, details: Sequence[Message] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message


class Cancelled(Error):
    """The call was given up before it was done."""

    code = grpc.StatusCode.CANCELLED


class Unknown(Error):
    """The server failed and did not say how; also the class for a code that this client does not know."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(Error):
    """The request is wrong; a BadRequest among the details names the field."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(Error):
    """The time given to the call is over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFound(Error):
    """There is no such model or version; a ResourceInfo among the details names it."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Error):
    """What was to be made is there already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(Error):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(Error):
    """A limit was passed, or too many calls wait; the details carry the numbers."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPrecondition(Error):
    """This model cannot do that; the message names what would work."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(Error):
    """The call lost against another one."""

    code = grpc.StatusCode.ABORTED


class OutOfRange(Error):
    """A value lies beyond its range."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Unimplemented(Error):
    """Not in this version of the server."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(Error):
    """A fault of the server."""

    code = grpc.StatusCode.INTERNAL


class Unavailable(Error):
    """No server is there, or one that is going away: the call may be tried again."""

    code = grpc.StatusCode.UNAVAILABLE


class DataLoss(Error):
    """The server lost data for good."""

    code = grpc.StatusCode.DATA_LOSS


class Unauthenticated(Error):
    """The server does not know who calls."""

    code = grpc.StatusCode.UNAUTHENTICATED


class BrokenAnswer(Error):
    """What came breaks the contract or stops too early: a gap between chunks, a wrong byte count, no Finished."""

    code = grpc.StatusCode.DATA_LOSS


class NotInAnswer(Error):
    """What was looked up in an answer is not in it: it failed, or was not asked for, or is something else."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NotCaptured(NotInAnswer, KeyError):
    """A layer (or a path within its value) that an introspection does not hold; the message has the server's reason."""

    code = grpc.StatusCode.NOT_FOUND


_BY_CODE: dict[grpc.StatusCode, type[Error]] = {
    error.code: error
    for error in (
        Cancelled,
        Unknown,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}

_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_DETAIL_TYPES: tuple[type[Message], ...] = (
    error_details_pb2.BadRequest,
    error_details_pb2.ErrorInfo,
    error_details_pb2.ResourceInfo,
    error_details_pb2.RetryInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.PreconditionFailure,
)


class _Status(Protocol):
    """What grpc.RpcError and grpc.aio.AioRpcError have in common, though neither declares it."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]] | None: ...


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Turns the RpcError of a failed call, blocking or asyncio, into the Error of its code."""
    try:
        yield
    except grpc.RpcError as error:
        status = cast("_Status", error)
        code = status.code()
        raise _BY_CODE.get(code, Unknown)(
            status.details() or code.name, code=code, details=_details(status.trailing_metadata() or ())
        ) from error


def status_code(number: int) -> grpc.StatusCode:
    """The status code of a google.rpc.Code; UNKNOWN for one that there is not."""
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def _details(metadata: Sequence[tuple[str, str | bytes]]) -> list[Message]:
    """The google.rpc details beside a status. grpc_status would raise where a proxy changed the message."""
    for key, value in metadata:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return [_unpacked(detail) for detail in status_pb2.Status.FromString(value).details]
            except DecodeError:
                return []
    return []


def _unpacked(detail: AnyMessage) -> Message:
    for known in _DETAIL_TYPES:
        message = known()
        if detail.Unpack(message):
            return message
    return detail
