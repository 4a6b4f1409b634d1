"""Whatever the network computes in, maps are float32, by float32's arithmetic on the network's own activations and gradients."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway_server.introspection.cam import METHODS
from cutaway_server.introspection.cam.method import Join

from .formulas import OF_GRADIENTS, principal
from .served import Served, apart, served

AT_A_LAYER = [name for name in OF_GRADIENTS if not METHODS[name].at_input and name != "finer-cam"]


class Cast(nn.Module):
    """Takes float32, which numpy knows."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self._dtype)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16, torch.float64], ids=str)
def running(request: pytest.FixtureRequest) -> Iterator[Served]:
    torch.manual_seed(9)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    network = nn.Sequential(Cast(request.param), *layers).to(request.param)
    with served(network, torch.randn(3, 3, 10, 12)) as running:
        yield running


@pytest.mark.parametrize("method", AT_A_LAYER)
@pytest.mark.parametrize("layer", ["2", "4"])
def test_arithmetic_is_float32(running: Served, method: str, layer: str) -> None:
    cam = cutaway.Cam(method, layer, class_index=running.classes, relu=False)
    seen = running.look(cam, layers=[layer], gradients=[cutaway.Capture(layer, class_index=running.classes)])
    activation, gradient = (of[layer].astype(float) for of in (seen.activations, seen.gradients))
    parts = OF_GRADIENTS[method](activation, gradient)
    expected = principal(parts) if METHODS[method].join is Join.PRINCIPAL else parts.sum(1)
    assert apart(seen.cams[0].map, expected) <= 5e-7


def test_cam_takes_the_head_as_it_is(running: Served) -> None:
    seen = running.look(cutaway.Cam("cam", "4", class_index=running.classes), layers=["4"])
    rows = running.network()[-1].weight.detach().double().numpy()[running.classes]
    expected = np.einsum("nc,nchw->nhw", rows, seen.activations["4"].astype(float))
    assert apart(seen.cams[0].map, expected) <= 5e-7


def test_every_method_makes_float32(running: Served) -> None:
    seen = running.look(*(cutaway.Cam(method, class_index=running.classes) for method in METHODS))
    for found, method in zip(seen.cams, METHODS, strict=True):
        assert found.method == method
        assert found.map.dtype == np.float32
        assert np.isfinite(found.map).all()
        assert found.map.any()
