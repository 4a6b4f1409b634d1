"""cutaway.v1's Predict."""

from google.protobuf.message import DecodeError

from cutaway.v1 import predict_pb2
from cutaway_server.errors import BadInput
from cutaway_server.models.arrays import Array, to_array, to_tensor
from cutaway_server.models.model import Model
from cutaway_server.rpc.decode import decode_inputs, inputs_at_hand
from cutaway_server.rpc.encode import encode_prediction, encode_scores
from cutaway_server.rpc.engine_method import EngineMethod, names_many


class Predict(EngineMethod):
    """Scores, and the best classes where they are asked for."""

    name = "Predict"
    path = "/cutaway.v1.InferenceService/Predict"
    model_field = "model"

    def parse(self, data: bytes) -> predict_pb2.PredictRequest:
        """As its parent's."""
        try:
            return predict_pb2.PredictRequest.FromString(data)
        except DecodeError as error:
            raise BadInput("request", "bytes that are no message of this method", "a request of package cutaway.v1") from error

    def named(self, request: predict_pb2.PredictRequest) -> tuple[str, str]:
        """As its parent's."""
        return request.model, request.version

    def at_hand(self, request: predict_pb2.PredictRequest, model: Model) -> tuple[Array, ...] | None:
        """As its parent's."""
        best = request.top_k
        if best and not model.class_count:
            return None
        arguments = inputs_at_hand(model, request.inputs)
        return None if best and arguments and names_many(arguments, min(best, model.class_count)) else arguments

    def decode(self, request: predict_pb2.PredictRequest, model: Model) -> tuple[Array, ...]:
        """As its parent's."""
        check_top_k(model, request.top_k)
        return tuple(map(to_array, decode_inputs(model, request.inputs, self._limits).arguments))

    def encode(self, request: predict_pb2.PredictRequest, model: Model, scores: Array) -> bytes:
        """As its parent's."""
        if not request.top_k:
            return encode_scores(model, scores)
        return encode_prediction(model, to_tensor(scores, model.scores_dtype), request.top_k).SerializeToString()


def check_top_k(model: Model, top_k: int) -> None:
    """Raises BadInput where a top k is asked of scores that tell no classes apart."""
    if top_k and not model.class_count:
        raise BadInput("top_k", str(top_k), "0: the network's output is not [N, classes]")
