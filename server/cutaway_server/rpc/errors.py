"""One table from refusals to gRPC codes and google.rpc details."""

from collections.abc import Callable
from typing import Any, Never

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cutaway_server import errors

Code = grpc.StatusCode
DOMAIN = "cutaway"


def _field(refusal: Any) -> list[Message]:
    violation = error_details_pb2.BadRequest.FieldViolation(field=refusal.field, description=str(refusal))
    return [error_details_pb2.BadRequest(field_violations=[violation])]


def _nothing(refusal: Any) -> list[Message]:
    return []


def _close_layers(refusal: Any) -> list[Message]:
    return [*_field(refusal), _info("UNKNOWN_LAYER", close_matches=",".join(refusal.close_matches))]


def _unknown_model(refusal: errors.UnknownModel) -> list[Message]:
    return [error_details_pb2.ResourceInfo(resource_type="model", resource_name=refusal.model, description=str(refusal))]


def _too_large(refusal: errors.InputTooLarge) -> list[Message]:
    return [*_field(refusal), _info("LIMIT", asked=str(refusal.asked), limit=str(refusal.limit))]


def _large_answer(refusal: errors.AnswerTooLarge) -> list[Message]:
    return [_info("LIMIT", asked=str(refusal.asked), limit=str(refusal.limit))]


def _retry(refusal: errors.Busy | errors.NoRoom) -> list[Message]:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(refusal.retry_after_s * 1e9))
    return [error_details_pb2.RetryInfo(retry_delay=delay), _info("BUSY", limit=str(refusal.limit))]


def _precondition(refusal: errors.Refusal) -> list[Message]:
    violation = error_details_pb2.PreconditionFailure.Violation(type="MODEL", description=str(refusal))
    return [error_details_pb2.PreconditionFailure(violations=[violation])]


def _memory(refusal: errors.OutOfMemory) -> list[Message]:
    return [_info("OUT_OF_MEMORY", device=refusal.device)]


def _info(reason: str, **metadata: str) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return info


TABLE: dict[type[errors.Refusal], tuple[grpc.StatusCode, Callable[[Any], list[Message]]]] = {
    errors.UnknownModel: (Code.NOT_FOUND, _unknown_model),
    errors.NotReady: (Code.FAILED_PRECONDITION, _precondition),
    errors.NoRoom: (Code.RESOURCE_EXHAUSTED, _retry),
    errors.NothingToReload: (Code.FAILED_PRECONDITION, _nothing),
    errors.UnknownLayer: (Code.INVALID_ARGUMENT, _close_layers),
    errors.NothingMatches: (Code.INVALID_ARGUMENT, _close_layers),
    errors.NotHookable: (Code.FAILED_PRECONDITION, _precondition),
    errors.NotReducible: (Code.INVALID_ARGUMENT, _field),
    errors.BadInput: (Code.INVALID_ARGUMENT, _field),
    errors.InputTooLarge: (Code.INVALID_ARGUMENT, _too_large),
    errors.AnswerTooLarge: (Code.RESOURCE_EXHAUSTED, _large_answer),
    errors.Busy: (Code.RESOURCE_EXHAUSTED, _retry),
    errors.NotIntrospectable: (Code.FAILED_PRECONDITION, _precondition),
    errors.CamNotPossible: (Code.FAILED_PRECONDITION, _precondition),
    errors.DeadlinePassed: (Code.DEADLINE_EXCEEDED, _nothing),
    errors.ReaderStalled: (Code.ABORTED, _nothing),
    errors.Cancelled: (Code.CANCELLED, _nothing),
    errors.ShuttingDown: (Code.UNAVAILABLE, _nothing),
    errors.NetworkFailed: (Code.INTERNAL, _nothing),
    errors.OutOfMemory: (Code.RESOURCE_EXHAUSTED, _memory),
    errors.ServerFailed: (Code.INTERNAL, _nothing),
}


def code_of(refusal: errors.Refusal) -> grpc.StatusCode:
    """The gRPC code of a refusal."""
    return TABLE[type(refusal)][0]


def status_of(refusal: errors.Refusal) -> tuple[grpc.StatusCode, tuple[str, bytes]]:
    """The gRPC code of a refusal, and the trailing metadata that carries its sentence and details."""
    code, details = TABLE[type(refusal)]
    status = status_pb2.Status(code=code.value[0], message=str(refusal))
    for detail in details(refusal):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, ("grpc-status-details-bin", status.SerializeToString())


def abort(context: grpc.ServicerContext, refusal: errors.Refusal) -> Never:
    """Ends the call with the refusal's code, sentence and details. Raises, as grpc's own abort does."""
    code, details = status_of(refusal)
    kept = context.trailing_metadata() or ()  # the request id; abort_with_status would replace it
    context.set_trailing_metadata((*kept, details))
    context.abort(code, str(refusal))
    raise AssertionError("abort raises")
