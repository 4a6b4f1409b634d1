"""Tensors out of files that hold more than tensors, without running what else they hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway_server.models.model import NotServable
from cutaway_server.models.repository.weights import read_state, state_in


def rescue_state(path: Path, name: str) -> dict[str, Tensor]:
    """As `read_state`; in files of torch.save also beside objects of any kind, and in a whole network.

    PyTorch's own reader for tensors reads them. Whatever else the file names is replaced by a dict that holds what would have been
    given to it, so nothing of the file's choice is imported or called.

    Raises:
        NotServable: what `read_state` says, where that is not enough.
    """
    try:
        return read_state(path, name)
    except NotServable as refused:
        try:
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(_Inert, found) for found in foreign]):
                content = torch.load(path, map_location="cpu", weights_only=True)
            content = _state_of(content)
            return state_in(
                {key: _state_of(value) for key, value in content.items()} if isinstance(content, dict) else content, name
            )
        except NotServable:
            raise
        except Exception:  # not of that format, or it names what PyTorch blocks even so, as os.system
            raise refused from None


class _Inert(dict[Any, Any]):
    """Stands for an object of any other class: takes its state, and does nothing."""

    def __new__(cls, *given: object, **named: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *given: object, **named: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.update(state)


def _state_of(value: Any) -> Any:
    """The state dict of what was a network; other values as they are."""
    return dict(_tensors_of(value, "")) if isinstance(value, _Inert) and "_modules" in value else value


def _tensors_of(module: dict[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """What a module's own `state_dict` would give, from its attributes."""
    passing = module.get("_non_persistent_buffers_set") or ()
    for name, tensor in {**module["_parameters"], **module["_buffers"]}.items():
        if isinstance(tensor, Tensor) and name not in passing:
            yield prefix + name, tensor
    for name, child in module["_modules"].items():
        if isinstance(child, _Inert):
            yield from _tensors_of(child, f"{prefix}{name}.")
