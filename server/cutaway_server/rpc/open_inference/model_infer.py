"""ModelInfer."""

from google.protobuf.message import DecodeError

from cutaway_server.errors import BadInput
from cutaway_server.models.arrays import Array, to_array, to_tensor
from cutaway_server.models.model import Model
from cutaway_server.rpc.calls import OpenCall
from cutaway_server.rpc.engine_method import EngineMethod, names_many
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.decode import arguments_at_hand, decode_inputs, is_typed, timeout_of
from cutaway_server.rpc.open_inference.encode import encode_answer, encode_scores, scores_output
from cutaway_server.rpc.open_inference.infer import Inferences
from cutaway_server.rpc.open_inference.outputs import decode_outputs
from cutaway_server.rpc.served import Served


class ModelInfer(EngineMethod):
    """Scores, or the names of the best classes; where a request asks for layers or maps, those by an introspection."""

    name = "ModelInfer"
    path = "/inference.GRPCInferenceService/ModelInfer"
    model_field = "model_name"

    def __init__(self, limits: Limits, inferences: Inferences) -> None:
        super().__init__(limits)
        self._inferences = inferences

    def parse(self, data: bytes) -> messages.ModelInferRequest:
        """As its parent's."""
        try:
            return messages.ModelInferRequest.FromString(data)
        except DecodeError as error:
            raise BadInput("request", "bytes that are no message of this method", "its request message") from error

    def named(self, request: messages.ModelInferRequest) -> tuple[str, str]:
        """As its parent's."""
        return request.model_name, request.model_version

    def seconds(self, request: messages.ModelInferRequest) -> float | None:
        """As its parent's."""
        return timeout_of(request)

    def at_hand(self, request: messages.ModelInferRequest, model: Model) -> tuple[Array, ...] | None:
        """As its parent's."""
        if not request.outputs:
            return arguments_at_hand(model, request)
        wanted = decode_outputs(model, request.outputs) if len(request.outputs) < 2 else None
        arguments = arguments_at_hand(model, request) if wanted and not wanted.inside else None
        many = arguments is not None and wanted and names_many(arguments, wanted.best or 0)
        return None if many else arguments

    def decode(self, request: messages.ModelInferRequest, model: Model) -> tuple[Array, ...]:
        """As its parent's."""
        decode_outputs(model, request.outputs)
        return tuple(map(to_array, decode_inputs(model, request, self._limits).arguments))

    def encode(self, request: messages.ModelInferRequest, model: Model, scores: Array) -> bytes:
        """As its parent's."""
        best, typed = decode_outputs(model, request.outputs).best, is_typed(request)
        if not best and not typed:
            return encode_scores(model, request.id, scores)
        output = scores_output(model, to_tensor(scores, model.scores_dtype), best or 0)
        return encode_answer(model, request.id, (output,), typed=typed).SerializeToString()

    def answer(self, request: messages.ModelInferRequest, served: Served, call: OpenCall) -> bytes:
        """As its parent's."""
        if decode_outputs(served.model, request.outputs).inside:
            return self._inferences.inside(request, served, call).SerializeToString()
        return super().answer(request, served, call)
