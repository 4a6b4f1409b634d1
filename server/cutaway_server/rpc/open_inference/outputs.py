"""Which outputs a request asks for: the scores, layers, maps."""

from collections.abc import Sequence
from dataclasses import dataclass

from cutaway_server.errors import BadInput
from cutaway_server.introspection.plan import CaptureKind, CaptureRequest
from cutaway_server.introspection.plan_cams import CamRequest
from cutaway_server.introspection.target import PREDICTED, Target
from cutaway_server.models.model import Model
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.decode import check_in_message, integer

SCORES = "scores"
LAYER = "layer:"
CAM = "cam:"
_NAMES = "'scores', 'layer:NAME' or 'cam:METHOD@LAYER?class=K'"
_MAX_NAME = 1000  # characters: a glob is compiled, which takes seconds for a long one


@dataclass(frozen=True)
class Wanted:
    """What a request asks for. A capture's `index` is its place among the outputs.

    Attributes:
        names: of all outputs, as asked.
        best: how many classes are to be named instead of the scores; 0 for the scores, None where they are not wanted.
        cam_places: of each map among the outputs.
    """

    names: tuple[str, ...] = (SCORES,)
    best: int | None = 0
    captures: tuple[CaptureRequest, ...] = ()
    cams: tuple[CamRequest, ...] = ()
    cam_places: tuple[int, ...] = ()

    @property
    def inside(self) -> bool:
        """Whether the network has to be looked into."""
        return bool(self.captures or self.cams)


_SCORES_ALONE = Wanted()


def decode_outputs(model: Model, outputs: Sequence[messages.ModelInferRequest.InferRequestedOutputTensor]) -> Wanted:
    """What the outputs of a request stand for; none stands for the scores.

    Raises:
        BadInput: one that there is not, or one twice.
    """
    if not outputs:
        return _SCORES_ALONE
    best: int | None = None
    captures: list[CaptureRequest] = []
    cams: dict[int, CamRequest] = {}
    seen: set[str] = set()
    for place, message in enumerate(outputs):
        field, name = f"outputs[{place}]", message.name
        check_in_message(message.parameters, field)
        if name in seen:
            raise BadInput(f"{field}.name", f"a second output {name[:100]!r}", "each output once")
        seen.add(name)
        if len(name) > _MAX_NAME:
            raise BadInput(f"{field}.name", f"{len(name):,} characters", f"at most {_MAX_NAME:,}")
        if name == SCORES:
            best = _classification(model, message, field)
            continue
        if "classification" in message.parameters:
            raise BadInput(f"{field}.parameters[classification]", f"one for {name[:100]!r}", "one for 'scores' only")
        if name.startswith(LAYER) and len(name) > len(LAYER):
            captures.append(CaptureRequest(place, field, name.removeprefix(LAYER), CaptureKind.OUTPUT, PREDICTED))
        elif name.startswith(CAM):
            cams[place] = _decode_cam(name.removeprefix(CAM), field)
        else:
            raise BadInput(f"{field}.name", repr(name[:100]), _NAMES)
    return Wanted(tuple(message.name for message in outputs), best, tuple(captures), tuple(cams.values()), tuple(cams))


def _classification(model: Model, message: messages.ModelInferRequest.InferRequestedOutputTensor, field: str) -> int:
    if "classification" not in message.parameters:
        return 0
    field = f"{field}.parameters[classification]"
    best = integer(message.parameters["classification"], field, "how many classes to name")
    if best and not model.class_count:
        raise BadInput(field, str(best), "none: the scores are not [N, classes]")
    return best


def _decode_cam(text: str, field: str) -> CamRequest:
    """METHOD[@LAYER][?class=K]"""
    what, question, query = text.rpartition("?") if "?" in text else (text, "", "")
    method, at, layer = what.partition("@")
    if at and not layer:
        raise BadInput(f"{field}.name", f"{CAM}{text[:100]}", "a layer's name after the @, or no @")
    return CamRequest(field, method, (layer,) if at else (), _target(query, field) if question else PREDICTED)


def _target(query: str, field: str) -> Target:
    key, _, value = query.partition("=")
    if key != "class" or not (value.isascii() and value.isdecimal()) or len(value) > 9:
        raise BadInput(f"{field}.name", f"?{query[:100]}", "?class=K, the index of a class")
    return Target((int(value),))
