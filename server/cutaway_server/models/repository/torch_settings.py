"""Settings of PyTorch that hold beyond the model that changes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cutaway_server.models.model import NotServable

_Setting = tuple[str, Callable[[], Any], Callable[[Any], object]]
_SETTINGS: tuple[_Setting, ...] = (
    ("torch.set_default_dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("torch.set_default_device", torch.get_default_device, lambda device: torch.set_default_device(_unset_if_cpu(device))),
    ("torch.set_grad_enabled", torch.is_grad_enabled, torch.set_grad_enabled),
    ("torch.set_num_threads", torch.get_num_threads, torch.set_num_threads),
    ("torch.use_deterministic_algorithms", torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
)


@contextmanager
def kept_settings() -> Iterator[None]:
    """Puts back what is changed meanwhile, whatever else happens. Also a decorator.

    Raises:
        NotServable: something was changed, by which other models would compute otherwise.
    """
    before = [read() for _, read, _ in _SETTINGS]
    try:
        yield
    finally:
        changed = [(name, write, value) for (name, read, write), value in zip(_SETTINGS, before, strict=True) if read() != value]
        for _, write, value in changed:
            write(value)
        if changed:
            named = ", ".join(name for name, _, _ in changed)
            raise NotServable(f"loading it changes {named}, which holds for other models, too; leave it, or put it back at once")


def _unset_if_cpu(device: torch.device) -> torch.device | None:
    return None if device == torch.device("cpu") else device  # what is set, if only to the CPU, intercepts every call
