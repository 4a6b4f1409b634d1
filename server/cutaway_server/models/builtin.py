"""The networks that Cutaway brings along."""

from collections.abc import Callable, Mapping
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import nn

from cutaway_server.models.device import pick_device
from cutaway_server.models.mnist.networks import GapNet, Net
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare
from cutaway_server.models.presets import PRESETS

FACTORIES: Mapping[str, Callable[[], nn.Module]] = {"mnist": Net, "mnist-gap": GapNet}


def load_builtin(name: str, device: str = "cpu") -> Model:
    """One of the networks of `FACTORIES` with its trained weights.

    Raises:
        NotServable: there is no such device.
    """
    network = FACTORIES[name]()
    with as_file(files("cutaway_server.models.mnist") / f"{name}.safetensors") as path:
        network.load_state_dict(load_file(path))
    return prepare(
        network.to(pick_device(device)),
        name=name,
        inputs=(InputSpec("x", torch.float32, (-1, 1, 28, 28), PRESETS["mnist"]),),
        labels=[str(digit) for digit in range(10)],
        factory=FACTORIES[name],
    )
