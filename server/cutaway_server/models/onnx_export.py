"""From a network to an ONNX file.

Tracing changes how PyTorch runs in the whole process, and PyTorch prints what it cannot export: only where nothing serves.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.jit._trace import TracerWarning

from cutaway_server.models.mirror import mirror_by_references
from cutaway_server.models.model import InputSpec, said
from cutaway_server.models.model import probe as draw_probe
from cutaway_server.models.outputs import pick

OPSET = 20  # the highest that the exporter by tracing knows
SCORES = "scores"


class NotExportable(Exception):
    """A network of which no ONNX file can be made that is known to do the same. Says why, in one line."""


def export_onnx(network: nn.Module, inputs: tuple[InputSpec, ...], head: str = "") -> bytes:
    """An ONNX file that gives what Predict does: the scores at `head`, for batches of any size and all sizes of the inputs.

    Args:
        network: on the CPU, in eval mode. It is left as it is.
    Raises:
        NotExportable: it decides by the values of tensors, has operations that ONNX has not, or PyTorch's exporter fails.
    """
    arguments = draw_probe(inputs, 2, torch.device("cpu"))
    # A program keeps its decisions when it is exported; what Python decides is decided once.
    program = isinstance(network, torch.jit.ScriptModule)
    surely_one_way = program or _runs_without_values(network, arguments)
    own = network if program and not head else _Scores(_copy(network), head).eval()
    names = [f"x{position}" for position in range(len(inputs))]
    axes = {name: _free_axes(name, spec) for name, spec in zip(names, inputs, strict=True)}
    with TemporaryDirectory() as folder, _quiet() as warned, torch.no_grad():
        file = Path(folder, "network.onnx")
        try:
            torch.onnx.export(
                own,
                arguments,
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=[SCORES],
                dynamic_axes={**axes, SCORES: {0: "batch"}},
            )
        except Exception as error:  # dozens of types
            raise NotExportable(f"PyTorch cannot export it to ONNX: {type(error).__name__}: {said(error)}") from error
        if list(file.parent.iterdir()) != [file]:
            raise NotExportable("it takes more than the 2 GiB that one ONNX file holds")
        content = file.read_bytes()
    doubts = [str(one.message) for one in warned if issubclass(one.category, TracerWarning)]
    if doubts and not surely_one_way:
        raise NotExportable(f"an export of it may follow one input alone: {doubts[0].splitlines()[0][:200]}")
    return content


class _Scores(nn.Module):
    """A network that gives its scores alone."""

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network = network
        self._head = head

    def forward(self, *arguments: Tensor) -> Tensor:
        return pick(self.network(*arguments), self._head)


def _copy(network: nn.Module) -> nn.Module:
    """A private instance where one can be had: what tracing leaves in it harms nobody."""
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in network.modules())
    return network if scripted else mirror_by_references(network).network


def _free_axes(name: str, spec: InputSpec) -> dict[int, str]:
    return {axis: "batch" if axis == 0 else f"{name}_{axis}" for axis, size in enumerate(spec.shape) if size < 0}


def _runs_without_values(network: nn.Module, arguments: tuple[Tensor, ...]) -> bool:
    """Whether all operations run on tensors that have shapes and no values; False where that cannot be told.

    Raises:
        NotExportable: the network asks for a value. Tracing would keep the way that it takes for one input.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with _quiet(), fake, torch.no_grad():
            _copy(network)(*map(fake.from_tensor, arguments))
    except DataDependentOutputException as error:
        raise NotExportable(
            "it decides by the values of tensors, as `if x.max() > 1` does, and an export would decide the same for all inputs"
        ) from error
    except Exception:  # of whatever cannot run so
        return False
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Collects warnings, and has attention run as operations that ONNX has."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield warned
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
