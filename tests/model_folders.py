"""Folders of small models, for tests."""

import textwrap
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

CLASSES = 5

MODULE = """
    import ctypes, os, signal, sys, time
    from pathlib import Path

    import torch
    from torch import nn

    IN_TRIAL = sys.modules["__main__"].__spec__.name.endswith("trial")


    class Net(nn.Module):
        def __init__(self, hidden=4):
            super().__init__()
            self.conv = nn.Conv2d(1, hidden, 3)
            self.fc = nn.Linear(hidden, 5)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


    def build(hidden=4):
        return Net(hidden)


    def wait_for(file):
        # Linux tells of what is made in the folder.
        libc, made = ctypes.CDLL(None, use_errno=True), 0x100
        told = libc.inotify_init()
        assert told >= 0 and libc.inotify_add_watch(told, os.fsencode(file.parent), made) >= 0
        while not file.exists():
            os.read(told, 4096)
        os.close(told)
"""

# More of a module.py, whose build takes a folder too. One is loaded only when files in the folder say so, in the trial and in
# the server; one holds every call whose input begins with 7 until a file says so.
GATED = """
    def build(folder, hidden=4):
        if IN_TRIAL:
            wait_for(Path(folder, "try"))
        else:
            Path(folder, "tried").touch()
            wait_for(Path(folder, "load"))
        return Net(hidden)
"""
HOLDING = """
    class Holding(Net):
        def forward(self, x):
            if x.flatten()[0] == 7:
                (self.folder / "held").touch()
                wait_for(self.folder / "go")
            return super().forward(x)


    def build(folder, hidden=4):
        net = Holding(hidden)
        net.folder = Path(folder)
        return net
"""


def image(batch: int = 1, seed: int = 0) -> np.ndarray:
    """[batch, 1, 8, 8] float32, as the models here take it."""
    return np.random.default_rng(seed).standard_normal((batch, 1, 8, 8)).astype(np.float32)


def weights(seed: int, hidden: int = 4) -> dict[str, torch.Tensor]:
    """Of the network in MODULE."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (hidden, 1, 3, 3), "conv.bias": (hidden,), "fc.weight": (CLASSES, hidden), "fc.bias": (CLASSES,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def scores(seed: int, x: np.ndarray, hidden: int = 4) -> np.ndarray:
    """What a model of `add` with this seed answers, computed by PyTorch's functions."""
    w = weights(seed, hidden)
    functional = torch.nn.functional
    features = functional.conv2d(torch.from_numpy(x), w["conv.weight"], w["conv.bias"]).relu().mean((2, 3))
    return functional.linear(features, w["fc.weight"], w["fc.bias"]).numpy()


def add(
    root: Path,
    name: str,
    version: int | str = 1,
    *,
    seed: int = 0,
    hidden: int = 4,
    after: str = "",
    folder: Path | None = None,
    **manifest: object,
) -> Path:
    """Writes a version of a model: beside, then renamed, so that a server sees it whole or not at all.

    Args:
        seed: of its weights.
        after: more of its module.py.
        folder: where the files lie that GATED and HOLDING look for.
        manifest: more of its model.yaml, or other than the usual.
    """
    place = root / name / str(version)
    beside = root / name / f".{version}"
    beside.mkdir(parents=True)
    (beside / "module.py").write_text(textwrap.dedent(MODULE) + textwrap.dedent(after))
    save_file(weights(seed, hidden), beside / "w.safetensors")
    arguments = {"hidden": hidden, **({"folder": str(folder)} if folder else {})}
    usual = {
        "network": {"module": "module.py", "arguments": arguments},
        "weights": "w.safetensors",
        "inputs": [{"shape": [1, 8, 8]}],
    }
    said = {key: value for key, value in {**usual, **manifest}.items() if value is not None}
    (beside / "model.yaml").write_text(yaml.safe_dump(said))
    beside.rename(place)
    return place


def replace_weights(place: Path, seed: int, hidden: int = 4) -> None:
    """Other weights in the folder of a version, at once."""
    save_file(weights(seed, hidden), place / ".w")
    (place / ".w").replace(place / "w.safetensors")
