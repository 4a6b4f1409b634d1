"""How glibc, OpenMP and garbage collection are set up in a process that only serves. A user's own process is left as it is."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_MIB = 1 << 20
_MALLOC = {  # the environment's name, the number in malloc.h, our value
    "MALLOC_MMAP_THRESHOLD_": (-3, 128 * _MIB),
    "MALLOC_TRIM_THRESHOLD_": (-1, 256 * _MIB),
    "MALLOC_ARENA_MAX": (-8, 1),
}


def wait_briefly() -> None:
    """Lets OpenMP's threads spin for some tens of microseconds between two loops, then sleep. Call it before PyTorch is loaded.

    By their default they spin for milliseconds, on CPUs that other calls need. Between two layers the shorter time is enough.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


@contextmanager
def made_to_stay() -> Iterator[None]:
    """What is made in it, as modules that are imported, Python's garbage collection does not look through, now or later.

    To look through PyTorch's modules alone takes it 0.1 s, in which the process answers nobody.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_freed_blocks() -> None:
    """Lets glibc keep freed blocks of up to 128 MiB for the next call, up to 256 MiB of them at the end of its one heap.

    By its defaults it hands large blocks back to the system, and each tensor faults new pages in. What the environment sets stays
    as it is. Does nothing where malloc has no such settings.
    """
    mallopt = _of_glibc("mallopt")
    for name, (parameter, value) in _MALLOC.items():
        if mallopt and name not in os.environ:
            mallopt(parameter, value)


def hand_back_freed_blocks() -> None:
    """Has glibc hand all freed blocks back to the system now: to load a model takes many times what it needs afterwards."""
    if malloc_trim := _of_glibc("malloc_trim"):
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., Any] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
