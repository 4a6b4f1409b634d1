"""Predict and ModelInfer as bytes, for channels without stubs."""

from collections.abc import Callable

import numpy as np

from cutaway.v1 import input_pb2, predict_pb2, tensor_pb2
from cutaway_server.rpc.open_inference import messages

PREDICT, INFER = "/cutaway.v1.InferenceService/Predict", "/inference.GRPCInferenceService/ModelInfer"


def predict(x: np.ndarray, model: str = "mnist", **more: object) -> bytes:
    """A request of Predict."""
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes())
    return predict_pb2.PredictRequest(model=model, inputs=[input_pb2.Input(tensor=tensor)], **more).SerializeToString()


def infer(x: np.ndarray, model: str = "mnist", identity: str = "") -> bytes:
    """A request of ModelInfer."""
    request = messages.ModelInferRequest(model_name=model, id=identity, raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return request.SerializeToString()


def scores(path: str, answer: bytes) -> np.ndarray:
    """That an answer holds."""
    if path == PREDICT:
        tensor = predict_pb2.PredictResponse.FromString(answer).scores
        return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)
    given = messages.ModelInferResponse.FromString(answer)
    return np.frombuffer(given.raw_output_contents[0], np.float32).reshape(given.outputs[0].shape)


REQUESTS: dict[str, Callable[..., bytes]] = {PREDICT: predict, INFER: infer}
