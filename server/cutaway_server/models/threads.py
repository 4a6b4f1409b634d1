"""How much of the CPU each of our threads takes."""

import os
import sys
import threading

import torch

_LESS = 10  # nice: at 0 a thread has nine times the CPU time of one at 10, where both want it


def use_cpu_threads(count: int) -> None:
    """Lets PyTorch use so many CPU threads in the thread that calls this.

    Each thread in which it uses more than one has a team of OpenMP threads of its own. As soon as all teams together have more
    threads than there are CPUs, idle ones sleep at once and not after a while: with two teams of two on two CPUs a forward pass
    takes two to three times as long as with one. So what need not have a team should use 1.
    """
    torch.get_num_threads()  # or the thread's first parallel loop would take over what another thread has set last
    torch.set_num_threads(count)


def give_way() -> None:
    """Lets the threads that answer Predict go first, where CPUs are short. Does nothing where threads have no priority apart."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LESS)
