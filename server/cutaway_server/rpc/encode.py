"""From what the wings give to messages."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from cutaway.v1 import model_pb2, predict_pb2, tensor_pb2
from cutaway_server.introspection.plan_cams import possible_methods
from cutaway_server.models.arrays import Array
from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.layer_table import Layer, LayerKind
from cutaway_server.models.model import InputSpec, Model, Shape
from cutaway_server.models.scores import ScoredClass, ScoresKind, top_classes
from cutaway_server.rpc.served import Listed, Served, State
from cutaway_server.rpc.tensors import WIRE_DTYPES, duration, encode_tensor

SCORES_KINDS = {
    ScoresKind.LOGITS: model_pb2.SCORES_KIND_LOGITS,
    ScoresKind.LOG_PROBABILITIES: model_pb2.SCORES_KIND_LOG_PROBABILITIES,
    ScoresKind.PROBABILITIES: model_pb2.SCORES_KIND_PROBABILITIES,
    ScoresKind.SIGMOID: model_pb2.SCORES_KIND_SIGMOID,
}
MIRROR_ENGINE = "eager"  # the engine of every introspection, whatever runs Predict
_LAYER_KINDS = {
    LayerKind.MODULE: model_pb2.LAYER_KIND_MODULE,
    LayerKind.FUNCTION: model_pb2.LAYER_KIND_FUNCTION,
    LayerKind.METHOD: model_pb2.LAYER_KIND_METHOD,
}
_COLORS = {"gray": model_pb2.COLOR_MODE_GRAY, "rgb": model_pb2.COLOR_MODE_RGB, "bgr": model_pb2.COLOR_MODE_BGR}
STATES = {
    State.LOADING: model_pb2.MODEL_STATE_LOADING,
    State.READY: model_pb2.MODEL_STATE_READY,
    State.FAILED: model_pb2.MODEL_STATE_FAILED,
    State.PARKED: model_pb2.MODEL_STATE_PARKED,
}


def encode_listed(listed: Listed) -> model_pb2.Model:
    """A model as a list shows it: without labels and layers, and little of one that is not in memory."""
    if listed.served and listed.state is State.READY:
        return encode_model(listed.served, reason=listed.reason, whole=False)
    return model_pb2.Model(name=listed.name, version=listed.version, state=STATES[listed.state], state_reason=listed.reason)


def encode_model(served: Served, *, reason: str, whole: bool) -> model_pb2.Model:
    """A model that is ready; the whole of it has labels and the layer table, too, whose size is the model's affair."""
    model = served.model
    return model_pb2.Model(
        name=model.name,
        version=model.version,
        state=model_pb2.MODEL_STATE_READY,
        state_reason=reason,
        inputs=[_encode_spec(spec) for spec in model.inputs],
        scores_kind=SCORES_KINDS[model.scores_kind],
        class_count=model.class_count,
        labels=model.labels if whole else (),
        layers=[_encode_layer(layer) for layer in model.layers] if whole else (),
        introspection=model_pb2.Introspection(
            available=not model.not_introspectable,
            reason=model.not_introspectable,
            lanes=served.lanes.count if served.lanes else 0,
            cam_methods=possible_methods(model) if not model.not_introspectable else (),
        ),
        provenance=encode_provenance(model, model.engine.name),
        parameter_count=model.parameter_count,
        forward=duration(model.forward_seconds),
        engine=_encode_engine(model.engine),
    )


def _encode_engine(engine: EngineChoice) -> model_pb2.Engine:
    return model_pb2.Engine(
        name=engine.name,
        deviation=engine.deviation,
        tolerance=engine.tolerance,
        speed_up=engine.speed_up,
        timings=[
            model_pb2.EngineTiming(batch=one.batch, eager=duration(one.eager), engine=duration(one.engine))
            for one in engine.timings
        ],
        rejected=[model_pb2.RejectedEngine(name=name, reason=why) for name, why in engine.rejected],
    )


def encode_provenance(model: Model, engine: str) -> model_pb2.Provenance:
    """What makes a model's answers, by this engine."""
    return model_pb2.Provenance(
        weights_digest=model.weights_digest,
        engine=engine,
        device=str(model.device),
        torch_version=torch.__version__,
        file_digest=model.file_digest,
    )


def encode_prediction(model: Model, scores: Tensor, top_k: int) -> predict_pb2.PredictResponse:
    """The answer of Predict."""
    return predict_pb2.PredictResponse(
        model=model.name,
        version=model.version,
        scores=encode_tensor(scores),
        scores_kind=SCORES_KINDS[model.scores_kind],
        top=encode_top(top_classes(scores, model.scores_kind, top_k), model.labels),
        engine=model.engine.name,
    )


def encode_scores(model: Model, scores: Array) -> bytes:
    """The answer of Predict without best classes, in bytes: nothing but the data differs from one answer of a shape to the next."""
    about = (model.name, model.version, model.engine.name)
    head, tail = _around_scores(about, model.scores_kind, model.scores_dtype, scores.shape)
    return b"".join((head, scores.tobytes(), tail))


@lru_cache(256)
def _around_scores(about: tuple[str, str, str], kind: ScoresKind, dtype: torch.dtype, shape: Shape) -> tuple[bytes, bytes]:
    """What stands before the data, and after it: fields are written in the order of their numbers."""
    data = bytes(math.prod(shape) * dtype.itemsize)
    tensor = tensor_pb2.Tensor(dtype=WIRE_DTYPES[dtype], shape=shape, data=data)
    name, version, engine = about
    after = predict_pb2.PredictResponse(scores_kind=SCORES_KINDS[kind], engine=engine)
    whole = predict_pb2.PredictResponse(model=name, version=version, scores=tensor)
    whole.MergeFrom(after)
    tail, written = after.SerializeToString(), whole.SerializeToString()
    return written[: len(written) - len(tail) - len(data)], tail


def encode_top(top: list[list[ScoredClass]], labels: tuple[str, ...]) -> list[predict_pb2.TopClasses]:
    """The best classes of each sample, with their labels where there are any."""
    return [
        predict_pb2.TopClasses(
            classes=[
                predict_pb2.ScoredClass(
                    index=best.index, label=labels[best.index] if labels else "", score=best.score, probability=best.probability
                )
                for best in sample
            ]
        )
        for sample in top
    ]


def _encode_spec(spec: InputSpec) -> model_pb2.InputSpec:
    message = model_pb2.InputSpec(name=spec.name, dtype=WIRE_DTYPES[spec.dtype], shape=spec.shape, min_shape=spec.least)
    message.max_shape.extend((-1, *spec.most[1:]) if spec.most else ())
    if spec.image:
        message.image.CopyFrom(
            model_pb2.ImageSpec(
                color=_COLORS[spec.image.color],
                height=spec.image.height,
                width=spec.image.width,
                resize_shorter=spec.image.resize_shorter,
                resample=spec.image.resample,
                mean=spec.image.mean,
                std=spec.image.std,
                invert_bright_background=spec.image.invert_bright_background,
                range_min=spec.image.range[0],
                range_max=spec.image.range[1],
            )
        )
    return message


def _encode_layer(layer: Layer) -> model_pb2.Layer:
    return model_pb2.Layer(
        name=layer.name,
        kind=_LAYER_KINDS[layer.kind],
        type=layer.type,
        index=layer.index,
        container=layer.container,
        outputs=[
            model_pb2.LayerOutput(
                path=output.path,
                dtype=WIRE_DTYPES.get(output.dtype, tensor_pb2.DATA_TYPE_UNSPECIFIED),
                shape=output.shape,
                bytes_per_sample=output.bytes_per_sample,
                batch_first=output.batch_first,
            )
            for output in layer.outputs
        ],
        never_fires=layer.never_fires,
        forward_share=layer.forward_share,
    )
