from cutaway.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
    MODEL_STATE_PARKED: _ClassVar[ModelState]

class ScoresKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORES_KIND_UNSPECIFIED: _ClassVar[ScoresKind]
    SCORES_KIND_LOGITS: _ClassVar[ScoresKind]
    SCORES_KIND_LOG_PROBABILITIES: _ClassVar[ScoresKind]
    SCORES_KIND_PROBABILITIES: _ClassVar[ScoresKind]
    SCORES_KIND_SIGMOID: _ClassVar[ScoresKind]

class ColorMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOR_MODE_UNSPECIFIED: _ClassVar[ColorMode]
    COLOR_MODE_GRAY: _ClassVar[ColorMode]
    COLOR_MODE_RGB: _ClassVar[ColorMode]
    COLOR_MODE_BGR: _ClassVar[ColorMode]

class LayerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_KIND_UNSPECIFIED: _ClassVar[LayerKind]
    LAYER_KIND_MODULE: _ClassVar[LayerKind]
    LAYER_KIND_FUNCTION: _ClassVar[LayerKind]
    LAYER_KIND_METHOD: _ClassVar[LayerKind]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_FAILED: ModelState
MODEL_STATE_PARKED: ModelState
SCORES_KIND_UNSPECIFIED: ScoresKind
SCORES_KIND_LOGITS: ScoresKind
SCORES_KIND_LOG_PROBABILITIES: ScoresKind
SCORES_KIND_PROBABILITIES: ScoresKind
SCORES_KIND_SIGMOID: ScoresKind
COLOR_MODE_UNSPECIFIED: ColorMode
COLOR_MODE_GRAY: ColorMode
COLOR_MODE_RGB: ColorMode
COLOR_MODE_BGR: ColorMode
LAYER_KIND_UNSPECIFIED: LayerKind
LAYER_KIND_MODULE: LayerKind
LAYER_KIND_FUNCTION: LayerKind
LAYER_KIND_METHOD: LayerKind

class Model(_message.Message):
    __slots__ = ("name", "version", "state", "state_reason", "inputs", "scores_kind", "class_count", "labels", "layers", "introspection", "provenance", "parameter_count", "forward", "engine")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SCORES_KIND_FIELD_NUMBER: _ClassVar[int]
    CLASS_COUNT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    INTROSPECTION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    state: ModelState
    state_reason: str
    inputs: _containers.RepeatedCompositeFieldContainer[InputSpec]
    scores_kind: ScoresKind
    class_count: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    introspection: Introspection
    provenance: Provenance
    parameter_count: int
    forward: _duration_pb2.Duration
    engine: Engine
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., state_reason: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[InputSpec, _Mapping]]] = ..., scores_kind: _Optional[_Union[ScoresKind, str]] = ..., class_count: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., introspection: _Optional[_Union[Introspection, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., parameter_count: _Optional[int] = ..., forward: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., engine: _Optional[_Union[Engine, _Mapping]] = ...) -> None: ...

class InputSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape", "image", "min_shape", "max_shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MIN_SHAPE_FIELD_NUMBER: _ClassVar[int]
    MAX_SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    image: ImageSpec
    min_shape: _containers.RepeatedScalarFieldContainer[int]
    max_shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., image: _Optional[_Union[ImageSpec, _Mapping]] = ..., min_shape: _Optional[_Iterable[int]] = ..., max_shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ImageSpec(_message.Message):
    __slots__ = ("color", "height", "width", "resize_shorter", "resample", "mean", "std", "invert_bright_background", "range_min", "range_max")
    COLOR_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    RESIZE_SHORTER_FIELD_NUMBER: _ClassVar[int]
    RESAMPLE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    INVERT_BRIGHT_BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    RANGE_MIN_FIELD_NUMBER: _ClassVar[int]
    RANGE_MAX_FIELD_NUMBER: _ClassVar[int]
    color: ColorMode
    height: int
    width: int
    resize_shorter: int
    resample: str
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    invert_bright_background: bool
    range_min: float
    range_max: float
    def __init__(self, color: _Optional[_Union[ColorMode, str]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., resize_shorter: _Optional[int] = ..., resample: _Optional[str] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., invert_bright_background: bool = ..., range_min: _Optional[float] = ..., range_max: _Optional[float] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "kind", "type", "index", "container", "outputs", "never_fires", "forward_share")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    NEVER_FIRES_FIELD_NUMBER: _ClassVar[int]
    FORWARD_SHARE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: LayerKind
    type: str
    index: int
    container: bool
    outputs: _containers.RepeatedCompositeFieldContainer[LayerOutput]
    never_fires: str
    forward_share: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[LayerKind, str]] = ..., type: _Optional[str] = ..., index: _Optional[int] = ..., container: bool = ..., outputs: _Optional[_Iterable[_Union[LayerOutput, _Mapping]]] = ..., never_fires: _Optional[str] = ..., forward_share: _Optional[float] = ...) -> None: ...

class LayerOutput(_message.Message):
    __slots__ = ("path", "dtype", "shape", "bytes_per_sample", "batch_first")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIRST_FIELD_NUMBER: _ClassVar[int]
    path: str
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    bytes_per_sample: int
    batch_first: bool
    def __init__(self, path: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., bytes_per_sample: _Optional[int] = ..., batch_first: bool = ...) -> None: ...

class Introspection(_message.Message):
    __slots__ = ("available", "reason", "lanes", "cam_methods")
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    CAM_METHODS_FIELD_NUMBER: _ClassVar[int]
    available: bool
    reason: str
    lanes: int
    cam_methods: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, available: bool = ..., reason: _Optional[str] = ..., lanes: _Optional[int] = ..., cam_methods: _Optional[_Iterable[str]] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("weights_digest", "engine", "device", "torch_version", "file_digest")
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    TORCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    FILE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    weights_digest: str
    engine: str
    device: str
    torch_version: str
    file_digest: str
    def __init__(self, weights_digest: _Optional[str] = ..., engine: _Optional[str] = ..., device: _Optional[str] = ..., torch_version: _Optional[str] = ..., file_digest: _Optional[str] = ...) -> None: ...

class Engine(_message.Message):
    __slots__ = ("name", "deviation", "tolerance", "speed_up", "timings", "rejected")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    SPEED_UP_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    deviation: float
    tolerance: float
    speed_up: float
    timings: _containers.RepeatedCompositeFieldContainer[EngineTiming]
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedEngine]
    def __init__(self, name: _Optional[str] = ..., deviation: _Optional[float] = ..., tolerance: _Optional[float] = ..., speed_up: _Optional[float] = ..., timings: _Optional[_Iterable[_Union[EngineTiming, _Mapping]]] = ..., rejected: _Optional[_Iterable[_Union[RejectedEngine, _Mapping]]] = ...) -> None: ...

class EngineTiming(_message.Message):
    __slots__ = ("batch", "eager", "engine")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    EAGER_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    batch: int
    eager: _duration_pb2.Duration
    engine: _duration_pb2.Duration
    def __init__(self, batch: _Optional[int] = ..., eager: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., engine: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RejectedEngine(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
