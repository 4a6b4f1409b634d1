"""Networks of installed packages, by name."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import Any

from torch import nn

from cutaway_server.models.model import NotServable, said
from cutaway_server.models.sources.built import Built

# What would fetch weights from the net, or read them from a file of the caller's choice.
_FETCHING = frozenset(
    {
        "weights",
        "weights_backbone",
        "pretrained",
        "pretrained_backbone",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
    }
)


def build_from_factory(factory: str, arguments: Mapping[str, Any], allowed: Collection[str]) -> Built:
    """A network by `torchvision.models:NAME`, `timm:NAME`, or a callable that the operator allows.

    Of torchvision and timm only registered builders of networks can be called, and those never fetch weights.

    Args:
        factory: PACKAGE.MODULE:NAME.
        allowed: such names, of callables beyond those two packages' builders.
    Raises:
        NotServable: it is not allowed, not there, or does not make a network.
    """
    place, _, name = factory.partition(":")
    if factory in allowed:
        make = _allowed(place, name)
    elif place.split(".")[0] == "torchvision":
        make = _torchvision(place, name, arguments)
    elif place == "timm":
        make = _timm(name, arguments)
    else:
        raise NotServable(f"factory {factory} is not allowed; the operator allows it by --allow-factory {factory}")
    once = partial(_made, factory, partial(make, **arguments))
    return Built(once(), once)


def _made(factory: str, make: Callable[[], Any]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # torchvision's, of how weights begin, which a file replaces
            warnings.filterwarnings("ignore", "The default weight initialization of", FutureWarning)
            network = make()
    except Exception as error:  # whatever a stranger's constructor raises
        raise NotServable(f"factory {factory} fails: {type(error).__name__}: {said(error)}") from error
    if not isinstance(network, nn.Module):
        raise NotServable(f"factory {factory} gives a {type(network).__name__}, not a network")
    return network


def _allowed(place: str, name: str) -> Callable[..., Any]:
    try:
        found = attrgetter(name)(import_module(place))
    except Exception as error:  # whatever a stranger's package raises
        raise NotServable(f"factory {place}:{name} cannot be imported: {type(error).__name__}: {said(error)}") from error
    if not callable(found):
        raise NotServable(f"factory {place}:{name} is a {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def _torchvision(place: str, name: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """A registered builder, with no weights for it nor for its backbone."""
    _refuse_fetching(f"{place}:{name}", arguments)
    try:
        models = import_module("torchvision.models")
    except Exception as error:  # RuntimeError where its operators were built against another PyTorch
        raise NotServable(f"torchvision cannot be imported: {type(error).__name__}: {said(error)}") from error
    builders = {known: models.get_model_builder(known) for known in models.list_models()}
    places = {known: builder.__module__.rpartition(".")[0] for known, builder in builders.items()}
    if places.get(name) != place:
        close = [f"{places[known]}:{known}" for known in _closest(name, list(places))]
        raise NotServable(f"{place} has no model {name!r}{_meant(close)}")
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builders[name]).parameters else {}
    return partial(models.get_model, name, weights=None, **backbone)


def _timm(name: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """`timm.create_model` of a registered name: others, as `hf-hub:…`, are addresses on the net."""
    _refuse_fetching(f"timm:{name}", arguments)
    try:
        timm = import_module("timm")
    except Exception as error:
        raise NotServable(f"timm cannot be imported: {type(error).__name__}: {said(error)}") from error
    if not timm.is_model(name):
        close = [f"timm:{known}" for known in _closest(name, timm.list_models())]
        raise NotServable(f"timm has no model {name!r}{_meant(close)}")
    return partial(timm.create_model, name, pretrained=False)


def _refuse_fetching(factory: str, arguments: Mapping[str, Any]) -> None:
    if given := sorted(_FETCHING & arguments.keys()):
        raise NotServable(
            f"factory {factory}: the argument {given[0]} is not taken: weights come from the model's own folder alone"
        )


def _closest(name: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=3, cutoff=0.6)


def _meant(close: list[str]) -> str:
    return f"; did you mean {' or '.join(close)}?" if close else ""
