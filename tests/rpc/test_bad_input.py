"""Whatever a caller sends is answered with a code and a sentence, and the next call works."""

import contextlib
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cutaway.v1 import inference_pb2, inference_pb2_grpc, input_pb2, introspect_pb2, predict_pb2, tensor_pb2
from server_process import ServerProcess

Code = grpc.StatusCode
MIB = 1 << 20
FLOAT32, FLOAT64, UINT8 = tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_FLOAT64, tensor_pb2.DATA_TYPE_UINT8
NHWC, NCHW, NHW = input_pb2.PIXEL_LAYOUT_NHWC, input_pb2.PIXEL_LAYOUT_NCHW, input_pb2.PIXEL_LAYOUT_NHW
INTERNAL_WORDS = re.compile(
    r"Traceback|\.py\b|site-packages|\s/\w+|torch|numpy|\bPIL\b|cutaway_server|_pb2|<class|object at|\w(Error|Exception)\b|__|\\n"
)


def tensor(array: np.ndarray, dtype: int = FLOAT32, **more: Any) -> input_pb2.Input:
    message = tensor_pb2.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())
    return input_pb2.Input(tensor=message, **more)


def raw(dtype: int, shape: list[int], data: bytes) -> input_pb2.Input:
    return input_pb2.Input(tensor=tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data))


def pixels(*shape: int, layout: int = NHW) -> input_pb2.Input:
    return tensor(np.zeros(shape, np.uint8), UINT8, layout=layout)


def pictures(*files: bytes) -> input_pb2.Input:
    return input_pb2.Input(images=input_pb2.EncodedImages(files=files))


ZEROS = np.zeros((2, 1, 28, 28), np.float32)
GOOD = tensor(ZEROS)


def with_value(value: float) -> input_pb2.Input:
    bad = ZEROS.copy()
    bad[1, 0, 3, 4] = value
    return tensor(bad)


def encoded(form: str, width: int = 28, height: int = 28) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, form)
    return file.getvalue()


def forged_png(width: int, height: int) -> bytes:
    """A tiny file whose header states these sizes, all checksums right."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def predict(*inputs: input_pb2.Input, model: str = "mnist", **more: Any) -> predict_pb2.PredictRequest:
    return predict_pb2.PredictRequest(model=model, inputs=inputs, **more)


def look(*captures: introspect_pb2.Capture, model: str = "mnist", inputs: Any = (GOOD,), **more: Any) -> Any:
    return introspect_pb2.IntrospectRequest(model=model, inputs=inputs, captures=captures, **more)


def at(layer: str, **more: Any) -> introspect_pb2.Capture:
    return introspect_pb2.Capture(layer=layer, **more)


def cam(method: str = "grad-cam", model: str = "mnist", **more: Any) -> introspect_pb2.IntrospectRequest:
    return look(model=model, cams=[introspect_pb2.Cam(method=method, **more)])


def classes(*indices: int) -> introspect_pb2.Target:
    return introspect_pb2.Target(classes=introspect_pb2.ClassIndices(indices=indices))


TOP_0 = introspect_pb2.Target(top_k=introspect_pb2.TopK(k=0))
TOP_2 = introspect_pb2.Target(top_k=introspect_pb2.TopK(k=2))
CONTRAST = introspect_pb2.Target(contrast=introspect_pb2.Contrast(indices=[1], against=[2]))
GRADIENT = introspect_pb2.CAPTURE_KIND_GRADIENT

# The request, its code, the field that the details name, and what the sentence says.
CASES: dict[str, tuple[Any, grpc.StatusCode, str, tuple[str, ...]]] = {
    "unknown model": (predict(GOOD, model="resnet"), Code.NOT_FOUND, "resnet", ("'resnet'", "mnist, mnist-gap")),
    "unknown model of GetModel": (inference_pb2.GetModelRequest(model="x"), Code.NOT_FOUND, "x", ("'x'", "mnist, mnist-gap")),
    "unknown model of Introspect": (look(model="Mnist"), Code.NOT_FOUND, "Mnist", ("'Mnist'", "mnist, mnist-gap")),
    "unknown version": (predict(GOOD, version="7"), Code.NOT_FOUND, "mnist", ("'7'", "mnist version 1")),
    "a model's long name": (predict(model="\U000e0001" * 9999), Code.NOT_FOUND, "\U000e0001" * 100, ("mnist, mnist-gap",)),
    "empty model": (predict(GOOD, model=""), Code.INVALID_ARGUMENT, "model", ("an empty name", "one of mnist, mnist-gap")),
    # inputs
    "shape": (
        predict(tensor(np.zeros((1, 28, 28, 1), np.float32))),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        ("[1, 28, 28, 1]", "FLOAT32 tensor [N, 1, 28, 28]"),
    ),
    "axes": (
        predict(tensor(np.zeros((28, 28), np.float32))),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        ("[28, 28]", "[N, 1, 28, 28]"),
    ),
    "too many axes": (
        predict(raw(FLOAT32, [1] * 5000, bytes(4))),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        ("5,000 axes", "at most 16"),
    ),
    "negative size": (
        predict(raw(FLOAT32, [-1, 1, 28, 28], b"")),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        ("[-1, 1, 28, 28]", "no negative size"),
    ),
    "sizes past 64 bits": (
        predict(raw(FLOAT32, [0, 1 << 62, 1 << 62], b"")),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        (str(1 << 62), "64 bits"),
    ),
    "dtype": (
        predict(tensor(np.zeros((1, 1, 28, 28)), FLOAT64)),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.dtype",
        ("FLOAT64", "FLOAT32 tensor [N, 1, 28, 28], or UINT8 pixels"),
    ),
    "no dtype": (predict(tensor(ZEROS, 0)), Code.INVALID_ARGUMENT, "inputs[0].tensor.dtype", ("none", "FLOAT32", "BOOL")),
    "unknown dtype": (predict(tensor(ZEROS, 77)), Code.INVALID_ARGUMENT, "inputs[0].tensor.dtype", ("value 77", "FLOAT32")),
    "byte count": (
        predict(raw(FLOAT32, [1, 1, 28, 28], bytes(3135))),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.data",
        ("3,135 bytes", "3,136 bytes"),
    ),
    "empty batch": (
        predict(tensor(ZEROS[:0])),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        ("an empty batch [0, 1, 28, 28]", "at least one sample"),
    ),
    "NaN": (predict(with_value(np.nan)), Code.INVALID_ARGUMENT, "inputs[0].tensor.data", ("1 values that are NaN", "finite")),
    "infinity": (predict(with_value(np.inf)), Code.INVALID_ARGUMENT, "inputs[0].tensor.data", ("1 values", "infinite")),
    "NaN in Introspect": (look(at("conv1"), inputs=[with_value(-np.inf)]), Code.INVALID_ARGUMENT, "inputs[0].tensor.data", ()),
    "no value": (predict(input_pb2.Input(name="x")), Code.INVALID_ARGUMENT, "inputs[0]", ("no value", "a tensor or images")),
    "unknown input": (predict(tensor(ZEROS, name="image")), Code.INVALID_ARGUMENT, "inputs[0].name", ("'image'", "'x'")),
    "input twice": (predict(GOOD, GOOD), Code.INVALID_ARGUMENT, "inputs[1].name", ("a second input 'x'", "once")),
    "missing input": (predict(), Code.INVALID_ARGUMENT, "inputs", ("no input 'x'", "one for each of x")),
    # pixels and pictures
    "no layout": (predict(pixels(1, 28, 28, layout=0)), Code.INVALID_ARGUMENT, "inputs[0].layout", ("none", "NHWC, NCHW, NHW")),
    "unknown layout": (predict(pixels(1, 28, 28, layout=9)), Code.INVALID_ARGUMENT, "inputs[0].layout", ("NHWC, NCHW, NHW",)),
    "axes of the layout": (
        predict(pixels(1, 28, 28, layout=NHWC)),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        ("[1, 28, 28]", "NHWC"),
    ),
    "channels of the layout": (
        predict(pixels(1, 28, 28, 3, layout=NCHW)),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor.shape",
        ("[1, 28, 28, 3]", "NCHW with 1 or 3 channels"),
    ),
    "no pixels": (predict(pixels(1, 0, 28)), Code.INVALID_ARGUMENT, "inputs[0].tensor.shape", ("no pixels [1, 0, 28]",)),
    "no pictures": (predict(pixels(0, 28, 28)), Code.INVALID_ARGUMENT, "inputs[0].tensor.shape", ("no pixels [0, 28, 28]",)),
    "too many pixels as a tensor": (
        predict(pixels(1, 7001, 7200)),
        Code.INVALID_ARGUMENT,
        "inputs[0].tensor",
        ("50,407,200 pixels", "50,000,000"),
    ),
    "too slim a tensor": (predict(pixels(1, 1, 101)), Code.INVALID_ARGUMENT, "inputs[0].tensor.shape", ("101 x 1", "1 to 100")),
    "too many model-ready bytes": (
        predict(pixels(86_000, 1, 1)),
        Code.INVALID_ARGUMENT,
        "inputs[0]",
        (f"{86_000 * 28 * 28 * 4:,} bytes of model-ready input", f"{256 * MIB:,}"),
    ),
    "no files": (predict(pictures()), Code.INVALID_ARGUMENT, "inputs[0].images.files", ("none", "at least one")),
    "not an image": (predict(pictures(b"hello")), Code.INVALID_ARGUMENT, "inputs[0].images.files[0]", ("no whole PNG or JPEG",)),
    "an empty file": (predict(pictures(b"")), Code.INVALID_ARGUMENT, "inputs[0].images.files[0]", ("no whole PNG or JPEG",)),
    "a GIF": (predict(pictures(encoded("GIF"))), Code.INVALID_ARGUMENT, "inputs[0].images.files[0]", ("PNG or JPEG",)),
    "the second is broken": (
        predict(pictures(encoded("PNG"), encoded("PNG")[:50])),
        Code.INVALID_ARGUMENT,
        "inputs[0].images.files[1]",
        ("no whole PNG or JPEG",),
    ),
    "truncated PNG": (
        predict(pictures(encoded("PNG", 300, 300)[:-30])),
        Code.INVALID_ARGUMENT,
        "inputs[0].images.files[0]",
        ("no whole PNG or JPEG",),
    ),
    "truncated JPEG": (
        predict(pictures(encoded("JPEG", 300, 300)[:-100])),
        Code.INVALID_ARGUMENT,
        "inputs[0].images.files[0]",
        ("no whole PNG or JPEG",),
    ),
    "a header of 56 million pixels": (
        predict(pictures(forged_png(8000, 7000))),
        Code.INVALID_ARGUMENT,
        "inputs[0].images.files[0]",
        ("56,000,000 pixels", "50,000,000"),
    ),
    "a header of 10 billion pixels": (
        predict(pictures(forged_png(100_000, 100_000))),
        Code.INVALID_ARGUMENT,
        "inputs[0].images.files[0]",
        ("pixels", "50,000,000"),
    ),
    "too many pixels together": (
        predict(pictures(encoded("PNG", 2000, 2000), forged_png(7000, 7000))),
        Code.INVALID_ARGUMENT,
        "inputs[0].images.files[1]",
        ("49,000,000 pixels", "46,000,000"),
    ),
    "too slim a picture": (
        predict(pictures(forged_png(1, 20_000_000))),
        Code.INVALID_ARGUMENT,
        "inputs[0].images.files[0]",
        ("1 x 20,000,000 pixels", "1 to 100"),
    ),
    # what to look at
    "misspelt layer": (look(at("conv3")), Code.INVALID_ARGUMENT, "captures[0].layer", ("'conv3'", "'conv1'", "'conv2'")),
    "layer in capitals": (look(at("fc1"), at("FC1")), Code.INVALID_ARGUMENT, "captures[1].layer", ("did you mean 'fc1'",)),
    "glob that matches nothing": (look(at("cnov*")), Code.INVALID_ARGUMENT, "captures[0].layer", ("'cnov*'", "'conv")),
    "endless glob": (look(at("*a" * 501)), Code.INVALID_ARGUMENT, "captures[0].layer", ("1,002 characters", "1,000")),
    "empty layer": (look(at("")), Code.INVALID_ARGUMENT, "captures[0].layer", ("an empty name",)),
    "too many captures": (look(*[at("fc1")] * 4097), Code.INVALID_ARGUMENT, "captures", ("4,097 captures", "4,096")),
    "too many CAMs": (
        look(cams=[introspect_pb2.Cam(method="grad-cam")] * 65),
        Code.INVALID_ARGUMENT,
        "cams",
        ("65 CAMs", "is 64"),
    ),
    "misspelt layer of a CAM": (cam(layers=["conv"]), Code.INVALID_ARGUMENT, "cams[0].layers[0]", ("'conv'", "'conv1'")),
    "top k without prediction": (
        look(at("fc1"), top_k=3, without_prediction=True),
        Code.INVALID_ARGUMENT,
        "top_k",
        ("3 with without_prediction",),
    ),
    "nothing wanted": (look(without_prediction=True), Code.INVALID_ARGUMENT, "captures", ("nothing to capture",)),
    "target of an OUTPUT": (look(at("fc1", target=classes(1))), Code.INVALID_ARGUMENT, "captures[0].target", ("OUTPUT",)),
    "unknown kind": (look(at("fc1", kind=9)), Code.INVALID_ARGUMENT, "captures[0].kind", ("value 9", "OUTPUT, INPUT or GRADIENT")),
    "unknown method": (cam("grid-cam"), Code.INVALID_ARGUMENT, "cams[0].method", ("'grid-cam'", "grad-cam")),
    "no method": (cam(""), Code.INVALID_ARGUMENT, "cams[0].method", ("''", "grad-cam")),
    "unknown score": (
        cam(settings=introspect_pb2.CamSettings(score=9)),
        Code.INVALID_ARGUMENT,
        "cams[0].settings.score",
        ("value 9", "MODEL or PROBABILITY"),
    ),
    "probability of a cam": (
        cam("cam", "mnist-gap", settings=introspect_pb2.CamSettings(score=introspect_pb2.SCORE_PROBABILITY)),
        Code.INVALID_ARGUMENT,
        "cams[0].settings.score",
        ("PROBABILITY", "MODEL"),
    ),
    "class too high": (cam(target=classes(10)), Code.INVALID_ARGUMENT, "cams[0].target.classes.indices", ("class 10", "0 to 9")),
    "class below 0": (cam(target=classes(1, -1)), Code.INVALID_ARGUMENT, "cams[0].target.classes.indices", ("class -1", "0 to 9")),
    "classes of another batch": (
        cam(target=classes(1, 2, 3)),
        Code.INVALID_ARGUMENT,
        "cams[0].target.classes.indices",
        ("3 classes", "1, or one for each of the 2 samples"),
    ),
    "no classes": (cam(target=classes()), Code.INVALID_ARGUMENT, "cams[0].target.classes.indices", ("none",)),
    "class of a gradient": (
        look(at("fc1", kind=GRADIENT, target=classes(99))),
        Code.INVALID_ARGUMENT,
        "captures[0].target.classes.indices",
        ("class 99", "0 to 9"),
    ),
    "cam without its head": (cam("cam"), Code.FAILED_PRECONDITION, "MODEL", ("cams[0].method", "global average", "'grad-cam'")),
    "cam elsewhere": (
        cam("cam", "mnist-gap", layers=["features.conv1"]),
        Code.FAILED_PRECONDITION,
        "MODEL",
        ("'features.conv1'", "it works at"),
    ),
    "grad-cam of a vector": (cam(layers=["fc1"]), Code.FAILED_PRECONDITION, "MODEL", ("'fc1'", "[N, 50]", "it works at 'conv2")),
    "pool of a vector": (look(at("fc1", pool={})), Code.INVALID_ARGUMENT, "captures[0]", ("'fc1'", "to pool takes", "[N, 50]")),
    "unknown pool": (
        look(at("conv1", pool={"method": 9})),
        Code.INVALID_ARGUMENT,
        "captures[0].pool.method",
        ("value 9", "MEAN or MAX"),
    ),
    "sizes without end": (
        look(at("conv1", pool={"size": [1] * 10_000})),
        Code.INVALID_ARGUMENT,
        "captures[0].pool.size",
        ("10000 sizes", "at most 3"),
    ),
    "no channels": (look(at("conv1", channels={})), Code.INVALID_ARGUMENT, "captures[0].channels", ("indices, top_k or range",)),
    "channels without end": (
        look(at("conv1", channels={"indices": {"indices": [0] * 70_000}})),
        Code.INVALID_ARGUMENT,
        "captures[0].channels.indices",
        ("70,000 channels", "1 to 65,536"),
    ),
    "a channel beyond the last": (
        look(at("conv1", channels={"indices": {"indices": [3, 4_000_000_000]}})),
        Code.INVALID_ARGUMENT,
        "captures[0]",
        ("4000000000", "0 to 9"),
    ),
    "a range beyond the last": (
        look(at("conv1", channels={"range": {"start": 4_000_000_000}})),
        Code.INVALID_ARGUMENT,
        "captures[0]",
        ("holds no channel",),
    ),
    "bins without end": (
        look(at("conv1", statistics={"histogram_bins": 4_000_000_000})),
        Code.INVALID_ARGUMENT,
        "captures[0].statistics.histogram_bins",
        ("4000000000", "0 to 1024"),
    ),
    "statistics in fewer bits": (
        look(at("conv1", statistics={}, precision=introspect_pb2.PRECISION_FLOAT16)),
        Code.INVALID_ARGUMENT,
        "captures[0].precision",
        ("statistics", "FLOAT64"),
    ),
    "unknown precision": (look(at("conv1", precision=9)), Code.INVALID_ARGUMENT, "captures[0].precision", ("value 9", "FLOAT16")),
    # maps
    "a top k of none": (cam(target=TOP_0), Code.INVALID_ARGUMENT, "cams[0].target.top_k.k", ("0", "1 or more")),
    "top k of a gradient": (
        look(at("fc1", kind=GRADIENT, target=TOP_2)),
        Code.INVALID_ARGUMENT,
        "captures[0].target.top_k",
        ("CAMs take a top k",),
    ),
    "a contrast with nothing": (
        cam(target={"contrast": {"indices": [1]}}),
        Code.INVALID_ARGUMENT,
        "cams[0].target.contrast.against",
        ("one for all samples, or one for each",),
    ),
    "unknown join": (cam(settings={"join": 9}), Code.INVALID_ARGUMENT, "cams[0].settings.join", ("value 9",)),
    "unknown fusion": (cam(fusion=9), Code.INVALID_ARGUMENT, "cams[0].fusion", ("value 9",)),
    "unknown normalisation": (
        cam(scaling={"normalisation": 9}),
        Code.INVALID_ARGUMENT,
        "cams[0].scaling.normalisation",
        ("value 9",),
    ),
    "unknown upsampling": (cam(scaling={"upsampling": 9}), Code.INVALID_ARGUMENT, "cams[0].scaling.upsampling", ("value 9",)),
    "a picture of no kind": (cam(pictures=[0]), Code.INVALID_ARGUMENT, "cams[0].pictures", ("HEAT_MAP or OVERLAY",)),
    "layers without end": (
        cam(layers=["conv1"] * 17),
        Code.INVALID_ARGUMENT,
        "cams[0].layers",
        ("17 layers of one map", "16"),
    ),
    "steps without end": (
        cam(method="smooth-grad", layers=[], settings={"steps": 4_000_000_000}),
        Code.INVALID_ARGUMENT,
        "cams[0].settings.steps",
        ("4,000,000,000 steps", "1,024"),
    ),
    "a stride of nothing": (
        cam(method="occlusion", layers=[], settings={"stride": [0]}),
        Code.INVALID_ARGUMENT,
        "cams[0].settings.stride",
        ("[0]", "each 1 or more"),
    ),
}
DETAILS = {
    Code.NOT_FOUND: error_details_pb2.ResourceInfo,
    Code.INVALID_ARGUMENT: error_details_pb2.BadRequest,
    Code.FAILED_PRECONDITION: error_details_pb2.PreconditionFailure,
}


class Asker:
    """Sends requests as they are, to the method that takes them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.stub = inference_pb2_grpc.InferenceServiceStub(channel)

    def answers(self, request: Any) -> list[Any]:
        """All messages of the answer. Raises RpcError."""
        if isinstance(request, introspect_pb2.IntrospectRequest):
            return list(self.stub.Introspect(request, timeout=30))
        method = {predict_pb2.PredictRequest: self.stub.Predict, inference_pb2.GetModelRequest: self.stub.GetModel}[type(request)]
        return [method(request, timeout=30)]

    def refusal(self, request: Any) -> Any:
        """The RpcError: no event, not even Started, may come before it."""
        if not isinstance(request, introspect_pb2.IntrospectRequest):
            with pytest.raises(grpc.RpcError) as refused:
                self.answers(request)
            return refused.value
        stream = self.stub.Introspect(request, timeout=30)
        with pytest.raises(grpc.RpcError) as refused:
            next(stream)
        return refused.value

    def code(self, request: Any) -> grpc.StatusCode:
        try:
            self.answers(request)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined, no-any-return]
        return Code.OK


@pytest.fixture(scope="module")
def ask(live_server: ServerProcess) -> Iterator[Asker]:
    with grpc.insecure_channel(live_server.address) as channel:
        yield Asker(channel)


@pytest.fixture(scope="module")
def good_scores(ask: Asker) -> tuple[bytes, bytes]:
    """Of Predict, and of Introspect: their engines differ, and so may the last bits."""
    events = ask.answers(look(at("fc2"), without_prediction=True))
    return ask.answers(predict(GOOD))[0].scores.data, b"".join(event.chunk.data for event in events)


@pytest.fixture(autouse=True)
def the_next_good_call_works(ask: Asker, good_scores: tuple[bytes, bytes], live_server: ServerProcess) -> Iterator[None]:
    logged = len(live_server.log())
    yield
    assert [len(scores) for scores in good_scores] == [2 * 10 * 4] * 2
    assert ask.answers(predict(GOOD))[0].scores.data == good_scores[0]
    events = ask.answers(look(at("fc2"), without_prediction=True))
    assert events[-1].HasField("finished")
    assert b"".join(event.chunk.data for event in events) == good_scores[1]
    assert live_server.metric("cutaway_live_hooks") == 0
    for line in live_server.log()[logged:].splitlines():
        assert json.loads(line)["level"] not in ("error", "critical")


@pytest.mark.parametrize(("request_", "code", "field", "says"), CASES.values(), ids=CASES)
def test_refused(ask: Asker, request_: Any, code: grpc.StatusCode, field: str, says: tuple[str, ...]):
    error = ask.refusal(request_)

    assert error.code() is code
    for words in says:
        assert words in error.details()
    assert not INTERNAL_WORDS.search(error.details())
    status = rpc_status.from_call(error)
    assert not INTERNAL_WORDS.search(str(status).replace("\\n", ""))
    detail = DETAILS[code]()
    assert status.details[0].Unpack(detail)
    assert _named(detail) == (field, error.details())


def _named(detail: Any) -> tuple[str, str]:
    """What a detail names, and its description."""
    match detail:
        case error_details_pb2.ResourceInfo():
            assert detail.resource_type == "model"
            return detail.resource_name, detail.description
        case error_details_pb2.PreconditionFailure():
            return detail.violations[0].type, detail.violations[0].description
        case _:
            return detail.field_violations[0].field, detail.field_violations[0].description


@pytest.mark.parametrize(
    ("case", "reason", "metadata"),
    [
        ("misspelt layer", "UNKNOWN_LAYER", {"close_matches": "conv2,conv1,conv2_drop"}),
        ("too many captures", "LIMIT", {"asked": "4097", "limit": "4096"}),
        ("a header of 56 million pixels", "LIMIT", {"asked": "56000000", "limit": "50000000"}),
    ],
)
def test_numbers_and_names_for_programs(ask: Asker, case: str, reason: str, metadata: dict[str, str]):
    status: status_pb2.Status = rpc_status.from_call(ask.refusal(CASES[case][0]))
    info = error_details_pb2.ErrorInfo()
    assert status.details[1].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason, "cutaway", metadata)


def test_an_oversize_message_is_refused_with_both_numbers(ask: Asker):
    request = predict(raw(FLOAT32, [1], bytes(64 * MIB)))
    error = ask.refusal(request)
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert str(request.ByteSize()) in error.details()
    assert str(64 * MIB) in error.details()


@pytest.mark.parametrize("method", ["ListModels", "GetModel", "Predict", "Introspect"])
def test_bytes_that_are_no_message(ask: Asker, method: str):
    with pytest.raises(grpc.RpcError) as refused:
        list(ask.channel.unary_stream(f"/cutaway.v1.InferenceService/{method}")(b"\xff\xff\xff", timeout=30))
    assert refused.value.code() is Code.INVALID_ARGUMENT
    assert "request: got bytes" in refused.value.details()
    assert rpc_status.from_call(refused.value).details


def test_a_slim_picture_is_taken_up_to_the_limit(ask: Asker):
    for accepted in (pixels(1, 1, 100), pixels(1, 100, 1), pictures(encoded("PNG", 100, 1))):
        assert list(ask.answers(predict(accepted))[0].scores.shape) == [1, 10]


# Hypothesis runs a test's body many times between one setup and teardown: the check above runs once, after all of them.
many = settings(deadline=None, max_examples=120, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CLEAR = {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION}


@many
@given(method=st.sampled_from(["Predict", "Introspect", "GetModel"]), payload=st.binary(max_size=200))
@example(method="Predict", payload=b"\n\x05mnist\x1a\x02\xff\xff")
def test_random_bytes_as_a_request(ask: Asker, method: str, payload: bytes):
    call = ask.channel.unary_stream(f"/cutaway.v1.InferenceService/{method}")(payload, timeout=30)
    with contextlib.suppress(grpc.RpcError):
        list(call)
    assert call.code() in CLEAR


sizes = st.one_of(st.integers(0, 30), st.sampled_from([1, 28, 100_000]), st.integers(-(1 << 63), (1 << 63) - 1))
shapes = st.one_of(st.lists(sizes, max_size=40), st.tuples(sizes, st.just(1), st.just(28), st.just(28)).map(list))


@many
@given(
    dtype=st.integers(0, 12),
    shape=shapes,
    data=st.one_of(st.binary(max_size=64), st.integers(0, 4).map(lambda n: bytes(n * 3136))),
    layout=st.integers(0, 4),
)
@example(dtype=FLOAT32, shape=[0, 1 << 62, 1 << 62], data=b"", layout=0)
@example(dtype=FLOAT32, shape=[(1 << 62) - 1] * 40, data=b"", layout=0)
@example(dtype=FLOAT32, shape=[4, 1, 28, 28], data=bytes(4 * 3136), layout=0)
def test_random_tensors(ask: Asker, dtype: int, shape: list[int], data: bytes, layout: int):
    request = predict(raw(dtype, shape, data))
    request.inputs[0].layout = layout
    assert ask.code(request) in CLEAR


@many
@given(
    whole=st.sampled_from([encoded("PNG"), encoded("JPEG"), encoded("PNG", 3, 200)]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4), st.integers(0, 8)), max_size=6),
)
def test_random_damage_to_a_picture(ask: Asker, whole: bytes, changes: list[tuple[int, bytes, int]]):
    for position, new, gone in changes:
        place = position % len(whole) if whole else 0
        whole = whole[:place] + new + whole[place + gone :]
    assert ask.code(predict(pictures(whole))) in CLEAR


names = st.one_of(st.text(max_size=300), st.text("conv12fc_drop.*?[]!-^\\(){}|", max_size=30))


@many
@given(layers=st.lists(names, min_size=1, max_size=4), kind=st.integers(0, 5), camera=st.none() | names)
@example(layers=["[z-a]*", "[", "[!]", "*" * 1000], kind=1, camera="[")
@example(layers=["\U000e0001" * 300], kind=2, camera=None)
def test_random_layer_names(ask: Asker, layers: list[str], kind: int, camera: str | None):
    cams = [] if camera is None else [introspect_pb2.Cam(method="grad-cam", layers=[camera])]
    assert ask.code(look(*(at(layer, kind=kind) for layer in layers), cams=cams)) in CLEAR
