"""Networks by the names of builders: torchvision's and timm's without weights from the net, others only where they are allowed."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from cutaway_server.models.model import NotServable
from cutaway_server.models.sources.factory import build_from_factory
from torchvision_shim import models

pytestmark = pytest.mark.usefixtures("no_net")
BUILDERS = {name: models.get_model_builder(name) for name in models.list_models()}


def some() -> Iterator[str]:
    """One builder of each of torchvision's modules, and all that could fetch a backbone."""
    seen = set()
    for name, builder in sorted(BUILDERS.items(), reverse=True):  # resnet18 after resnet50: the later names are the larger ones
        if "weights_backbone" in builder.__wrapped__.__annotations__ or builder.__module__ not in seen:
            seen.add(builder.__module__)
            yield f"{builder.__module__.rpartition('.')[0]}:{name}"


def build(factory: str, *allowed: str, **arguments: object) -> nn.Module:
    return build_from_factory(factory, arguments, allowed).network


@pytest.mark.parametrize("factory", sorted(some()))
def test_torchvision_without_the_net(factory: str, tmp_path: Path) -> None:
    with torch.device("cpu" if "regnet" in factory else "meta"):  # regnets read their widths from tensors
        network = build(factory)
    expected = BUILDERS[factory.partition(":")[2]].__annotations__["return"]
    assert isinstance(network, expected if isinstance(expected, type) else nn.Module)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto"])
def test_timm_without_the_net(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = build(f"timm:{name}", num_classes=7)
    assert network.get_classifier().out_features == 7
    assert not (tmp_path / "fetched").exists()


def test_the_guard_would_notice() -> None:
    import timm  # after the shim: it imports torchvision

    with pytest.raises(AssertionError, match="wants the net"):
        models.resnet18(weights="DEFAULT")
    with pytest.raises(Exception, match=r"wants the net|huggingface_hub"):  # timm says that its downloader is not installed
        timm.create_model("resnet18", pretrained=True)


def test_keyword_arguments_reach_the_builder() -> None:
    with torch.device("meta"):
        network = build("torchvision.models:resnet18", num_classes=5, zero_init_residual=True)
        dense = build("torchvision.models.segmentation:fcn_resnet50", num_classes=3, aux_loss=True)
    assert network.fc.out_features == 5
    assert dense.classifier[-1].out_channels == dense.aux_classifier[-1].out_channels == 3


def test_the_factory_makes_it_anew() -> None:
    built = build_from_factory("torchvision.models:squeezenet1_1", {"num_classes": 2}, ())
    again = built.factory()
    assert again is not built.network
    assert again.state_dict().keys() == built.network.state_dict().keys()


@pytest.mark.parametrize("place", ["torchvision.models:resnet18", "torchvision.models.segmentation:fcn_resnet50", "timm:resnet18"])
@pytest.mark.parametrize(
    "argument",
    [
        *("weights", "weights_backbone", "pretrained", "pretrained_backbone", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("checkpoint_path", "cache_dir"),
    ],
)
@pytest.mark.parametrize("value", [None, "DEFAULT", {"file": "/etc/hostname"}])
def test_arguments_that_would_fetch_or_read_weights(place: str, argument: str, value: object) -> None:
    with pytest.raises(NotServable, match=f"the argument {argument} is not taken: weights come from the model's own folder alone"):
        build(place, **{argument: value})


@pytest.mark.parametrize(
    "factory",
    [
        "torchvision.models:get_model_weights",
        "torchvision.models:get_model",
        "torchvision.models:ResNet",
        "torchvision.models:resnet",
        "torchvision.models:list_models",
        "torchvision.models.resnet:resnet18",
        "torchvision.models.resnet:load_state_dict_from_url",
        "torchvision.models.resnet:_resnet",
        "torchvision.models._api:get_model",
        "torchvision.models._utils:IntermediateLayerGetter",
        "torchvision.datasets.utils:download_url",
        "torchvision.io:read_file",
        "torchvision:models.resnet18",
        "torchvision:_internally_replaced_utils.load_state_dict_from_url",
        "torchvision.:resnet18",
        "torchvision.models.:resnet18",
        "torchvision.models:resnet18.__globals__",
        "torchvision.models:resnet18.__wrapped__",
        "torchvision..models:resnet18",
        "timm:create_model",
        "timm:list_models",
        "timm:models.resnet18",
        "timm:hf-hub.timm",
        "timm:local-dir.models",
    ],
)
def test_nothing_else_of_torchvision_and_timm(factory: str) -> None:
    before = set(sys.modules)
    place, _, name = factory.partition(":")
    with pytest.raises(NotServable, match=f"^{re.escape(place)} has no model '{re.escape(name)}'"):
        build(factory)
    assert not {module for module in set(sys.modules) - before if module.startswith(("torchvision.datasets", "torchvision.io"))}


def test_an_attribute_is_no_pretrained_tag() -> None:
    with pytest.raises(NotServable, match=r"timm:resnet18\.__class__ fails: RuntimeError: Invalid pretrained tag"):
        build("timm:resnet18.__class__")


@pytest.mark.parametrize(
    "factory",
    [
        "timm.models:load_checkpoint",
        "timm.models:resnet18",
        "timm.models._hub:load_state_dict_from_hf",
        "torch.hub:load",
        "torch.hub:load_state_dict_from_url",
        "torch.nn:Linear",
        "torch:load",
        "os:system",
        "builtins:exec",
        "importlib:import_module",
        "Torchvision.models:resnet18",
        "torchvision_extra:resnet18",
        ".torchvision:resnet18",
        "cutaway_server.models.sources.factory:import_module",
    ],
)
def test_any_other_callable_is_not_allowed(factory: str) -> None:
    with pytest.raises(
        NotServable, match=f"^factory {re.escape(factory)} is not allowed; the operator allows it by --allow-factory"
    ):
        build(factory)


PACKAGE = """
from torch import nn
from pathlib import Path
Path(__file__).with_name("imported").touch()

def build(**arguments): return nn.Linear(4, arguments.get("classes", 2))
def nothing(): return None
def fails(): raise FileNotFoundError("no file /home/somebody/weights/a.bin here")

class Holder:
    @staticmethod
    def make(): return nn.Linear(4, 3)

constant = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "nets_of_ours.py").write_text(PACKAGE)
    (tmp_path / "broken_nets.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"
    sys.modules.pop("nets_of_ours", None)


def test_another_callable_by_that_very_name(package: Path) -> None:
    for allowed in ((), ("nets_of_ours",), ("nets_of_ours:Build",), ("nets_of_ours:Holder",), ("*",), ("nets_of_ours:*",)):
        for factory in ("nets_of_ours:build", "nets_of_ours:Holder.make"):
            with pytest.raises(NotServable, match="is not allowed"):
                build(factory, *allowed)
    assert not package.exists(), "what is not allowed is not imported either"
    assert build("nets_of_ours:build", "nets_of_ours:build", classes=9).out_features == 9
    assert build("nets_of_ours:Holder.make", "nets_of_ours:Holder.make").out_features == 3


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("nets_of_ours:nothing", "gives a NoneType, not a network"),
        ("nets_of_ours:constant", "is a int, which cannot be called"),
        ("nets_of_ours:missing", "cannot be imported: AttributeError: module 'nets_of_ours' has no attribute 'missing'"),
        ("no_such_package:build", "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
        ("broken_nets:build", "cannot be imported: RuntimeError: not today"),
        ("nets_of_ours:fails", r"fails: FileNotFoundError: no file a\.bin here$"),
    ],
)
@pytest.mark.usefixtures("package")
def test_one_that_is_allowed_and_does_not_do(factory: str, says: str) -> None:
    with pytest.raises(NotServable, match=f"^factory {factory} {says}"):
        build(factory, factory)


@pytest.mark.parametrize(
    ("factory", "meant"),
    [
        ("torchvision.models:resnet81", "torchvision.models:resnet18"),
        ("torchvision.models.resnet:resnet18", "torchvision.models:resnet18"),
        ("torchvision.models:fcn_resnet50", "torchvision.models.segmentation:fcn_resnet50"),
        ("timm:mobilnetv3_small_050", "timm:mobilenetv3_small_050"),
    ],
)
def test_a_name_that_is_close(factory: str, meant: str) -> None:
    with pytest.raises(NotServable, match=f"did you mean .*{re.escape(meant)}"):
        build(factory)


def test_an_argument_that_the_builder_does_not_take() -> None:
    with pytest.raises(NotServable, match=r"resnet18 fails: TypeError: .* unexpected keyword argument 'frobnicate'"):
        build("torchvision.models:resnet18", frobnicate=1)
    with pytest.raises(NotServable, match="resnet18 fails: TypeError"):
        build("torchvision.models:resnet18", name="resnet50")
    with pytest.raises(NotServable, match="resnet18 fails: TypeError"):
        build("timm:resnet18", model_name="resnet50")


def test_what_a_builder_says_of_an_argument_that_is_no_text() -> None:
    with pytest.raises(NotServable, match=r"resnet18 fails: ValueError: .*3-element tuple, got \?$") as error:
        build("torchvision.models:resnet18", replace_stride_with_dilation="\ud800")
    assert str(error.value).encode(), "no message could carry half a character"
