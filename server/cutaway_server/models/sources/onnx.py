"""Networks as ONNX, run by ONNX Runtime."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutaway_server.models.model import NotServable, said
from cutaway_server.models.sources.built import Built

_WHY = "it is ONNX, whose layers are no modules; serve the PyTorch network that it was made from instead"


def build_from_onnx(path: Path, threads: int) -> Built:
    """The network in an ONNX file.

    Args:
        threads: CPU threads of one run.
    Raises:
        NotServable: ONNX Runtime is not there, or does not read it, or it takes batches of one size only.
    """
    try:
        import onnxruntime  # here: it takes a while, and few servers need it
    except ImportError as error:
        raise NotServable("ONNX Runtime is not installed: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: they are raised, too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own, one type for each of its status codes
        raise NotServable(f"{path.name} is no ONNX file that ONNX Runtime reads: {said(error)}") from error
    for given in session.get_inputs():
        if not given.shape or isinstance(given.shape[0], int):
            raise NotServable(
                f"{path.name}: input {given.name} is {given.shape}; export it with a batch of any size as its first axis"
            )
    takes = tuple(given.name for given in session.get_inputs())
    return Built(_Session(session), not_hookable=_WHY, engine="onnxruntime", takes=takes)


class _Session(nn.Module):
    """A session as a network: tensors in, a tensor out, or a dict of several by their names."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session = session
        self._takes = [given.name for given in session.get_inputs()]
        self._gives = [given.name for given in session.get_outputs()]

    def forward(self, *arguments: Tensor) -> Tensor | dict[str, Tensor]:
        """Runs it."""
        if len(arguments) != len(self._takes):
            raise TypeError(f"it takes {len(self._takes)} inputs ({', '.join(self._takes)}), not {len(arguments)}")
        feeds = {name: argument.numpy() for name, argument in zip(self._takes, arguments, strict=True)}
        outputs = [torch.from_numpy(output) for output in self._session.run(None, feeds)]
        return outputs[0] if len(outputs) == 1 else dict(zip(self._gives, outputs, strict=True))
