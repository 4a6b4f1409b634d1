"""What `model.yaml` says, typed: where the network comes from, what it takes and gives, how it is served."""

import difflib
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cutaway_server.models.engine_choice import EngineName
from cutaway_server.models.model import NotServable, said
from cutaway_server.models.scores import ScoresKind

MANIFEST = "model.yaml"
MAX_BYTES = 1 << 16  # of model.yaml and of versions.yaml

S = TypeVar("S", bound=BaseModel)
Preset = Literal["imagenet", "inception", "mnist"]
Dtype = Literal["float32", "float16", "bfloat16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
Positive = Annotated[int, Field(ge=1)]


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError("must be a file of the model's own folder, with no '..' and no '/' in front")
    return name


FileName = Annotated[str, AfterValidator(_inside)]


def _size(size: Any) -> Any:
    pair = isinstance(size, list) and len(size) == 2 and all(type(end) is int for end in size) and 1 <= size[0] <= size[1]
    if not pair and not (type(size) is int and size >= 1):
        raise ValueError(f"must be a size of 1 or more, or a pair [least, most], not {size!r}")
    return size


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file, 64 lower-case hexadecimal digits.")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


class Network(_Section):
    """Where the network comes from: exactly one of the five."""

    factory: str | None = Field(
        None,
        pattern=r"^[\w.]+:[\w.-]+$",
        description="PACKAGE.MODULE:NAME. torchvision.models:resnet18 and timm:resnet18 always go; any other callable only where "
        "the server's settings allow that very one.",
    )
    module: FileName | None = Field(None, description="A Python file; only where the server allows code.")
    exported: FileName | None = Field(None, description="A torch.export archive (.pt2); only where the server allows code.")
    torchscript: FileName | None = Field(None, description="A TorchScript archive; only where the server allows code.")
    onnx: FileName | None = Field(None, description="An ONNX file. Predict only.")
    callable: str = Field(
        "build", pattern=r"^[A-Za-z_]\w*$", description="With `module`: its function or class that makes the network."
    )
    arguments: dict[str, Any] = Field({}, description="With `factory` or `module`: keyword arguments.")
    sha256: Digest | None = Field(None, description="Of the file named here. The model is refused where it differs.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [name for name in ("factory", "module", "exported", "torchscript", "onnx") if getattr(self, name)]
        if len(named) != 1:
            raise ValueError(
                f"names {', '.join(named) or 'none'}; exactly one of factory, module, exported, torchscript, onnx is needed"
            )
        if self.arguments and not self.has_weights_apart:
            raise ValueError(f"arguments are for factory and module, not for {named[0]}")
        if self.sha256 and self.factory:
            raise ValueError("sha256 is of a file, and a factory has none; pin the weights instead")
        return self

    @property
    def file(self) -> str | None:
        """The file that it is in; None for a factory."""
        return self.module or self.exported or self.torchscript or self.onnx

    @property
    def has_weights_apart(self) -> bool:
        """Whether the weights are a file of their own."""
        return bool(self.factory or self.module)


class Weights(_Section):
    """The weights' file: safetensors, or a state dict that PyTorch reads without running code."""

    file: FileName = Field(description="Ends in .safetensors, or is a state dict saved by torch.save.")
    sha256: Digest | None = Field(None, description="Of the file. The model is refused where it differs.")
    strict: bool = Field(True, description="Whether missing and unexpected keys are refused; else they are logged.")


class Image(_Section):
    """How pixels become a model-ready image. What is not said comes from the preset."""

    preset: Preset | None = Field(None, description="What all else starts from.")
    color: Literal["gray", "rgb", "bgr"] | None = Field(None, description="What the channels are, in this order.")
    height: Positive | None = Field(None, description="Of the model-ready image. Unit: pixels.")
    width: Positive | None = Field(None, description="Of the model-ready image. Unit: pixels.")
    resize_shorter: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Length of the shorter side before the centre crop; 0: both sides are resized, nothing is cropped. Pixels.",
    )
    resample: Literal["bilinear", "bicubic"] | None = Field(None, description="Filter of the resize, antialiased as Pillow's are.")
    mean: list[float] | None = Field(None, description="One a channel, in the unit of the scaled pixels.")
    std: list[Annotated[float, Field(gt=0)]] | None = Field(None, description="One a channel, in the unit of the scaled pixels.")
    range: list[float] | None = Field(
        None, min_length=2, max_length=2, description="What pixels of 0 and 255 are scaled to. [0, 1]"
    )
    invert_bright_background: bool | None = Field(None, description="Whether a picture with a bright border is inverted first.")


class Input(_Section):
    """One argument of the network."""

    name: str | None = Field(
        None, pattern=r"^[\w.-]{1,100}$", description="As callers name it; the forward method's own where none is."
    )
    shape: list[Annotated[int | list[int], BeforeValidator(_size)]] | None = Field(
        None,
        description="Of one sample, without the batch: [3, 224, 224]. A pair is a range: [3, [64, 512], [64, 512]]. Follows from "
        "the image where there is one.",
        max_length=8,
    )
    dtype: Dtype = Field("float32", description="Element type of a model-ready tensor.")
    image: Image | None = Field(None, description="How photographs become one: settings, or a mere preset.")

    @field_validator("image", mode="before", json_schema_input_type=Preset | Image | None)
    @classmethod
    def _preset_alone(cls, image: Any) -> Any:
        return {"preset": image} if isinstance(image, str) else image

    @model_validator(mode="after")
    def _has_shape(self) -> Self:
        if self.shape is None and self.image is None:
            raise ValueError("needs a shape, or an image from which that follows")
        return self


class Serving(_Section):
    """Settings of `cutaway serve`, for this model alone."""

    device: str | None = Field(None, pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    autocast: Literal["bfloat16", "float16"] | None = Field(
        None, description="What operations run in where PyTorch deems that safe. Maps are computed in float32 all the same."
    )
    engine: EngineName | None = Field(None, description="What runs Predict: auto, eager, onnxruntime, openvino or cudagraphs.")
    threads: Positive | None = Field(None, description="CPU threads that one forward pass of Predict uses.")
    max_batch: Positive | None = Field(None, description="Samples that are joined into one batch of Predict at most.")
    batch_delay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Milliseconds that a prediction waits at most for others to join its batch."
    )
    max_waiting: Positive | None = Field(None, description="Predictions that may wait for a batch.")
    lanes: Positive | None = Field(None, description="Introspections that run at the same time.")
    lane_threads: Positive | None = Field(None, description="CPU threads that the forward pass of one introspection uses.")
    lane_batch: Positive | None = Field(None, description="Samples of one run of the network, for maps that take many runs.")
    max_waiting_introspections: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Introspections that may wait for a lane."
    )
    lazy: bool | None = Field(None, description="Whether it is loaded when it is first asked for.")


class Manifest(_Section):
    """What `model.yaml` says."""

    network: Network
    weights: Weights | None = Field(None, description="Of a factory's or module's network. A mere file name will do.")
    inputs: list[Input] = Field(min_length=1, max_length=64, description="In the order of the forward method's parameters.")
    head: str = Field(
        "", max_length=1000, description="Path of the scores in what the network gives, where that is not one tensor: out, 0."
    )
    scores: Literal["logits", "log_probabilities", "probabilities", "sigmoid"] = Field("logits", description="What the scores are.")
    labels: FileName | None = Field(
        None, description="A text file with a label a line, a JSON list, or imagenet for the names of its 1,000 classes."
    )
    serving: Serving = Field(default_factory=Serving)

    @field_validator("weights", mode="before", json_schema_input_type=FileName | Weights | None)
    @classmethod
    def _file_alone(cls, weights: Any) -> Any:
        return {"file": weights} if isinstance(weights, str) else weights

    @model_validator(mode="after")
    def _weights_go_with_the_network(self) -> Self:
        if self.weights and not self.network.has_weights_apart:
            raise ValueError(f"weights are for factory and module; {self.network.file} brings its own")
        names = [given.name for given in self.inputs if given.name]
        if len(names) != len(set(names)):
            raise ValueError("two inputs have the same name")
        return self

    @property
    def scores_kind(self) -> ScoresKind:
        """What the scores are."""
        return ScoresKind(self.scores)


def read_manifest(text: bytes) -> Manifest:
    """What a `model.yaml` says.

    Raises:
        NotServable: it is no YAML, or says something else than it may; names the key, and the closest one for an unknown one.
    """
    return _read(text, Manifest, MANIFEST)


def _read(text: bytes, kind: type[S], file: str) -> S:
    try:
        content = yaml.load(text, _Loader)  # a SafeLoader, and stricter than that
    except Exception as error:  # PyYAML's own, and what Python says of numbers and dates that it reads
        raise NotServable(f"{file} is no YAML: {said(error)}") from None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise NotServable(f"{file}: {'; '.join(_problem(problem, kind) for problem in error.errors()[:5])}") from None


class _Loader(yaml.SafeLoader):
    """Refuses what nobody means: a key twice, and aliases, of which a few lines can stand for more than the memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (self.construct_object(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _problem(problem: Any, kind: type[BaseModel]) -> str:
    """One problem in one line: where, what, and what would do."""
    place = [str(step) for step in problem["loc"]]
    where = ".".join(place) or "the file"
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(place[-1], _keys(kind, problem["loc"][:-1]), n=1, cutoff=0.5)
        return f"{where}: unknown key" + (f"; did you mean {close[0]}?" if close else "")
    if problem["type"] == "model_type":
        return f"{where}: must be a mapping of keys to values"
    message = _FORMS.get(place[-1], problem["msg"]) if problem["type"] == "string_pattern_mismatch" else problem["msg"]
    message = message.removeprefix("Value error, ")
    got = "" if problem["type"] in ("missing", "value_error") else f", not {str(problem['input'])[:60]!r}"
    return f"{where}: {message[:1].lower()}{message[1:]}{got}"


_FORMS = {
    "factory": "must be PACKAGE.MODULE:NAME",
    "sha256": "must be 64 lower-case hexadecimal digits",
    "device": "must be auto, cpu, cuda or cuda:N",
}  # of strings, where a pattern would say it to few


def _keys(kind: type[BaseModel], steps: tuple[Any, ...]) -> list[str]:
    """The keys that may stand where these steps lead."""
    for step in steps:
        if step in _SECTIONS:
            kind = _SECTIONS[step]
    return list(kind.model_fields)


_SECTIONS: dict[Any, type[BaseModel]] = {
    "network": Network,
    "weights": Weights,
    "inputs": Input,
    "image": Image,
    "serving": Serving,
}


def _policy(policy: Any) -> Any:
    counts = list(policy.values()) if isinstance(policy, dict) and list(policy) == ["latest"] else policy
    if policy != "all" and not (isinstance(counts, list) and counts and all(type(count) is int and count >= 1 for count in counts)):
        raise ValueError(f"must be all, a list of versions, or {{latest: N}}, not {policy!r}")
    return policy


class Versions(_Section):
    """What `versions.yaml` beside the version folders says."""

    serve: Annotated[str | dict[str, int] | list[int], BeforeValidator(_policy)] = Field(
        {"latest": 1}, description="all, a list of versions, or {latest: N}: the N highest that can be served."
    )
    default: Positive | None = Field(
        None, description="Version of requests that name none; the highest that is ready where none is given."
    )

    @property
    def named(self) -> list[int]:
        """The versions that it names."""
        return [*(self.serve if isinstance(self.serve, list) else ()), *([self.default] if self.default else ())]


VERSIONS = "versions.yaml"


def read_versions(text: bytes) -> Versions:
    """What a `versions.yaml` says.

    Raises:
        NotServable: as `read_manifest`.
    """
    return _read(text, Versions, VERSIONS)
