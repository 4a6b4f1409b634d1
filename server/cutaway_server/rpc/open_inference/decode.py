"""From a request to the network's arguments. What comes out is valid; nothing here knows of calls."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cutaway_server.errors import BadInput
from cutaway_server.models.arrays import Array
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.rpc.decode import (
    Decoded,
    Ready,
    array_at_hand,
    check_dtype,
    decode_named,
    model_ready,
    photographs,
    prepared,
    wanted,
)
from cutaway_server.rpc.limits import Limits
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.datatypes import BYTES, CONTENTS, DTYPES, datatype, split_elements
from cutaway_server.rpc.tensors import Naming, check_shape, tensor_of

_FILES = "BYTES [N] of PNG or JPEG files"
_MICROSECOND = 1e-6


def decode_inputs(model: Model, request: messages.ModelInferRequest, limits: Limits) -> Decoded:
    """All inputs of a request.

    Raises:
        BadInput, InputTooLarge: names the field, what came and what is expected.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise BadInput("raw_input_contents", f"{len(raw):,} entries", f"one for each of the {len(inputs):,} inputs, or none")

    def decode(position: int, spec: InputSpec) -> Ready:
        message = inputs[position]
        check_in_message(message.parameters, f"inputs[{position}]")
        if raw and message.HasField("contents") and message.contents.ByteSize():  # some clients set an empty one
            raise BadInput(f"inputs[{position}].contents", "elements beside raw_input_contents", "one of the two")
        data = raw[position] if raw else None
        where = f"inputs[{position}].contents" if data is None else f"raw_input_contents[{position}]"
        naming = Naming(f"inputs[{position}].datatype", f"inputs[{position}].shape", where, datatype)
        if message.datatype == BYTES:
            return _images(message, data, spec, limits, naming)
        check_dtype(DTYPES.get(message.datatype), spec, naming, _FILES, repr(message.datatype[:100]))
        shape = tuple(message.shape)
        tensor = _from_contents(message, shape, spec, naming) if data is None else tensor_of(data, spec.dtype, shape, naming)
        return Ready(model_ready(tensor, spec, naming))

    return decode_named(model, [message.name for message in inputs], decode)


def arguments_at_hand(model: Model, request: messages.ModelInferRequest) -> tuple[Array, ...] | None:
    """What `decode_inputs` gives for the commonest request, one raw tensor that is as it must be; None for any other."""
    inputs, raw, specs = request.inputs, request.raw_input_contents, model.inputs
    if len(raw) != 1 or len(inputs) != 1 or len(specs) != 1:
        return None
    message, spec = inputs[0], specs[0]
    named = message.name in (spec.name, "") and DTYPES.get(message.datatype) is spec.dtype
    if not named or message.parameters or message.HasField("contents") or len(message.shape) != len(spec.shape):
        return None
    array = array_at_hand(raw[0], tuple(message.shape), spec)
    return None if array is None else (array,)


def is_typed(request: messages.ModelInferRequest) -> bool:
    """Whether the request has its elements in `contents`, and so wants those of the answer."""
    return not request.raw_input_contents and any(message.HasField("contents") for message in request.inputs)


def timeout_of(request: messages.ModelInferRequest) -> float | None:
    """Seconds that the request gives itself; None where it does not.

    Raises:
        BadInput: it is no number of microseconds.
    """
    if "timeout" not in request.parameters:
        return None
    microseconds = integer(request.parameters["timeout"], "parameters[timeout]", "microseconds, 0 for none")
    return microseconds * _MICROSECOND or None


def integer(parameter: messages.InferParameter, field: str, meaning: str) -> int:
    """The value of a parameter that must be a number, not negative."""
    which = parameter.WhichOneof("parameter_choice")
    if which not in ("int64_param", "uint64_param"):
        raise BadInput(field, f"a {which}" if which else "no value", f"an int64_param: {meaning}")
    value: int = getattr(parameter, which)
    if value < 0:
        raise BadInput(field, str(value), meaning)
    return value


def check_in_message(parameters: Mapping[str, messages.InferParameter], field: str) -> None:
    """Raises BadInput for a tensor that lies in shared memory."""
    if parameters and "shared_memory_region" in parameters:
        raise BadInput(f"{field}.parameters", "a shared_memory_region", "the elements in the message: memory is not shared")


def _from_contents(
    message: messages.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], spec: InputSpec, naming: Naming
) -> Tensor:
    if message.datatype not in CONTENTS:
        raise BadInput(naming.data, f"{message.datatype} elements", f"raw_input_contents: {message.datatype} has no field here")
    field, kind, wide = CONTENTS[message.datatype]
    values = getattr(message.contents, field)
    expected = math.prod(check_shape(shape, spec.dtype, naming))
    if len(values) != expected:
        raise BadInput(f"{naming.data}.{field}", f"{len(values):,} elements", f"{expected:,} for {message.datatype} {list(shape)}")
    came = np.fromiter(values, wide, expected)
    array = came.astype(kind, copy=False)
    if kind != wide and (array != came).any():
        raise BadInput(f"{naming.data}.{field}", f"elements that are no {message.datatype}", f"a {wanted(spec, datatype)}")
    return torch.from_numpy(array).reshape(shape)


def _images(
    message: messages.ModelInferRequest.InferInputTensor, data: bytes | None, spec: InputSpec, limits: Limits, naming: Naming
) -> Ready:
    if spec.image is None:
        raise BadInput(naming.dtype, BYTES, f"a {wanted(spec, datatype)}: this model prepares no photographs")
    shape = tuple(message.shape)
    if len(shape) not in (1, 2) or shape[0] < 1 or shape[1:] not in ((), (1,)):
        raise BadInput(naming.shape, str(list(shape[:16])), "[N] or [N, 1], for N files")
    if data is not None:
        files = split_elements(data, shape[0], naming.data)
        return prepared(photographs(files, naming.data, limits), spec, spec.image, naming.data, limits, keep=False)
    field, given = f"{naming.data}.bytes_contents", message.contents.bytes_contents
    if len(given) != shape[0]:
        raise BadInput(field, f"{len(given):,} elements", f"{shape[0]:,} for {BYTES} {list(shape)}")
    return prepared(photographs(given, field, limits), spec, spec.image, field, limits, keep=False)
