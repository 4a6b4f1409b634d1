"""Which engine runs Predict for a model, and what spoke for it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, WithJsonSchema

ENGINES = ("auto", "eager", "onnxruntime", "openvino", "cudagraphs")


def _known(name: str) -> str:
    if name == "compiled":
        raise ValueError(
            "compiled is not offered: torch.compile in a process that serves changes other models' answers while it compiles; "
            "auto takes the fastest engine that does no harm, and cudagraphs replays recorded kernels on a GPU"
        )
    if name not in ENGINES:
        raise ValueError(f"must be one of {', '.join(ENGINES)}")
    return name


EngineName = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": list(ENGINES)})]


@dataclass(frozen=True)
class Timing:
    """Seconds that one run of a batch takes, by the network as it is and by an engine: medians of runs in turns."""

    batch: int
    eager: float
    engine: float


@dataclass(frozen=True)
class EngineChoice:
    """What runs Predict.

    Attributes:
        name: "eager", "torchscript", "onnxruntime", "openvino" or "cudagraphs".
        file: the ONNX file that it runs; None for the network itself.
        sha256: of the file, hexadecimal; empty where it lies in the model's own folder.
        threads: CPU threads of one run; 0 for as many as Predict may use.
        deviation: greatest difference from the network itself over all probes, as a share of the largest score of each.
        tolerance: that the deviation was held against; 0 where nothing was compared.
        rejected: why others were not taken, by their names.
    """

    name: str = "eager"
    file: Path | None = None
    sha256: str = ""
    threads: int = 0
    deviation: float = 0.0
    tolerance: float = 0.0
    timings: tuple[Timing, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()

    @property
    def speed_up(self) -> float:
        """How many times as fast as the network itself: the geometric mean over the sizes of batches; 1 where it is that."""
        ratios = [timing.eager / timing.engine for timing in self.timings]
        return prod(ratios) ** (1 / len(ratios)) if ratios else 1.0

    def as_json(self) -> dict[str, Any]:
        """For another process."""
        return {**asdict(self), "file": str(self.file) if self.file else None}

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Self:
        """What `as_json` made."""
        return cls(
            **{
                **fields,
                "file": Path(fields["file"]) if fields["file"] else None,
                "timings": tuple(Timing(**timing) for timing in fields["timings"]),
                "rejected": tuple((name, why) for name, why in fields["rejected"]),
            }
        )


EAGER = EngineChoice()
