"""What ListModels and GetModel answer: models, their inputs and their layer tables."""

from dataclasses import dataclass

from cutaway._tensors import dtype_name
from cutaway._words import seconds, word
from cutaway.v1 import model_pb2


@dataclass(frozen=True)
class ImageSpec:
    """How pixels become a model-ready tensor: resize, crop the centre, scale to the range, subtract mean, divide by std."""

    color: str
    """One of "gray", "rgb", "bgr"."""
    height: int
    """Rows of the model-ready image."""
    width: int
    """Columns of the model-ready image."""
    resize_shorter: int
    """Length in pixels that the shorter side is resized to before the crop; 0 for a resize of both sides, with no crop."""
    resample: str
    """Filter of the resize, as Pillow names it."""
    mean: tuple[float, ...]
    """One a channel, in the unit of the scaled pixels."""
    std: tuple[float, ...]
    """One a channel, in the unit of the scaled pixels."""
    range: tuple[float, float]
    """What pixels of 0 and 255 are scaled to."""
    invert_bright_background: bool
    """Whether a picture whose border is bright is inverted first."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model."""

    name: str
    dtype: str
    """Element type of a model-ready tensor: "float32"."""
    shape: tuple[int, ...]
    """Shape of a model-ready tensor, the batch first; -1 stands for any size."""
    image: ImageSpec | None
    """How pictures are made into such a tensor; None where the model takes model-ready tensors only."""
    min_shape: tuple[int, ...] = ()
    """Least size of each axis, 1 for the batch; empty where all axes but the batch are fixed."""
    max_shape: tuple[int, ...] = ()
    """Greatest size of each axis, -1 for the batch; empty where min_shape is."""


@dataclass(frozen=True)
class LayerOutput:
    """One tensor that a layer puts out."""

    path: str
    """Where it stands in a nested value: "" for a value that is itself a tensor, "0", "out", "0.1"."""
    dtype: str
    shape: tuple[int, ...]
    """-1 stands for the batch."""
    bytes: int
    """For one sample; for all of the tensor where batch_first is false."""
    batch_first: bool


@dataclass(frozen=True)
class Layer:
    """One thing that runs in a forward pass and has a name."""

    name: str
    kind: str
    """One of "module", "function", "method"."""
    type: str
    """The module's class ("Conv2d") or the operation ("relu")."""
    index: int
    """Place in the order of execution, from 0; -1 for a module that never fires."""
    container: bool
    """Whether other layers run inside it."""
    outputs: tuple[LayerOutput, ...]
    never_fires: str
    """Why no capture of it can be had; empty for a layer that fires."""
    forward_share: float
    """Of the forward pass's time, 0 to 1, as measured at loading; a container's holds those of the layers inside."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the first output, -1 standing for the batch; None where there is no output."""
        return self.outputs[0].shape if self.outputs else None

    @property
    def dtype(self) -> str | None:
        """Element type of the first output; None where there is no output."""
        return self.outputs[0].dtype if self.outputs else None

    @property
    def bytes(self) -> int | None:
        """Bytes a sample of the first output; None where there is no output."""
        return self.outputs[0].bytes if self.outputs else None


@dataclass(frozen=True)
class IntrospectionSupport:
    """Whether a model can be looked into."""

    available: bool
    reason: str
    """Why not; empty where it can."""
    lanes: int
    """How many introspections of this model run at the same time."""
    cam_methods: tuple[str, ...]
    """What `Cam.method` takes."""


@dataclass(frozen=True)
class Provenance:
    """What made an answer."""

    weights_digest: str
    """SHA-256 of the weights, hexadecimal."""
    engine: str
    device: str
    torch_version: str
    file_digest: str
    """SHA-256 of the file that the weights were read from; empty where there was none."""


@dataclass(frozen=True)
class EngineTiming:
    """How long one run of a batch took, in seconds."""

    batch: int
    eager: float
    """By the network itself."""
    engine: float
    """By the engine."""


@dataclass(frozen=True)
class Engine:
    """What runs Predict."""

    name: str
    """One of "eager", "torchscript", "onnxruntime", "openvino", "cudagraphs"."""
    deviation: float
    """Greatest difference of its scores from the network's own over all probes, as a share of the largest score of each."""
    tolerance: float
    """What the deviation was held against; 0 where nothing was compared."""
    speed_up: float
    """How many times as fast as the network itself it was when it was tried: the geometric mean over `timings`."""
    timings: tuple[EngineTiming, ...]
    rejected: dict[str, str]
    """Why others were not taken, by their names."""


@dataclass(frozen=True)
class Model:
    """A network under a name and a version."""

    name: str
    version: str
    state: str
    """One of "loading", "ready", "failed", "parked"; a parked one is loaded by the first call that asks for it."""
    state_reason: str
    """Why state is what it is; for "ready" empty, or why what the server's folder holds now is not what serves."""
    inputs: tuple[InputSpec, ...]
    scores_kind: str
    """What the scores are: "logits", "log_probabilities", "probabilities" or "sigmoid"."""
    class_count: int
    """How many classes there are; 0 where the output is no list of class scores."""
    labels: tuple[str, ...]
    """One a class; empty where nobody gave any, and in what `models()` answers."""
    layers: tuple[Layer, ...]
    """The layer table in order of execution, then what never fires. Empty in what `models()` answers."""
    introspection: IntrospectionSupport
    provenance: Provenance
    parameter_count: int
    forward_seconds: float
    """A forward pass of one sample, as measured at loading."""
    engine: Engine


def read_model(message: model_pb2.Model) -> Model:
    """A model as the server describes it."""
    return Model(
        name=message.name,
        version=message.version,
        state=word(model_pb2.ModelState, message.state),
        state_reason=message.state_reason,
        inputs=tuple(_input_spec(spec) for spec in message.inputs),
        scores_kind=word(model_pb2.ScoresKind, message.scores_kind),
        class_count=message.class_count,
        labels=tuple(message.labels),
        layers=tuple(_layer(layer) for layer in message.layers),
        introspection=IntrospectionSupport(
            available=message.introspection.available,
            reason=message.introspection.reason,
            lanes=message.introspection.lanes,
            cam_methods=tuple(message.introspection.cam_methods),
        ),
        provenance=read_provenance(message.provenance),
        parameter_count=message.parameter_count,
        forward_seconds=seconds(message.forward),
        engine=_engine(message.engine),
    )


def _engine(message: model_pb2.Engine) -> Engine:
    return Engine(
        name=message.name,
        deviation=message.deviation,
        tolerance=message.tolerance,
        speed_up=message.speed_up,
        timings=tuple(EngineTiming(one.batch, seconds(one.eager), seconds(one.engine)) for one in message.timings),
        rejected={one.name: one.reason for one in message.rejected},
    )


def read_provenance(message: model_pb2.Provenance) -> Provenance:
    """What made an answer."""
    return Provenance(
        weights_digest=message.weights_digest,
        engine=message.engine,
        device=message.device,
        torch_version=message.torch_version,
        file_digest=message.file_digest,
    )


def _input_spec(message: model_pb2.InputSpec) -> InputSpec:
    image = _image_spec(message.image) if message.HasField("image") else None
    return InputSpec(
        name=message.name,
        dtype=dtype_name(message.dtype),
        shape=tuple(message.shape),
        image=image,
        min_shape=tuple(message.min_shape),
        max_shape=tuple(message.max_shape),
    )


def _image_spec(message: model_pb2.ImageSpec) -> ImageSpec:
    return ImageSpec(
        color=word(model_pb2.ColorMode, message.color),
        height=message.height,
        width=message.width,
        resize_shorter=message.resize_shorter,
        resample=message.resample,
        mean=tuple(message.mean),
        std=tuple(message.std),
        range=(message.range_min, message.range_max),
        invert_bright_background=message.invert_bright_background,
    )


def _layer(message: model_pb2.Layer) -> Layer:
    return Layer(
        name=message.name,
        kind=word(model_pb2.LayerKind, message.kind),
        type=message.type,
        index=message.index,
        container=message.container,
        outputs=tuple(
            LayerOutput(
                path=output.path,
                dtype=dtype_name(output.dtype),
                shape=tuple(output.shape),
                bytes=output.bytes_per_sample,
                batch_first=output.batch_first,
            )
            for output in message.outputs
        ),
        never_fires=message.never_fires,
        forward_share=message.forward_share,
    )
