"""Folders of small models, for tests."""

import os
import shutil
import textwrap
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

CLASSES = 5

MODULE = """
    import os, sys, time
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
    **manifest: object,
) -> Path:
    """Writes a version of a model; all at once, as a deployment would: beside, then renamed.

    Args:
        seed: of its weights.
        after: more of its module.py.
        manifest: more of its model.yaml, or other than the usual.
    """
    (root / name).mkdir(parents=True, exist_ok=True)
    beside = root / name / f".{version}"
    fill(beside, seed=seed, hidden=hidden, after=after, **manifest)
    place = root / name / str(version)
    if place.exists():
        os.rename(place, root / name / ".old")
    os.rename(beside, place)
    shutil.rmtree(root / name / ".old", ignore_errors=True)
    return place


def fill(place: Path, *, seed: int = 0, hidden: int = 4, after: str = "", **manifest: object) -> None:
    """Writes the files of a version into a folder."""
    place.mkdir()
    (place / "module.py").write_text(textwrap.dedent(MODULE) + textwrap.dedent(after))
    save_file(weights(seed, hidden), place / "w.safetensors")
    usual = {
        "network": {"module": "module.py", "arguments": {"hidden": hidden}},
        "weights": "w.safetensors",
        "inputs": [{"shape": [1, 8, 8]}],
    }
    (place / "model.yaml").write_text(yaml.safe_dump({**usual, **manifest}))
