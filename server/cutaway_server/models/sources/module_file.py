"""Networks that a Python file of the model's folder makes. A program: only where the operator allows that."""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from cutaway_server.models.model import NotServable, said
from cutaway_server.models.sources.built import Built


def build_from_module(path: Path, function: str, arguments: Mapping[str, Any], unique: str) -> Built:
    """Runs a file, and calls the function in it that makes the network.

    Args:
        unique: the name that the module gets in this process, so that two models' files stay apart.
    Raises:
        NotServable: it fails, lacks the function, or that makes no network.
    """
    module = ModuleType(unique)
    module.__file__ = str(path)
    sys.modules[unique] = module  # dataclasses, and torch itself, look their module up there
    try:
        # No import: that would write into the folder, and would run a compiled file that lies there instead of this one.
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
        make = getattr(module, function)
        once = partial(make, **arguments)
        network = once()
    except Exception as error:  # whatever a stranger's file raises
        raise NotServable(f"{path.name}, {function}(): {type(error).__name__}: {said(error)}") from error
    if not isinstance(network, nn.Module):
        raise NotServable(f"{path.name}, {function}(): gives a {type(network).__name__}, not a network")
    return Built(network, once)
