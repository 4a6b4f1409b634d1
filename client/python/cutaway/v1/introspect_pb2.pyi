from cutaway.v1 import input_pb2 as _input_pb2
from cutaway.v1 import model_pb2 as _model_pb2
from cutaway.v1 import predict_pb2 as _predict_pb2
from cutaway.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PoolMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOL_METHOD_UNSPECIFIED: _ClassVar[PoolMethod]
    POOL_METHOD_MEAN: _ClassVar[PoolMethod]
    POOL_METHOD_MAX: _ClassVar[PoolMethod]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_FLOAT16: _ClassVar[Precision]
    PRECISION_AFFINE8: _ClassVar[Precision]

class Fusion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUSION_UNSPECIFIED: _ClassVar[Fusion]
    FUSION_MEAN: _ClassVar[Fusion]
    FUSION_MAX: _ClassVar[Fusion]
    FUSION_PRODUCT: _ClassVar[Fusion]

class Normalisation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORMALISATION_UNSPECIFIED: _ClassVar[Normalisation]
    NORMALISATION_NONE: _ClassVar[Normalisation]
    NORMALISATION_MIN_MAX: _ClassVar[Normalisation]
    NORMALISATION_MAX: _ClassVar[Normalisation]

class Upsampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPSAMPLING_UNSPECIFIED: _ClassVar[Upsampling]
    UPSAMPLING_NONE: _ClassVar[Upsampling]
    UPSAMPLING_BILINEAR: _ClassVar[Upsampling]
    UPSAMPLING_NEAREST: _ClassVar[Upsampling]

class CamPicture(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAM_PICTURE_UNSPECIFIED: _ClassVar[CamPicture]
    CAM_PICTURE_HEAT_MAP: _ClassVar[CamPicture]
    CAM_PICTURE_OVERLAY: _ClassVar[CamPicture]

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODING_UNSPECIFIED: _ClassVar[Encoding]
    ENCODING_RAW: _ClassVar[Encoding]
    ENCODING_AFFINE8: _ClassVar[Encoding]
    ENCODING_PNG: _ClassVar[Encoding]

class CamForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAM_FORM_UNSPECIFIED: _ClassVar[CamForm]
    CAM_FORM_RAW: _ClassVar[CamForm]
    CAM_FORM_SCALED: _ClassVar[CamForm]
    CAM_FORM_HEAT_MAP: _ClassVar[CamForm]
    CAM_FORM_OVERLAY: _ClassVar[CamForm]

class CamNothing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAM_NOTHING_UNSPECIFIED: _ClassVar[CamNothing]
    CAM_NOTHING_DEAD_LAYER: _ClassVar[CamNothing]
    CAM_NOTHING_SATURATED: _ClassVar[CamNothing]
    CAM_NOTHING_GRADIENT_VANISHED: _ClassVar[CamNothing]
    CAM_NOTHING_NOTHING_POSITIVE: _ClassVar[CamNothing]
    CAM_NOTHING_CANCELLED: _ClassVar[CamNothing]
    CAM_NOTHING_NOT_FINITE: _ClassVar[CamNothing]

class CaptureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAPTURE_KIND_UNSPECIFIED: _ClassVar[CaptureKind]
    CAPTURE_KIND_OUTPUT: _ClassVar[CaptureKind]
    CAPTURE_KIND_INPUT: _ClassVar[CaptureKind]
    CAPTURE_KIND_GRADIENT: _ClassVar[CaptureKind]

class ChannelJoin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_JOIN_UNSPECIFIED: _ClassVar[ChannelJoin]
    CHANNEL_JOIN_SUM: _ClassVar[ChannelJoin]
    CHANNEL_JOIN_PRINCIPAL: _ClassVar[ChannelJoin]
    CHANNEL_JOIN_LARGEST: _ClassVar[ChannelJoin]
    CHANNEL_JOIN_NONE: _ClassVar[ChannelJoin]

class Score(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORE_UNSPECIFIED: _ClassVar[Score]
    SCORE_MODEL: _ClassVar[Score]
    SCORE_PROBABILITY: _ClassVar[Score]
POOL_METHOD_UNSPECIFIED: PoolMethod
POOL_METHOD_MEAN: PoolMethod
POOL_METHOD_MAX: PoolMethod
PRECISION_UNSPECIFIED: Precision
PRECISION_FLOAT16: Precision
PRECISION_AFFINE8: Precision
FUSION_UNSPECIFIED: Fusion
FUSION_MEAN: Fusion
FUSION_MAX: Fusion
FUSION_PRODUCT: Fusion
NORMALISATION_UNSPECIFIED: Normalisation
NORMALISATION_NONE: Normalisation
NORMALISATION_MIN_MAX: Normalisation
NORMALISATION_MAX: Normalisation
UPSAMPLING_UNSPECIFIED: Upsampling
UPSAMPLING_NONE: Upsampling
UPSAMPLING_BILINEAR: Upsampling
UPSAMPLING_NEAREST: Upsampling
CAM_PICTURE_UNSPECIFIED: CamPicture
CAM_PICTURE_HEAT_MAP: CamPicture
CAM_PICTURE_OVERLAY: CamPicture
ENCODING_UNSPECIFIED: Encoding
ENCODING_RAW: Encoding
ENCODING_AFFINE8: Encoding
ENCODING_PNG: Encoding
CAM_FORM_UNSPECIFIED: CamForm
CAM_FORM_RAW: CamForm
CAM_FORM_SCALED: CamForm
CAM_FORM_HEAT_MAP: CamForm
CAM_FORM_OVERLAY: CamForm
CAM_NOTHING_UNSPECIFIED: CamNothing
CAM_NOTHING_DEAD_LAYER: CamNothing
CAM_NOTHING_SATURATED: CamNothing
CAM_NOTHING_GRADIENT_VANISHED: CamNothing
CAM_NOTHING_NOTHING_POSITIVE: CamNothing
CAM_NOTHING_CANCELLED: CamNothing
CAM_NOTHING_NOT_FINITE: CamNothing
CAPTURE_KIND_UNSPECIFIED: CaptureKind
CAPTURE_KIND_OUTPUT: CaptureKind
CAPTURE_KIND_INPUT: CaptureKind
CAPTURE_KIND_GRADIENT: CaptureKind
CHANNEL_JOIN_UNSPECIFIED: ChannelJoin
CHANNEL_JOIN_SUM: ChannelJoin
CHANNEL_JOIN_PRINCIPAL: ChannelJoin
CHANNEL_JOIN_LARGEST: ChannelJoin
CHANNEL_JOIN_NONE: ChannelJoin
SCORE_UNSPECIFIED: Score
SCORE_MODEL: Score
SCORE_PROBABILITY: Score

class IntrospectRequest(_message.Message):
    __slots__ = ("model", "version", "inputs", "top_k", "captures", "cams", "without_prediction", "seed", "plan_only")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CAPTURES_FIELD_NUMBER: _ClassVar[int]
    CAMS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_PREDICTION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PLAN_ONLY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    inputs: _containers.RepeatedCompositeFieldContainer[_input_pb2.Input]
    top_k: int
    captures: _containers.RepeatedCompositeFieldContainer[Capture]
    cams: _containers.RepeatedCompositeFieldContainer[Cam]
    without_prediction: bool
    seed: int
    plan_only: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_input_pb2.Input, _Mapping]]] = ..., top_k: _Optional[int] = ..., captures: _Optional[_Iterable[_Union[Capture, _Mapping]]] = ..., cams: _Optional[_Iterable[_Union[Cam, _Mapping]]] = ..., without_prediction: bool = ..., seed: _Optional[int] = ..., plan_only: bool = ...) -> None: ...

class Capture(_message.Message):
    __slots__ = ("layer", "kind", "target", "statistics", "pool", "channels", "precision")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    layer: str
    kind: CaptureKind
    target: Target
    statistics: Statistics
    pool: Pool
    channels: Channels
    precision: Precision
    def __init__(self, layer: _Optional[str] = ..., kind: _Optional[_Union[CaptureKind, str]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., pool: _Optional[_Union[Pool, _Mapping]] = ..., channels: _Optional[_Union[Channels, _Mapping]] = ..., precision: _Optional[_Union[Precision, str]] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("histogram_bins",)
    HISTOGRAM_BINS_FIELD_NUMBER: _ClassVar[int]
    histogram_bins: int
    def __init__(self, histogram_bins: _Optional[int] = ...) -> None: ...

class Pool(_message.Message):
    __slots__ = ("method", "size")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    method: PoolMethod
    size: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, method: _Optional[_Union[PoolMethod, str]] = ..., size: _Optional[_Iterable[int]] = ...) -> None: ...

class Channels(_message.Message):
    __slots__ = ("indices", "top_k", "range")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    indices: ChannelIndices
    top_k: int
    range: ChannelRange
    def __init__(self, indices: _Optional[_Union[ChannelIndices, _Mapping]] = ..., top_k: _Optional[int] = ..., range: _Optional[_Union[ChannelRange, _Mapping]] = ...) -> None: ...

class ChannelIndices(_message.Message):
    __slots__ = ("indices",)
    INDICES_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, indices: _Optional[_Iterable[int]] = ...) -> None: ...

class ChannelRange(_message.Message):
    __slots__ = ("start", "stop", "step")
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    start: int
    stop: int
    step: int
    def __init__(self, start: _Optional[int] = ..., stop: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class Cam(_message.Message):
    __slots__ = ("method", "layers", "target", "settings", "fusion", "scaling", "pictures", "faithfulness")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    FAITHFULNESS_FIELD_NUMBER: _ClassVar[int]
    method: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    target: Target
    settings: CamSettings
    fusion: Fusion
    scaling: Scaling
    pictures: _containers.RepeatedScalarFieldContainer[CamPicture]
    faithfulness: FaithfulnessSettings
    def __init__(self, method: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., target: _Optional[_Union[Target, _Mapping]] = ..., settings: _Optional[_Union[CamSettings, _Mapping]] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., scaling: _Optional[_Union[Scaling, _Mapping]] = ..., pictures: _Optional[_Iterable[_Union[CamPicture, str]]] = ..., faithfulness: _Optional[_Union[FaithfulnessSettings, _Mapping]] = ...) -> None: ...

class Scaling(_message.Message):
    __slots__ = ("normalisation", "upsampling")
    NORMALISATION_FIELD_NUMBER: _ClassVar[int]
    UPSAMPLING_FIELD_NUMBER: _ClassVar[int]
    normalisation: Normalisation
    upsampling: Upsampling
    def __init__(self, normalisation: _Optional[_Union[Normalisation, str]] = ..., upsampling: _Optional[_Union[Upsampling, str]] = ...) -> None: ...

class FaithfulnessSettings(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    def __init__(self, steps: _Optional[int] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("predicted", "classes", "top_k", "contrast")
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CONTRAST_FIELD_NUMBER: _ClassVar[int]
    predicted: PredictedClass
    classes: ClassIndices
    top_k: TopK
    contrast: Contrast
    def __init__(self, predicted: _Optional[_Union[PredictedClass, _Mapping]] = ..., classes: _Optional[_Union[ClassIndices, _Mapping]] = ..., top_k: _Optional[_Union[TopK, _Mapping]] = ..., contrast: _Optional[_Union[Contrast, _Mapping]] = ...) -> None: ...

class PredictedClass(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClassIndices(_message.Message):
    __slots__ = ("indices",)
    INDICES_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, indices: _Optional[_Iterable[int]] = ...) -> None: ...

class TopK(_message.Message):
    __slots__ = ("k",)
    K_FIELD_NUMBER: _ClassVar[int]
    k: int
    def __init__(self, k: _Optional[int] = ...) -> None: ...

class Contrast(_message.Message):
    __slots__ = ("indices", "against")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    against: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, indices: _Optional[_Iterable[int]] = ..., against: _Optional[_Iterable[int]] = ...) -> None: ...

class IntrospectResponse(_message.Message):
    __slots__ = ("started", "chunk", "prediction", "progress", "item_failed", "finished", "faithfulness")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ITEM_FAILED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAITHFULNESS_FIELD_NUMBER: _ClassVar[int]
    started: Started
    chunk: Chunk
    prediction: Prediction
    progress: Progress
    item_failed: ItemFailed
    finished: Finished
    faithfulness: Faithfulness
    def __init__(self, started: _Optional[_Union[Started, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., item_failed: _Optional[_Union[ItemFailed, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., faithfulness: _Optional[_Union[Faithfulness, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("model", "version", "provenance", "batch", "captures", "cams", "total_bytes", "request_id", "estimate", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CAPTURES_FIELD_NUMBER: _ClassVar[int]
    CAMS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    provenance: _model_pb2.Provenance
    batch: int
    captures: _containers.RepeatedCompositeFieldContainer[PlannedCapture]
    cams: _containers.RepeatedCompositeFieldContainer[PlannedCam]
    total_bytes: int
    request_id: str
    estimate: Estimate
    seed: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., provenance: _Optional[_Union[_model_pb2.Provenance, _Mapping]] = ..., batch: _Optional[int] = ..., captures: _Optional[_Iterable[_Union[PlannedCapture, _Mapping]]] = ..., cams: _Optional[_Iterable[_Union[PlannedCam, _Mapping]]] = ..., total_bytes: _Optional[int] = ..., request_id: _Optional[str] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("forward_passes", "backward_passes", "stops_after", "compute")
    FORWARD_PASSES_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_PASSES_FIELD_NUMBER: _ClassVar[int]
    STOPS_AFTER_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    forward_passes: int
    backward_passes: int
    stops_after: str
    compute: _duration_pb2.Duration
    def __init__(self, forward_passes: _Optional[int] = ..., backward_passes: _Optional[int] = ..., stops_after: _Optional[str] = ..., compute: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PlannedCapture(_message.Message):
    __slots__ = ("layer", "kind", "path", "dtype", "shape", "bytes", "full_bytes", "capture")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FULL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    layer: str
    kind: CaptureKind
    path: str
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    bytes: int
    full_bytes: int
    capture: int
    def __init__(self, layer: _Optional[str] = ..., kind: _Optional[_Union[CaptureKind, str]] = ..., path: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., bytes: _Optional[int] = ..., full_bytes: _Optional[int] = ..., capture: _Optional[int] = ...) -> None: ...

class PlannedCam(_message.Message):
    __slots__ = ("cam", "method", "layers", "rank", "forward_passes", "backward_passes", "shape", "faithfulness_forward_passes", "faithfulness_backward_passes")
    CAM_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    FORWARD_PASSES_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_PASSES_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    FAITHFULNESS_FORWARD_PASSES_FIELD_NUMBER: _ClassVar[int]
    FAITHFULNESS_BACKWARD_PASSES_FIELD_NUMBER: _ClassVar[int]
    cam: int
    method: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    rank: int
    forward_passes: int
    backward_passes: int
    shape: _containers.RepeatedScalarFieldContainer[int]
    faithfulness_forward_passes: int
    faithfulness_backward_passes: int
    def __init__(self, cam: _Optional[int] = ..., method: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., rank: _Optional[int] = ..., forward_passes: _Optional[int] = ..., backward_passes: _Optional[int] = ..., shape: _Optional[_Iterable[int]] = ..., faithfulness_forward_passes: _Optional[int] = ..., faithfulness_backward_passes: _Optional[int] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("scores_item", "scores_kind", "top", "engine")
    SCORES_ITEM_FIELD_NUMBER: _ClassVar[int]
    SCORES_KIND_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    scores_item: int
    scores_kind: _model_pb2.ScoresKind
    top: _containers.RepeatedCompositeFieldContainer[_predict_pb2.TopClasses]
    engine: str
    def __init__(self, scores_item: _Optional[int] = ..., scores_kind: _Optional[_Union[_model_pb2.ScoresKind, str]] = ..., top: _Optional[_Iterable[_Union[_predict_pb2.TopClasses, _Mapping]]] = ..., engine: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("what", "done", "total")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    what: str
    done: int
    total: int
    def __init__(self, what: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class Faithfulness(_message.Message):
    __slots__ = ("cam", "rank", "map", "random", "steps")
    CAM_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    RANDOM_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    cam: int
    rank: int
    map: Measures
    random: Measures
    steps: int
    def __init__(self, cam: _Optional[int] = ..., rank: _Optional[int] = ..., map: _Optional[_Union[Measures, _Mapping]] = ..., random: _Optional[_Union[Measures, _Mapping]] = ..., steps: _Optional[int] = ...) -> None: ...

class Measures(_message.Message):
    __slots__ = ("deletion", "insertion", "average_drop", "increase", "road", "sensitivity", "complexity")
    DELETION_FIELD_NUMBER: _ClassVar[int]
    INSERTION_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_DROP_FIELD_NUMBER: _ClassVar[int]
    INCREASE_FIELD_NUMBER: _ClassVar[int]
    ROAD_FIELD_NUMBER: _ClassVar[int]
    SENSITIVITY_FIELD_NUMBER: _ClassVar[int]
    COMPLEXITY_FIELD_NUMBER: _ClassVar[int]
    deletion: _containers.RepeatedScalarFieldContainer[float]
    insertion: _containers.RepeatedScalarFieldContainer[float]
    average_drop: _containers.RepeatedScalarFieldContainer[float]
    increase: _containers.RepeatedScalarFieldContainer[float]
    road: _containers.RepeatedScalarFieldContainer[float]
    sensitivity: _containers.RepeatedScalarFieldContainer[float]
    complexity: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, deletion: _Optional[_Iterable[float]] = ..., insertion: _Optional[_Iterable[float]] = ..., average_drop: _Optional[_Iterable[float]] = ..., increase: _Optional[_Iterable[float]] = ..., road: _Optional[_Iterable[float]] = ..., sensitivity: _Optional[_Iterable[float]] = ..., complexity: _Optional[_Iterable[float]] = ...) -> None: ...

class ItemFailed(_message.Message):
    __slots__ = ("capture", "cam", "rank", "code", "message")
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    CAM_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    capture: CaptureHeader
    cam: int
    rank: int
    code: int
    message: str
    def __init__(self, capture: _Optional[_Union[CaptureHeader, _Mapping]] = ..., cam: _Optional[int] = ..., rank: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("stages", "layers", "bytes_sent", "last_layer", "cams")
    STAGES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    LAST_LAYER_FIELD_NUMBER: _ClassVar[int]
    CAMS_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedCompositeFieldContainer[StageTiming]
    layers: _containers.RepeatedCompositeFieldContainer[LayerTiming]
    bytes_sent: int
    last_layer: str
    cams: _containers.RepeatedCompositeFieldContainer[CamTiming]
    def __init__(self, stages: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[LayerTiming, _Mapping]]] = ..., bytes_sent: _Optional[int] = ..., last_layer: _Optional[str] = ..., cams: _Optional[_Iterable[_Union[CamTiming, _Mapping]]] = ...) -> None: ...

class CamTiming(_message.Message):
    __slots__ = ("cam", "rank", "map", "faithfulness", "pictures")
    CAM_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    FAITHFULNESS_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    cam: int
    rank: int
    map: _duration_pb2.Duration
    faithfulness: _duration_pb2.Duration
    pictures: _duration_pb2.Duration
    def __init__(self, cam: _Optional[int] = ..., rank: _Optional[int] = ..., map: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., faithfulness: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., pictures: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class LayerTiming(_message.Message):
    __slots__ = ("layer", "completed_after", "capture", "bytes", "reduce", "encode")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    layer: str
    completed_after: _duration_pb2.Duration
    capture: _duration_pb2.Duration
    bytes: int
    reduce: _duration_pb2.Duration
    encode: _duration_pb2.Duration
    def __init__(self, layer: _Optional[str] = ..., completed_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., capture: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., bytes: _Optional[int] = ..., reduce: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., encode: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "duration")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    stage: str
    duration: _duration_pb2.Duration
    def __init__(self, stage: _Optional[str] = ..., duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("item", "header", "offset", "data")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    item: int
    header: ChunkHeader
    offset: int
    data: bytes
    def __init__(self, item: _Optional[int] = ..., header: _Optional[_Union[ChunkHeader, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ChunkHeader(_message.Message):
    __slots__ = ("capture", "scores", "cam", "dtype", "shape", "total_bytes", "encoding", "affine8")
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    CAM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    AFFINE8_FIELD_NUMBER: _ClassVar[int]
    capture: CaptureHeader
    scores: ScoresHeader
    cam: CamHeader
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    total_bytes: int
    encoding: Encoding
    affine8: Affine8
    def __init__(self, capture: _Optional[_Union[CaptureHeader, _Mapping]] = ..., scores: _Optional[_Union[ScoresHeader, _Mapping]] = ..., cam: _Optional[_Union[CamHeader, _Mapping]] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., total_bytes: _Optional[int] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., affine8: _Optional[_Union[Affine8, _Mapping]] = ...) -> None: ...

class Affine8(_message.Message):
    __slots__ = ("scales", "zero_points")
    SCALES_FIELD_NUMBER: _ClassVar[int]
    ZERO_POINTS_FIELD_NUMBER: _ClassVar[int]
    scales: _containers.RepeatedScalarFieldContainer[float]
    zero_points: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, scales: _Optional[_Iterable[float]] = ..., zero_points: _Optional[_Iterable[int]] = ...) -> None: ...

class CaptureHeader(_message.Message):
    __slots__ = ("layer", "kind", "path", "batch_first", "statistics", "pool", "channels", "capture")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIRST_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    layer: str
    kind: CaptureKind
    path: str
    batch_first: bool
    statistics: Statistics
    pool: Pool
    channels: KeptChannels
    capture: int
    def __init__(self, layer: _Optional[str] = ..., kind: _Optional[_Union[CaptureKind, str]] = ..., path: _Optional[str] = ..., batch_first: bool = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., pool: _Optional[_Union[Pool, _Mapping]] = ..., channels: _Optional[_Union[KeptChannels, _Mapping]] = ..., capture: _Optional[int] = ...) -> None: ...

class KeptChannels(_message.Message):
    __slots__ = ("indices", "per_sample")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    per_sample: bool
    def __init__(self, indices: _Optional[_Iterable[int]] = ..., per_sample: bool = ...) -> None: ...

class ScoresHeader(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CamHeader(_message.Message):
    __slots__ = ("cam", "method", "layers", "classes", "settings", "placement", "rank", "against", "form", "sample", "notes", "scaling", "fusion")
    CAM_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    cam: int
    method: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedScalarFieldContainer[int]
    settings: CamSettings
    placement: _containers.RepeatedCompositeFieldContainer[Affine]
    rank: int
    against: _containers.RepeatedScalarFieldContainer[int]
    form: CamForm
    sample: int
    notes: _containers.RepeatedCompositeFieldContainer[CamNote]
    scaling: Scaling
    fusion: Fusion
    def __init__(self, cam: _Optional[int] = ..., method: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[int]] = ..., settings: _Optional[_Union[CamSettings, _Mapping]] = ..., placement: _Optional[_Iterable[_Union[Affine, _Mapping]]] = ..., rank: _Optional[int] = ..., against: _Optional[_Iterable[int]] = ..., form: _Optional[_Union[CamForm, str]] = ..., sample: _Optional[int] = ..., notes: _Optional[_Iterable[_Union[CamNote, _Mapping]]] = ..., scaling: _Optional[_Union[Scaling, _Mapping]] = ..., fusion: _Optional[_Union[Fusion, str]] = ...) -> None: ...

class CamNote(_message.Message):
    __slots__ = ("sample", "reason", "message")
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sample: int
    reason: CamNothing
    message: str
    def __init__(self, sample: _Optional[int] = ..., reason: _Optional[_Union[CamNothing, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Affine(_message.Message):
    __slots__ = ("scale_x", "scale_y", "offset_x", "offset_y")
    SCALE_X_FIELD_NUMBER: _ClassVar[int]
    SCALE_Y_FIELD_NUMBER: _ClassVar[int]
    OFFSET_X_FIELD_NUMBER: _ClassVar[int]
    OFFSET_Y_FIELD_NUMBER: _ClassVar[int]
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    def __init__(self, scale_x: _Optional[float] = ..., scale_y: _Optional[float] = ..., offset_x: _Optional[float] = ..., offset_y: _Optional[float] = ...) -> None: ...

class CamSettings(_message.Message):
    __slots__ = ("relu", "score", "join", "augment", "steps", "window", "stride")
    RELU_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    AUGMENT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    relu: bool
    score: Score
    join: ChannelJoin
    augment: bool
    steps: int
    window: _containers.RepeatedScalarFieldContainer[int]
    stride: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, relu: bool = ..., score: _Optional[_Union[Score, str]] = ..., join: _Optional[_Union[ChannelJoin, str]] = ..., augment: bool = ..., steps: _Optional[int] = ..., window: _Optional[_Iterable[int]] = ..., stride: _Optional[_Iterable[int]] = ...) -> None: ...
