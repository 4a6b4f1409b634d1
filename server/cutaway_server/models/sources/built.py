"""What every source gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn


@dataclass(frozen=True)
class Built:
    """A network, on the CPU.

    Attributes:
        factory: makes it anew, with other weights; None where nothing does.
        not_hookable: why it can have no hooks; empty where it can, as far as is known.
        engine: what runs it as it is.
        onnx: a file of it as ONNX, where there is one.
        takes: names of its inputs, where the forward method has none.
        file_bytes: of its file, where that has weights which are no parameters.
    """

    network: nn.Module
    factory: Callable[[], nn.Module] | None = None
    not_hookable: str = ""
    engine: str = "eager"
    onnx: Path | None = None
    takes: tuple[str, ...] = ()
    file_bytes: int = 0
