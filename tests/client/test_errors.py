"""Every status of gRPC becomes its class, with message, details and cause."""

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

import cutaway

from .fake import Endless, complete_stream, started

CLASSES = {
    "CANCELLED": cutaway.Cancelled,
    "UNKNOWN": cutaway.Unknown,
    "INVALID_ARGUMENT": cutaway.InvalidArgument,
    "DEADLINE_EXCEEDED": cutaway.DeadlineExceeded,
    "NOT_FOUND": cutaway.NotFound,
    "ALREADY_EXISTS": cutaway.AlreadyExists,
    "PERMISSION_DENIED": cutaway.PermissionDenied,
    "RESOURCE_EXHAUSTED": cutaway.ResourceExhausted,
    "FAILED_PRECONDITION": cutaway.FailedPrecondition,
    "ABORTED": cutaway.Aborted,
    "OUT_OF_RANGE": cutaway.OutOfRange,
    "UNIMPLEMENTED": cutaway.Unimplemented,
    "INTERNAL": cutaway.Internal,
    "UNAVAILABLE": cutaway.Unavailable,
    "DATA_LOSS": cutaway.DataLoss,
    "UNAUTHENTICATED": cutaway.Unauthenticated,
}
DETAILS = [
    error_details_pb2.BadRequest(field_violations=[{"field": "inputs[0].tensor", "description": "is empty"}]),
    error_details_pb2.ErrorInfo(reason="TOO_LARGE", domain="cutaway", metadata={"limit": "4", "asked": "5"}),
    error_details_pb2.ResourceInfo(resource_type="model", resource_name="mnits"),
    error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1)),
    error_details_pb2.QuotaFailure(violations=[{"subject": "lanes", "description": "all are taken"}]),
    error_details_pb2.PreconditionFailure(violations=[{"type": "HEAD", "subject": "cam"}]),
]


def aborting(code: grpc.StatusCode, message: str = "no", details=()):
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    return lambda request, context: context.abort_with_status(rpc_status.to_status(status))


def test_every_code_has_a_class():
    assert set(CLASSES) == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize("name", CLASSES)
def test_code_message_and_cause(server, client, name):
    server.answers["ListModels"] = aborting(grpc.StatusCode[name], "the reason")

    with pytest.raises(cutaway.Error) as caught:
        client.models()

    assert type(caught.value) is CLASSES[name]
    assert caught.value.code is grpc.StatusCode[name]
    assert caught.value.message == str(caught.value) == "the reason"
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert caught.value.details == []


@pytest.mark.parametrize("detail", DETAILS, ids=lambda detail: type(detail).__name__)
def test_details_are_decoded(server, client, detail):
    server.answers["GetModel"] = aborting(grpc.StatusCode.NOT_FOUND, details=[detail])

    with pytest.raises(cutaway.NotFound) as caught:
        client.model("mnits")

    assert caught.value.details == [detail]


def test_unknown_details_stay_as_they_came(server, client):
    server.answers["ListModels"] = aborting(grpc.StatusCode.INTERNAL, details=[duration_pb2.Duration(seconds=3)])

    with pytest.raises(cutaway.Internal) as caught:
        client.models()

    assert [type(detail) for detail in caught.value.details] == [any_pb2.Any]


def test_details_that_are_no_status_are_left_out(server, client):
    def abort(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    server.answers["ListModels"] = abort
    with pytest.raises(cutaway.NotFound, match="gone") as caught:
        client.models()

    assert caught.value.details == []


def test_an_error_in_the_middle_of_a_stream(server, client):
    def half(request, context):
        yield started()
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the reader stood still")

    server.answers["Introspect"] = half
    with pytest.raises(cutaway.ResourceExhausted, match="stood still"):
        client.introspect("mnist", b"png", layers=["*"])


def test_a_deadline_of_the_call_beats_that_of_the_client(server, client):
    server.answers["Introspect"] = Endless()
    with pytest.raises(cutaway.DeadlineExceeded):
        client.introspect("mnist", b"png", layers=["*"], timeout=0.05)


def test_nobody_listens():
    with cutaway.Client("127.0.0.1:1", timeout=10) as client, pytest.raises(cutaway.Unavailable):
        client.models()


@pytest.mark.asyncio
async def test_the_same_with_asyncio(server):
    server.answers["Predict"] = aborting(grpc.StatusCode.NOT_FOUND, "no such model", DETAILS)
    server.answers["Introspect"] = aborting(grpc.StatusCode.INVALID_ARGUMENT, "no such layer", DETAILS[:1])
    async with cutaway.AsyncClient(server.address, timeout=10) as client:
        with pytest.raises(cutaway.NotFound, match="no such model") as caught:
            await client.predict("mnits", b"png")
        assert caught.value.details == DETAILS
        assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)

        with pytest.raises(cutaway.InvalidArgument, match="no such layer") as caught:
            await client.introspect("mnist", b"png", layers=["conv9"])
        assert caught.value.details == DETAILS[:1]


def test_a_larger_answer_than_the_caller_wants(server):
    server.answers["Introspect"] = complete_stream()
    options = [("grpc.max_receive_message_length", 16)]
    with cutaway.Client(server.address, options=options) as client, pytest.raises(cutaway.ResourceExhausted):
        client.introspect("mnist", b"png", layers=["conv1"])
