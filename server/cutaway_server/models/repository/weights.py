"""Weights from files that run no code, fitted to a network."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cutaway_server.models.model import NotServable, said

log = structlog.get_logger()
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "net",
    "network",
)  # keys that training scripts save one under
_NAMED = 8  # keys that one message lists


def read_state(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or one that torch.save wrote, by itself or within a checkpoint.

    Args:
        name: of the file, for messages.
    Raises:
        NotServable: it is neither, or would have to be unpickled; says what converts it.
    """
    if name.endswith(".safetensors"):
        try:
            return load_file(path)
        except Exception as error:  # safetensors' own, and KeyError for a dtype that PyTorch lacks
            raise NotServable(f"{name} is no whole safetensors file: {said(error)}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types, of zip, pickle and torch
        raise NotServable(f"{name} {_why_not_read(str(error))}") from None  # it speaks at length, of running what is refused here
    return state_in(content, name)


def _why_not_read(said_by_torch: str) -> str:
    if named := re.search(r"GLOBAL (\S+)", said_by_torch):
        return (
            f"holds more than tensors ({named[1]}), and reading that can run code, so it is not read; `cutaway model convert FILE "
            "weights.safetensors` takes the tensors out where it can without running anything; so does, where you trust the file, "
            "torch.save(network.state_dict(), FILE)"
        )
    if "TorchScript" in said_by_torch:
        return "is a TorchScript archive, which brings its own network: name it as `network: {torchscript: FILE}`, without weights"
    return (
        "is no whole file of torch.save; other pickles are not read, for that can run code: where you trust it, write its tensors "
        "by torch.save(state_dict, FILE)"
    )


def state_in(content: Any, name: str) -> dict[str, Tensor]:
    """The state dict that a file's content is, or holds under one of the usual keys.

    Raises:
        NotServable: there is none.
    """
    for key in ("", *_WRAPPERS):
        state = content if not key else content.get(key) if isinstance(content, Mapping) else None
        if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
            return {str(path): value for path, value in state.items()}
    if isinstance(content, Mapping) and not content:
        return {}
    keys = ", ".join(map(repr, list(content)[:_NAMED])) if isinstance(content, Mapping) else type(content).__name__
    raise NotServable(f"{name} holds no state dict, by itself or under one of {', '.join(_WRAPPERS)}; it holds {keys}")


def fit_state(network: nn.Module, state: dict[str, Tensor], name: str, *, strict: bool) -> None:
    """Loads a state dict into a network. A prefix that all keys share and the network lacks, as `module.`, is taken off.

    Raises:
        NotServable: keys or shapes that do not fit; names them.
    """
    expected = network.state_dict()
    state = _without_prefix(state, expected)
    shapes = [
        f"{key} is {list(state[key].shape)}, not {list(value.shape)}"
        for key, value in expected.items()
        if isinstance(value, Tensor) and key in state and state[key].shape != value.shape and not is_lazy(value)
    ]
    missing, unexpected = [key for key in expected if key not in state], [key for key in state if key not in expected]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # of files older than that counter
    problems = [
        f"{what}: {_listed(keys)}"
        for what, keys in (("wrong shapes", shapes), ("missing", missing), ("unexpected", unexpected))
        if keys and (strict or what == "wrong shapes")
    ]
    if len(unexpected) == len(state) and expected:
        problems = problems or [f"none of its {len(state):,} keys is one of the network's {len(expected):,}"]
    if problems:
        raise NotServable(f"{name} does not fit the network; {'; '.join(problems)}")
    if missing or unexpected:
        log.warning("weights do not fit in full", file=name, missing=missing, unexpected=unexpected)
    network.load_state_dict(_of_the_networks_version(state, expected), strict=False)


def _of_the_networks_version(state: dict[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    """Mere tensors do not say of which version of their modules they are, and some modules, as MNASNet, insist on it."""
    versioned = OrderedDict(state)
    versioned._metadata = getattr(expected, "_metadata", None)  # type: ignore[attr-defined]
    return versioned


def _without_prefix(state: dict[str, Tensor], expected: Mapping[str, Any]) -> dict[str, Tensor]:
    while state and not any(key in expected for key in state):
        first, dot, _ = next(iter(state)).partition(".")
        prefix = first + dot
        if not dot or not all(key.startswith(prefix) for key in state) or any(key.startswith(prefix) for key in expected):
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED:,} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
