"""The two built-in networks for 28 x 28 digits: one to watch with hooks, one to draw class activation maps of."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

MEAN = 0.1307
"""Mean of MNIST's training pixels, scaled to 0..1; the tutorial's figure."""

STD = 0.3081
"""Standard deviation of the same. A network's input is `(pixel / 255 - MEAN) / STD`, the digit light on black."""


class Net(nn.Module):
    """The network of the PyTorch hooks tutorial: two convolutions, two linear layers, the rest mostly functional."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the digits 0 to 9.

        Args:
            x: [N, 1, 28, 28], floating, normalised by MEAN and STD.
        Returns:
            [N, 10], dtype and device of the weights.
        """
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = x.view(-1, 320)
        x = F.relu(self.fc1(x))
        # The tutorial writes F.dropout(x): its `training` is True unless told, so that dropout stays on after eval()
        # and one picture gets another answer at every call. Here it obeys eval() like `conv2_drop`.
        x = F.dropout(x, training=self.training)
        x = self.fc2(x)
        return x


class GapNet(nn.Module):
    """Convolutions, a global average, one linear layer: the shape that class activation maps were published for.

    Zhou et al. 2016 (arXiv:1512.04150), equation 2: the map of class c is the last feature map's channels, weighed by
    row c of `fc.weight`. Every convolution is padded and the one pooling divides 28 evenly, so that cell (i, j) of the
    14 x 14 map lies over the pixels 2i, 2i + 1 and 2j, 2j + 1 of the picture.
    """

    def __init__(self) -> None:
        super().__init__()
        # Each ReLU makes a new tensor: an in-place one would overwrite the batch norm's output while one looks at it.
        self.features = nn.Sequential(
            OrderedDict(
                [
                    *_block(1, in_channels=1, out_channels=16),
                    *_block(2, in_channels=16, out_channels=32),
                    ("maxpool", nn.MaxPool2d(2)),
                    *_block(3, in_channels=32, out_channels=48),
                    *_block(4, in_channels=48, out_channels=64),
                    *_block(5, in_channels=64, out_channels=64),
                ]
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the digits 0 to 9.

        Args:
            x: [N, 1, 28, 28], floating, normalised by MEAN and STD.
        Returns:
            [N, 10], dtype and device of the weights.
        """
        x = self.features(x)
        x = self.pool(x)
        x = self.flatten(x)
        x = self.fc(x)
        return x


def _block(number: int, in_channels: int, out_channels: int) -> list[tuple[str, nn.Module]]:
    """A 3 x 3 convolution that keeps height and width, batch norm and ReLU, named for the layer table."""
    return [
        # No bias: the batch norm that follows would subtract it again.
        (f"conv{number}", nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)),
        (f"bn{number}", nn.BatchNorm2d(out_channels)),
        (f"relu{number}", nn.ReLU()),
    ]
