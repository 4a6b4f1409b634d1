"""From scores and what an introspection gives to answers. Nothing here knows of calls."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cutaway_server.models.arrays import Array
from cutaway_server.models.model import Model, Shape
from cutaway_server.models.scores import ScoredClass, top_classes
from cutaway_server.models.tensor_bytes import to_bytes
from cutaway_server.rpc.open_inference import messages
from cutaway_server.rpc.open_inference.datatypes import BYTES, CONTENTS, datatype, join_elements, split_elements
from cutaway_server.rpc.open_inference.outputs import SCORES


class Output(NamedTuple):
    """One output of an answer.

    Attributes:
        data: the elements, row-major, little-endian; of BYTES each after its length.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    data: bytes
    parameters: Mapping[str, str] = {}


def scores_output(model: Model, scores: Tensor, best: int) -> Output:
    """The scores, or the names of so many of the best classes."""
    if not best:
        return Output(SCORES, datatype(scores.dtype), scores.shape, to_bytes(scores))
    named = [_named(model, one) for sample in top_classes(scores, model.scores_kind, best) for one in sample]
    return Output(SCORES, BYTES, (len(scores), len(named) // len(scores)), join_elements(named))


def _named(model: Model, one: ScoredClass) -> bytes:
    label = f":{model.labels[one.index]}" if model.labels else ""
    return f"{one.score:.9g}:{one.index}{label}".encode()


def encode_scores(model: Model, request_id: str, scores: Array) -> bytes:
    """The answer with raw scores alone, in bytes: nothing but the data and the id differ from one answer of a shape to the next."""
    head = _before_scores(model.name, model.version, model.scores_dtype, scores.shape)
    rest = messages.ModelInferResponse(id=request_id).SerializeToString() if request_id else b""  # fields may come in any order
    return b"".join((head, scores.tobytes(), rest))


@lru_cache(256)
def _before_scores(name: str, version: str, dtype: torch.dtype, shape: Shape) -> bytes:
    """What stands before the data: it is the last field."""
    data = bytes(math.prod(shape) * dtype.itemsize)
    answer = messages.ModelInferResponse(model_name=name, model_version=version, raw_output_contents=[data])
    answer.outputs.add(name=SCORES, datatype=datatype(dtype), shape=shape)
    whole = answer.SerializeToString()
    return whole[: len(whole) - len(data)]


def encode_answer(model: Model, request_id: str, outputs: Sequence[Output], *, typed: bool = False) -> messages.ModelInferResponse:
    """The answer to one request.

    Args:
        typed: with the elements in `contents`, if every datatype has a field there.
    """
    typed = typed and all(output.datatype in CONTENTS for output in outputs)
    answer = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=request_id)
    for output in outputs:
        message = answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        for key, value in output.parameters.items():
            message.parameters[key].string_param = value
        if typed:
            _fill(message.contents, output)
        else:
            answer.raw_output_contents.append(output.data)
    return answer


def _fill(contents: messages.InferTensorContents, output: Output) -> None:
    field, kind, _ = CONTENTS[output.datatype]
    if output.datatype == BYTES:
        contents.bytes_contents.extend(split_elements(output.data, math.prod(output.shape), field))
    else:
        getattr(contents, field).extend(np.frombuffer(output.data, kind).tolist())
