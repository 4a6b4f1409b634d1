"""ModelInfer answers what Predict answers, in whichever form it is asked."""

import io
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cutaway
import cutaway_server
from cutaway_server.rpc.open_inference import messages
from open_inference_calls import Tensor, Wanted, answers, call, elements, infer, read_elements, tensor, value_of
from server_process import ServerProcess


def test_raw_elements(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    answer = call(live_server.address, "ModelInfer", infer(x[:5], id="the same"))
    assert (answer.model_name, answer.model_version, answer.id) == ("mnist", "1", "the same")
    assert [(output.name, output.datatype) for output in answer.outputs] == [("scores", "FP32")]
    np.testing.assert_array_equal(value_of(answer, "scores"), live.predict("mnist", x[:5]).scores)
    assert not answer.outputs[0].HasField("contents")


def test_typed_elements_are_answered_so(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    contents = messages.InferTensorContents(fp32_contents=x[:3].ravel())
    typed = Tensor(name="x", datatype="FP32", shape=[3, 1, 28, 28], contents=contents)
    answer = call(live_server.address, "ModelInfer", messages.ModelInferRequest(model_name="mnist", inputs=[typed]))
    assert not answer.raw_output_contents
    scores = np.array(answer.outputs[0].contents.fp32_contents, np.float32).reshape(answer.outputs[0].shape)
    np.testing.assert_array_equal(scores, live.predict("mnist", x[:3]).scores)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("raw", [True, False])
def test_files(shape: list[int], form: str, raw: bool, live_server: ServerProcess, live: cutaway.Client, digits: np.ndarray):
    files = []
    for digit in digits[:2]:
        file = io.BytesIO()
        Image.fromarray(digit).save(file, form)
        files.append(file.getvalue())
    image = Tensor(name="x", datatype="BYTES", shape=shape)
    request = messages.ModelInferRequest(model_name="mnist", inputs=[image])
    if raw:
        request.raw_input_contents.append(elements(*files))
    else:
        request.inputs[0].contents.bytes_contents.extend(files)
    answer = call(live_server.address, "ModelInfer", request)
    if not raw:
        answer.raw_output_contents.append(np.array(answer.outputs[0].contents.fp32_contents, np.float32).tobytes())
    np.testing.assert_array_equal(value_of(answer, "scores"), live.predict("mnist", files).scores)


@pytest.mark.parametrize("raw", [True, False])
def test_the_best_classes(raw: bool, live_server: ServerProcess, live: cutaway.Client, x: np.ndarray):
    request = infer(x[:4], Wanted(name="scores", parameters={"classification": messages.InferParameter(int64_param=3)}))
    if not raw:
        request.inputs[0].contents.fp32_contents.extend(x[:4].ravel())
        del request.raw_input_contents[:]
    answer = call(live_server.address, "ModelInfer", request)
    (output,) = answer.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [4, 3])
    texts = list(read_elements(answer.raw_output_contents[0]) if raw else output.contents.bytes_contents)
    expected = [best for sample in live.predict("mnist", x[:4], top_k=3).top for best in sample]
    for text, best in zip(texts, expected, strict=True):
        score, index, label = text.decode().split(":")
        assert (np.float32(score), int(index), label) == (np.float32(best.score), best.index, best.label)


def test_more_classes_than_there_are(live_server: ServerProcess, x: np.ndarray):
    wanted = Wanted(name="scores", parameters={"classification": messages.InferParameter(uint64_param=99)})
    assert list(call(live_server.address, "ModelInfer", infer(x[:1], wanted)).outputs[0].shape) == [1, 10]


class AnyType(nn.Module):
    """Takes elements of any type, two numbers a sample, and gives them in the type of its weight."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2, dtype=dtype))

    def forward(self, numbers: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return (numbers.to(self.weight.dtype) + more.to(self.weight.dtype)) @ self.weight


TYPES: dict[str, tuple[torch.dtype, Any]] = {
    "FP32": (torch.float32, "fp32_contents"),
    "FP64": (torch.float64, "fp64_contents"),
    "FP16": (torch.float16, None),
    "BF16": (torch.bfloat16, None),
    "INT8": (torch.int8, "int_contents"),
    "INT16": (torch.int16, "int_contents"),
    "INT32": (torch.int32, "int_contents"),
    "INT64": (torch.int64, "int64_contents"),
    "UINT8": (torch.uint8, "uint_contents"),
    "BOOL": (torch.bool, "bool_contents"),
}


@pytest.mark.parametrize("datatype", TYPES)
def test_every_datatype(datatype: str):
    dtype, field = TYPES[datatype]
    numbers = torch.tensor([[0, 1], [1, 1], [1, 0]]).to(dtype)
    scores_type = dtype if dtype.is_floating_point else torch.float32
    network = AnyType(scores_type)
    expected = network(numbers, numbers).detach()
    inputs = [Tensor(name=name, datatype=datatype, shape=[3, 2]) for name in ("more", "numbers")]  # any order
    request = messages.ModelInferRequest(model_name="any", inputs=inputs)
    scores_name = next(name for name, (kind, _) in TYPES.items() if kind is scores_type)
    with cutaway_server.serve(network, [numbers, numbers], name="any", log_level="error", threads=1) as server:
        described = call(server.address, "ModelMetadata", messages.ModelMetadataRequest(name="any"))
        assert [(one.name, one.datatype) for one in described.inputs] == [("numbers", datatype), ("more", datatype)]
        assert [(one.datatype, list(one.shape)) for one in described.outputs] == [(scores_name, [-1, 2])]
        config = call(server.address, "ModelConfig", messages.ModelConfigRequest(name="any")).config
        assert messages.DESCRIPTOR.enum_types_by_name["DataType"].values_by_number[config.input[0].data_type].name == (
            f"TYPE_{datatype}"
        )
        raw = messages.ModelInferRequest()
        raw.CopyFrom(request)
        raw.raw_input_contents.extend([numbers.contiguous().view(torch.uint8).numpy().tobytes()] * 2)
        answer = call(server.address, "ModelInfer", raw)
        assert answer.outputs[0].datatype == scores_name
        scores = torch.frombuffer(bytearray(answer.raw_output_contents[0]), dtype=scores_type).reshape(3, 2)
        torch.testing.assert_close(scores, expected)
        if field is None:
            request.inputs[0].contents.fp32_contents.append(1)
            with pytest.raises(grpc.RpcError, match=f"{datatype} has no field here"):
                call(server.address, "ModelInfer", request)
            return
        for message in request.inputs:
            getattr(message.contents, field).extend(numbers.ravel().tolist())
        contents = call(server.address, "ModelInfer", request).outputs[0].contents
        values = contents.fp64_contents if scores_type is torch.float64 else contents.fp32_contents
        assert list(values) == expected.ravel().tolist()


def test_an_answer_that_has_no_field_is_raw():
    numbers = torch.ones(2, 2, dtype=torch.int64)
    request = messages.ModelInferRequest(
        model_name="half",
        inputs=[
            Tensor(name=name, datatype="INT64", shape=[2, 2], contents=messages.InferTensorContents(int64_contents=[1] * 4))
            for name in ("numbers", "more")
        ],
    )
    with cutaway_server.serve(AnyType(torch.float16), [numbers, numbers], name="half", log_level="error") as server:
        answer = call(server.address, "ModelInfer", request)
    assert answer.outputs[0].datatype == "FP16"
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.float16), [2] * 4)


def test_a_deadline_of_the_requests_own(live_server: ServerProcess, x: np.ndarray):
    late = infer(x[:1])
    late.parameters["timeout"].int64_param = 1  # microsecond
    with pytest.raises(grpc.RpcError) as caught:
        call(live_server.address, "ModelInfer", late)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (answer,) = answers(live_server.address, late)
    assert "deadline" in answer.error_message


@pytest.mark.parametrize("microseconds", [0, 30_000_000])
def test_parameters_that_change_nothing(microseconds: int, live_server: ServerProcess, x: np.ndarray):
    request = infer(x[:1])
    request.parameters["timeout"].int64_param = microseconds
    request.parameters["priority"].uint64_param = 1
    request.parameters["my own"].string_param = "anything"
    request.parameters["share"].double_param = 0.5
    assert list(call(live_server.address, "ModelInfer", request).outputs[0].shape) == [1, 10]


def test_a_request_of_no_elements_names_what_is_missing(live_server: ServerProcess, x: np.ndarray):
    with pytest.raises(grpc.RpcError, match=r"inputs\[0\].contents.fp32_contents: got 0 elements; expected 784 for FP32"):
        call(live_server.address, "ModelInfer", messages.ModelInferRequest(model_name="mnist", inputs=[tensor(x[:1])]))


def test_an_empty_contents_beside_raw_elements(live_server: ServerProcess, x: np.ndarray):
    """MLServer's converters leave one."""
    request = infer(x[:1])
    request.inputs[0].contents.SetInParent()
    assert call(live_server.address, "ModelInfer", request).raw_output_contents
