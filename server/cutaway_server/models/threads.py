"""How much of the CPU each of our threads takes."""

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LESS = 10  # nice: at 0 a thread has nine times the CPU time of one at 10, where both want it


def available_cpus(root: Path = Path("/")) -> int:
    """How many CPUs this process may keep busy: those that it may run on, or as many as its cgroup's quota pays for.

    Args:
        root: of the file system where /proc and /sys are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [allowed, *_quotas(root)]
    return max(1, math.floor(min(quotas)))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each cgroup above this process pays for, as far as any is limited, of both versions of cgroups."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mounted = [root / "sys/fs/cgroup"] if not controllers else [root / "sys/fs/cgroup" / name for name in (controllers, "cpu")]
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in mounted:
            # In a container the path may be the host's: what is mounted is the container's own cgroup then.
            steps = Path(path.lstrip("/"))
            for folder in dict.fromkeys([base / steps, *((base / parent) for parent in steps.parents)]):
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)


def use_cpu_threads(count: int) -> None:
    """Lets PyTorch use so many CPU threads in the thread that calls this.

    Each thread in which it uses more than one has a team of OpenMP threads of its own. As soon as all teams together have more
    threads than there are CPUs, idle ones sleep at once and not after a while: with two teams of two on two CPUs a forward pass
    takes two to three times as long as with one. So what need not have a team should use 1.
    """
    import torch  # here: to count CPUs takes none of it

    torch.get_num_threads()  # or the thread's first parallel loop would take over what another thread has set last
    torch.set_num_threads(count)


def give_way() -> None:
    """Lets the threads that answer Predict go first, where CPUs are short. Does nothing where threads have no priority apart."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LESS)
