"""The linear layer on a global average, however it is written and called."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare


class OwnLinear(nn.Linear):
    """As timm's, whose classifiers are of a class of its own: there is an operation inside."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Averaged(nn.Module):
    def __init__(self, linear: type[nn.Linear]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


class ByKeyword(Averaged):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(input=self.conv(x).mean((2, 3)))


def prepared(network: nn.Module) -> Model:
    return prepare(network, name="n", inputs=(InputSpec("x", torch.float32, (-1, 3, 8, 8)),))


@pytest.mark.parametrize("linear", [nn.Linear, OwnLinear])
def test_a_linear_layer_of_any_class(linear: type[nn.Linear]) -> None:
    head = prepared(Averaged(linear)).gap_head
    assert head is not None
    assert (head.linear, head.layers) == ("fc", ("conv",))


def test_a_linear_layer_whose_input_comes_by_keyword() -> None:
    model = prepared(ByKeyword(nn.Linear))
    assert model.not_introspectable == ""
    assert model.gap_head is None
