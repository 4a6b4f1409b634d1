"""Leaves in the middle of a forward pass: what a layer puts out becomes the begin of PyTorch's record."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def hold(output: Any) -> tuple[Any, dict[str, Tensor]]:
    """What the network goes on with, and the leaves by path: gradients are taken from there on and no further back.

    The network goes on with clones: an operation in place that follows does not reach what is held. PyTorch records from here
    until the caller's `no_grad()` ends.
    """
    torch.set_grad_enabled(True)
    leaves: dict[str, Tensor] = {}

    def leaf(path: str, tensor: Tensor) -> Tensor:
        if not tensor.dtype.is_floating_point:
            return tensor
        leaves[path] = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
        return leaves[path].clone()

    return _replaced(output, leaf), leaves


def _replaced(value: Any, replace: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    """A nested value with each tensor replaced; the paths are those of `walk.tensors`."""
    if isinstance(value, Tensor):
        return replace(path, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_replaced(member, replace, f"{path}.{i}" if path else str(i)) for i, member in enumerate(value)))
    if isinstance(value, tuple | list):
        return type(value)(_replaced(member, replace, f"{path}.{i}" if path else str(i)) for i, member in enumerate(value))
    if isinstance(value, dict):
        other = copy.copy(value)  # of its own type, which may be more than a dict
        for key, member in value.items():
            other[key] = _replaced(member, replace, f"{path}.{key}" if path else str(key))
        return other
    return value
