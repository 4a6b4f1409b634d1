"""Networks as ONNX, run by ONNX Runtime."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cutaway_server.models.model import NotServable
from cutaway_server.models.onnx_session import OnnxSession
from cutaway_server.models.sources.built import Built

_WHY = "it is ONNX, whose layers are no modules; serve the PyTorch network that it was made from instead"


def build_from_onnx(path: Path, threads: int) -> Built:
    """The network in an ONNX file.

    Args:
        threads: CPU threads of one run.
    Raises:
        NotServable: ONNX Runtime is not there, or does not read it, or it takes batches of one size only.
    """
    session = OnnxSession(path, threads)
    for name, shape in zip(session.takes, session.shapes, strict=True):
        if not shape or isinstance(shape[0], int):
            raise NotServable(f"{path.name}: input {name} is {shape}; export it with a batch of any size as its first axis")
    return Built(OnnxNetwork(session), not_hookable=_WHY, engine="onnxruntime", onnx=path, takes=tuple(session.takes))


class OnnxNetwork(nn.Module):
    """A session as a network: tensors in, a tensor out, or a dict of several by their names."""

    def __init__(self, session: OnnxSession) -> None:
        super().__init__()
        self.session = session

    def forward(self, *arguments: Tensor) -> Tensor | dict[str, Tensor]:
        """Runs it."""
        outputs = [torch.from_numpy(output) for output in self.session.run([argument.numpy() for argument in arguments])]
        return outputs[0] if len(outputs) == 1 else dict(zip(self.session.gives, outputs, strict=True))
