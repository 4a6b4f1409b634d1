"""The networks of the matrix, all with random weights."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import torchvision_shim  # noqa: F401 # first: torchvision imports after it

OWN = "own"  # tests/compatibility/own.py


@dataclass(frozen=True)
class Entry:
    """A network of the matrix.

    Attributes:
        place: PACKAGE.MODULE of torchvision or timm, or OWN.
        name: of the builder or class there.
        shapes: of one sample of each input.
        head: path of the scores, where it gives several tensors.
    """

    place: str
    name: str
    shapes: tuple[tuple[int, ...], ...] = ((3, 64, 64),)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""

    @property
    def title(self) -> str:
        """As the table has it."""
        return self.name if self.place == OWN else f"{self.place}:{self.name}"

    @property
    def model(self) -> str:
        """The name that it is served by."""
        return f"{self.place.replace('.', '-')}-{self.name}"

    @property
    def source(self) -> dict[str, Any]:
        """`network` in model.yaml."""
        if self.place == OWN:
            return {"module": "module.py", "callable": self.name}
        return {"factory": f"{self.place}:{self.name}", "arguments": dict(self.arguments)}

    def build(self) -> nn.Module:
        """The bare network, in eval mode, always with the same weights."""
        torch.manual_seed(0)
        package = importlib.import_module(f"compatibility.{OWN}" if self.place == OWN else self.place)
        if self.place == "timm":
            return _lively(package.create_model(self.name, **self.arguments)).eval().requires_grad_(False)
        builder = getattr(package, self.name)
        backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}
        return _lively(builder(**self.arguments, **backbone)).eval().requires_grad_(False)

    def inputs(self) -> tuple[Tensor, ...]:
        """Two samples of each input."""
        draw = torch.Generator().manual_seed(1)
        return tuple(torch.randn(2, *shape, generator=draw) for shape in self.shapes)


def _lively(network: nn.Module) -> nn.Module:
    """Draws what a network begins with as a constant, such as scales of 0 or 0.000001: whole branches would give nothing."""
    with torch.no_grad():
        for path, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                low, high = (-0.1, 0.1) if path.endswith(("bias", "running_mean")) else (0.5, 1.5)
                tensor.uniform_(low, high)
    return network


def _torchvision(name: str, size: int = 64, **arguments: Any) -> Entry:
    return Entry("torchvision.models", name, ((3, size, size),), {"num_classes": 10, **arguments})


def _timm(name: str) -> Entry:
    return Entry("timm", name, arguments={"num_classes": 10})


def _segmentation(name: str, **arguments: Any) -> Entry:
    return Entry("torchvision.models.segmentation", name, arguments={"num_classes": 5, **arguments}, head="out")


SMALL = [
    _torchvision("mobilenet_v3_small"),
    _torchvision("resnet18"),
    _torchvision("squeezenet1_1"),
    _timm("lcnet_050"),
    Entry(OWN, "Signals", ((2, 100),)),
    Entry(OWN, "TwoInputs", ((3, 32, 32), (4,))),
    Entry(OWN, "Auxiliary", ((3, 32, 32),), head="scores.0"),
]

ALL = [
    *SMALL,
    _torchvision("alexnet"),
    _torchvision("convnext_tiny"),
    _torchvision("densenet121"),
    _torchvision("efficientnet_b0"),
    _torchvision("efficientnet_v2_s"),
    _torchvision("googlenet", init_weights=False),
    _torchvision("inception_v3", 128, init_weights=False),
    _torchvision("mnasnet0_5"),
    _torchvision("mobilenet_v2"),
    _torchvision("mobilenet_v3_large"),
    _torchvision("regnet_x_400mf"),
    _torchvision("regnet_y_400mf"),
    _torchvision("resnet50"),
    _torchvision("resnext50_32x4d"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("squeezenet1_0"),
    _torchvision("swin_t"),
    _torchvision("vgg11"),
    _torchvision("vgg11_bn"),
    _torchvision("vit_b_32", image_size=64),
    _torchvision("wide_resnet50_2"),
    Entry("torchvision.models.video", "r3d_18", ((3, 4, 32, 32),), {"num_classes": 10}),
    _segmentation("deeplabv3_mobilenet_v3_large"),
    _segmentation("fcn_resnet50", aux_loss=True),
    _segmentation("lraspp_mobilenet_v3_large"),
    _timm("convnext_atto"),
    _timm("dla34"),
    _timm("edgenext_xx_small"),
    _timm("efficientnet_lite0"),
    _timm("ese_vovnet19b_dw"),
    _timm("ghostnet_100"),
    _timm("hrnet_w18_small"),
    _timm("mixnet_s"),
    _timm("mobilevit_xxs"),
    _timm("nf_regnet_b0"),
    _timm("repvgg_a0"),
    _timm("res2net50_26w_4s"),
    _timm("selecsls42"),
    _timm("skresnet18"),
]
