from cutaway.v1 import input_pb2 as _input_pb2
from cutaway.v1 import model_pb2 as _model_pb2
from cutaway.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PredictRequest(_message.Message):
    __slots__ = ("model", "version", "inputs", "top_k")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    inputs: _containers.RepeatedCompositeFieldContainer[_input_pb2.Input]
    top_k: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_input_pb2.Input, _Mapping]]] = ..., top_k: _Optional[int] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("model", "version", "scores", "scores_kind", "top", "engine")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SCORES_KIND_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    scores: _tensor_pb2.Tensor
    scores_kind: _model_pb2.ScoresKind
    top: _containers.RepeatedCompositeFieldContainer[TopClasses]
    engine: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., scores: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., scores_kind: _Optional[_Union[_model_pb2.ScoresKind, str]] = ..., top: _Optional[_Iterable[_Union[TopClasses, _Mapping]]] = ..., engine: _Optional[str] = ...) -> None: ...

class TopClasses(_message.Message):
    __slots__ = ("classes",)
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[ScoredClass]
    def __init__(self, classes: _Optional[_Iterable[_Union[ScoredClass, _Mapping]]] = ...) -> None: ...

class ScoredClass(_message.Message):
    __slots__ = ("index", "label", "score", "probability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    score: float
    probability: float
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., probability: _Optional[float] = ...) -> None: ...
