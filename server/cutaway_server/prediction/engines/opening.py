"""From the choice of an engine to the engine."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.model import Model, NotServable
from cutaway_server.models.onnx_session import OnnxSession
from cutaway_server.models.sources.onnx import OnnxNetwork
from cutaway_server.prediction.batcher import Engine
from cutaway_server.prediction.engines.cuda_graphs import CudaGraphs
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.prediction.engines.onnxruntime import OnnxRuntime
from cutaway_server.prediction.engines.openvino import OpenVino

RUNTIMES = ("onnxruntime", "openvino")
"""Engines that run an ONNX file of the network."""


def installed(runtime: str) -> bool:
    """Whether an engine's package is there."""
    return find_spec(runtime) is not None


def open_engine(model: Model) -> Engine:
    """What runs Predict for a model, as was chosen.

    Raises:
        NotServable: its file is not there any more, or not what was checked, or does not open.
    """
    choice = model.engine
    if choice.name == CudaGraphs.name:
        return CudaGraphs(model)
    if choice.file is None:
        network = model.network
        return OnnxRuntime(network.session, _output(model)) if isinstance(network, OnnxNetwork) else Eager(model)
    source = checked(choice.file, choice.sha256) if choice.sha256 else choice.file
    return open_runtime(choice.name, source, choice.threads, _output(model))


def open_runtime(name: str, source: Path | bytes, threads: int, output: str) -> Engine:
    """One of `RUNTIMES` with an ONNX file, or what is in it.

    Raises:
        NotServable: it is not installed, or does not read the file.
    """
    if name == "openvino":
        return OpenVino(source, threads, output)
    return OnnxRuntime(OnnxSession(source, threads), output)


def is_whole(choice: EngineChoice) -> bool:
    """Whether the file that an engine runs is still what was checked."""
    try:
        if choice.file and choice.sha256:
            checked(choice.file, choice.sha256)
    except NotServable:
        return False
    return True


def checked(file: Path, sha256: str) -> bytes:
    """What is in a file.

    Raises:
        NotServable: it is not there, or its digest is another.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise NotServable("the file of its engine cannot be read any more") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise NotServable("the file of its engine is not what was checked")
    return content


def _output(model: Model) -> str:
    """The scores among the outputs of the model's ONNX file: an export of ours has no others."""
    return model.head if isinstance(model.network, OnnxNetwork) else ""
