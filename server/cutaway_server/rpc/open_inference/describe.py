"""Models in the words of the protocol: metadata, configuration, states."""

import math
from collections.abc import Sequence

from cutaway_server.models.model import Model
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.datatypes import BYTES, datatype
from cutaway_server.rpc.open_inference.outputs import SCORES
from cutaway_server.rpc.served import Listed, State

_PLATFORM = "pytorch"
_BESIDE = 1024  # bytes of a message that its tensors leave to names and shapes
_STATES = {
    State.LOADING: "LOADING",
    State.READY: "READY",
    State.FAILED: "UNAVAILABLE",
    State.PARKED: "UNAVAILABLE",
}


def metadata(model: Model, versions: Sequence[str]) -> messages.ModelMetadataResponse:
    """What a model takes and gives."""
    tensor = messages.ModelMetadataResponse.TensorMetadata
    return messages.ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=_PLATFORM,
        inputs=[tensor(name=spec.name, datatype=datatype(spec.dtype), shape=spec.shape) for spec in model.inputs],
        outputs=[tensor(name=SCORES, datatype=datatype(model.scores_dtype), shape=model.scores_shape)],
    )


def configuration(model: Model, limits: Limits, *, joins: bool) -> messages.ModelConfig:
    """The same as Triton configures it.

    Args:
        joins: whether requests are joined into batches.
    """
    return messages.ModelConfig(
        name=model.name,
        platform=_PLATFORM,
        max_batch_size=_largest_batch(model, limits),
        input=[
            messages.ModelInput(name=spec.name, data_type=_type(datatype(spec.dtype)), dims=spec.shape[1:]) for spec in model.inputs
        ],
        output=[messages.ModelOutput(name=SCORES, data_type=_type(datatype(model.scores_dtype)), dims=model.scores_shape[1:])],
        dynamic_batching=messages.ModelDynamicBatching() if joins else None,
    )


def index(models: Sequence[Listed]) -> messages.RepositoryIndexResponse:
    """How models stand."""
    return messages.RepositoryIndexResponse(
        models=[
            messages.RepositoryIndexResponse.ModelIndex(
                name=listed.name, version=listed.version, state=_STATES[listed.state], reason=listed.reason
            )
            for listed in models
        ]
    )


def _largest_batch(model: Model, limits: Limits) -> int:
    """Samples of the usual size that one message may bring, beside names and shapes."""
    each = sum(math.prod(spec.usual) * spec.dtype.itemsize for spec in model.inputs)
    return max(1, min(limits.message_bytes - _BESIDE, limits.input_bytes) // each)


def _type(datatype: str) -> str:
    return f"TYPE_{'STRING' if datatype == BYTES else datatype}"
