"""From a folder with a `model.yaml` to a model that is ready."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from cutaway_server.models.device import pick_device
from cutaway_server.models.model import InputSpec, Model, NotServable
from cutaway_server.models.prepare import prepare
from cutaway_server.models.preprocessing import ImageSpec, preprocess_all, sample_picture
from cutaway_server.models.presets import PRESETS
from cutaway_server.models.repository.files import checked_digest, file_in, read_bounded
from cutaway_server.models.repository.labels import read_labels
from cutaway_server.models.repository.manifest import MANIFEST, MAX_BYTES, Image, Input, Manifest, Network, read_manifest
from cutaway_server.models.repository.onnx_files import onnx_files
from cutaway_server.models.repository.torch_settings import kept_settings
from cutaway_server.models.repository.weights import fit_state, read_state
from cutaway_server.models.sources.built import Built
from cutaway_server.models.sources.exported import build_from_exported
from cutaway_server.models.sources.factory import build_from_factory
from cutaway_server.models.sources.module_file import build_from_module
from cutaway_server.models.sources.onnx import build_from_onnx
from cutaway_server.models.sources.torchscript import build_from_torchscript

log = structlog.get_logger()


@dataclass(frozen=True)
class Permissions:
    """What the operator lets model folders do.

    Attributes:
        code: whether files of theirs that are programs may run.
        factories: callables, as PACKAGE.MODULE:NAME, beyond the builders of torchvision and timm.
    """

    code: bool = False
    factories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hardware:
    """What a model runs on, where its own `model.yaml` does not say.

    Attributes:
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads of a forward pass of Predict.
        fixed: whether it is this device whatever `model.yaml` says.
    """

    device: str = "cpu"
    threads: int = 1
    fixed: bool = False


def manifest_of(folder: Path) -> Manifest:
    """What the `model.yaml` in a folder says.

    Raises:
        NotServable: there is none, or it says something else than it may.
    """
    if not any(folder.iterdir()):
        raise NotServable("the folder is empty; it needs a model.yaml")
    return read_manifest(read_bounded(file_in(folder, MANIFEST), MAX_BYTES))


@kept_settings()
def load(folder: Path, name: str, version: str, permissions: Permissions, hardware: Hardware, *, look_inside: bool = True) -> Model:
    """The model in a folder, on its device, prepared and checked.

    Args:
        look_inside: whether its layers are listed and mirrored; without that it can only predict.

    Raises:
        NotServable: says why, in one line that callers may read.
    """
    manifest = manifest_of(folder)
    threads = manifest.serving.threads or hardware.threads
    built, network_digest = _build(folder, manifest.network, f"cutaway_model_{name}_{version}", permissions, threads)
    weights_digest = _load_weights(folder, manifest, built.network)
    own = None if hardware.fixed else manifest.serving.device
    device = pick_device("cpu" if manifest.network.onnx else own or hardware.device)
    network = built.network.to(device)
    names = built.takes or _parameters(network)
    inputs = tuple(_spec(given, position, names) for position, given in enumerate(manifest.inputs))
    _check_names(inputs)
    autocast = getattr(torch, manifest.serving.autocast) if manifest.serving.autocast else None

    def prepared(factory: Callable[[], nn.Module] | None) -> Model:
        return prepare(
            network,
            name=name,
            version=version,
            inputs=inputs,
            head=manifest.head,
            scores_kind=manifest.scores_kind,
            labels=read_labels(folder, manifest.labels),
            factory=factory,
            autocast=autocast,
            not_hookable=built.not_hookable or ("" if look_inside else "it was not looked into"),
            file_digest=weights_digest or network_digest,
            engine=built.engine,
            onnx=built.onnx,
        )

    model = prepared(built.factory)
    if model.not_introspectable and built.factory and look_inside:
        copied = prepared(None)  # networks whose factory gives none like it may be mirrored all the same
        model = model if copied.not_introspectable else copied
    _check_finite(model)
    return replace(model, weights_digest=network_digest, file_bytes=built.file_bytes) if manifest.network.onnx else model


def _build(folder: Path, network: Network, unique: str, permissions: Permissions, threads: int) -> tuple[Built, str]:
    """The network without its weights, and the digest of the file it is in; none where that is not in one."""
    if network.factory:
        return build_from_factory(network.factory, network.arguments, permissions.factories), ""
    assert network.file
    path = file_in(folder, network.file)
    if not network.onnx and not permissions.code:
        raise NotServable(
            f"{network.file} is a program, or can hold one, and is not read; the operator allows that by --allow-code"
        )
    if network.onnx:
        files = onnx_files(path)
        digest = files.checked_digest(network.file, network.sha256)
        return replace(build_from_onnx(path, threads), file_bytes=files.bytes), digest
    digest = checked_digest(path, network.file, network.sha256)
    if network.module:
        return build_from_module(path, network.callable, network.arguments, unique), digest
    if network.exported:
        return build_from_exported(path), digest
    return build_from_torchscript(path), digest


def _load_weights(folder: Path, manifest: Manifest, network: nn.Module) -> str:
    """Puts the weights into the network; the digest of their file."""
    weights = manifest.weights
    if weights is None:
        count = sum(parameter.numel() for parameter in network.parameters())
        if count and manifest.network.has_weights_apart:
            raise NotServable(
                f"the network has {count:,} parameters, and no weights for them: name their file as weights in model.yaml, or by "
                "--weights of `cutaway model add`"
            )
        return ""
    path = file_in(folder, weights.file)
    digest = checked_digest(path, weights.file, weights.sha256)
    fit_state(network, read_state(path, weights.file), weights.file, strict=weights.strict)
    return digest


def _spec(given: Input, position: int, names: Sequence[str]) -> InputSpec:
    image = image_spec(given.image) if given.image else None
    sizes: list[int | list[int]] = list(given.shape or ())
    if image and not sizes:
        sizes = [image.channels, image.height, image.width]
    ends = [size if isinstance(size, list) else [size, size] for size in sizes]
    varies = any(low != high for low, high in ends)
    spec = InputSpec(
        name=given.name or (names[position] if position < len(names) else f"x{position or ''}"),
        dtype=getattr(torch, given.dtype),
        shape=(-1, *(low if low == high else -1 for low, high in ends)),
        image=image,
        least=(1, *(low for low, _ in ends)) if varies else (),
        most=(1, *(high for _, high in ends)) if varies else (),
    )
    if image and not spec.fits((1, image.channels, image.height, image.width)):
        made = [image.channels, image.height, image.width]
        raise NotServable(f"model.yaml: inputs.{position}: the image gives {made}, which the shape {sizes} does not take")
    return spec


def _check_names(inputs: Sequence[InputSpec]) -> None:
    names = [spec.name for spec in inputs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise NotServable(f"model.yaml: two inputs are {twice.pop()!r}, one of them by the network itself; name both")


def image_spec(image: Image) -> ImageSpec:
    """What a preset, or settings, or both say.

    Raises:
        NotServable: settings are missing, or do not go together.
    """
    settings = {**vars(PRESETS[image.preset])} if image.preset else {"range": (0.0, 1.0), "invert_bright_background": False}
    given = {name: value for name, value in vars(image).items() if name != "preset" and value is not None}
    settings |= {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if missing := [name for name in ImageSpec.__dataclass_fields__ if name not in settings]:
        raise NotServable(f"model.yaml: image: {', '.join(missing)} must be given, or a preset")
    spec = ImageSpec(**settings)
    if len(spec.mean) != spec.channels or len(spec.std) != spec.channels:
        raise NotServable(f"model.yaml: image: mean and std must have {spec.channels} numbers for {spec.color}")
    if 0 < spec.resize_shorter < min(spec.height, spec.width):
        raise NotServable("model.yaml: image: resize_shorter must not be less than the crop, or 0 for no crop")
    if spec.range[0] == spec.range[1]:
        raise NotServable("model.yaml: image: range must have two ends")
    return spec


def _parameters(network: nn.Module) -> list[str]:
    """The names of the forward method's parameters, as far as it tells."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = list(inspect.signature(network.forward).parameters.values())
    except (ValueError, TypeError):  # TorchScript's methods have none that Python sees
        parameters = []
    return [parameter.name for parameter in parameters if parameter.kind in by_position]


def _check_finite(model: Model) -> None:
    _check_scores(model, model.probe(2), "a probe", "its weights are broken")
    if any(spec.image for spec in model.inputs):
        why = "its weights are broken, or it wants another range, mean or std"
        _check_scores(model, _photographed(model), "a photograph", why)


def _photographed(model: Model) -> tuple[Tensor, ...]:
    """Arguments as a photograph, prepared, makes them."""
    arguments = list(model.probe(2))
    for position, spec in enumerate(model.inputs):
        if spec.image:
            with np.errstate(all="ignore"):  # what overflows is told of below
                ready, _ = preprocess_all([sample_picture(spec.image)] * 2, spec.image)
            arguments[position] = ready.to(model.device, spec.dtype)
            if not arguments[position].isfinite().all():
                raise NotServable(
                    f"model.yaml: inputs.{position}: image: a photograph becomes NaN or infinite; check range, mean and std"
                )
    return tuple(arguments)


def _check_scores(model: Model, arguments: tuple[Tensor, ...], of: str, why: str) -> None:
    with torch.no_grad(), model.precision():
        scores = model.scores(model.network, arguments)
    if bad := int((~scores.isfinite()).sum()):
        raise NotServable(f"of the {scores.numel():,} scores for {of} {bad:,} are NaN or infinite: {why}")
