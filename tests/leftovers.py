"""What lives in this process, counted: tensors, the server's objects, graphs of autograd, threads; and what hangs on a network."""

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import GeneratorType, TracebackType
from typing import Any

from torch import Tensor, nn

from cutaway_server.metrics import Tally
from server_process import wait_until

POOLS = ("introspect", "call", "stream")  # a server's pools make threads when calls come, and keep them until its end


@dataclass(frozen=True)
class Census:
    """All that is alive.

    Attributes:
        things: tensors by type and shape, the server's objects by type, its generators and tracebacks, and nodes of autograd.
        tensor_bytes: of all storages of tensors, each counted once.
        threads: by name, without those of the pools.
    """

    things: Counter[str]
    tensor_bytes: int
    threads: Counter[str]

    def beyond(self, before: "Census") -> dict[str, Any]:
        """What there is more of than before; empty where there is nothing."""
        more = {**(self.things - before.things), **(self.threads - before.threads)}
        if (size := self.tensor_bytes - before.tensor_bytes) > 0:
            more["bytes of tensors"] = size
        return more


def census(*, collect: bool = True) -> Census:
    """Counts.

    Args:
        collect: whether the garbage collector runs first; without it, what only waits for the collector counts too.
    """
    if collect:
        gc.collect()
    things: Counter[str] = Counter()
    storages: dict[int, int] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, Tensor):
            things[f"{kind.__name__} {list(thing.shape)}"] += 1
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif name := _name(thing, kind):
            things[name] += 1
    threads = Counter(f"thread {thread.name}" for thread in threading.enumerate() if not thread.name.startswith(POOLS))
    return Census(things, sum(storages.values()), threads)


def assert_nothing_beyond(before: Census, *, collect: bool = True) -> None:
    """Waits until nothing more is alive than before: ends are asynchronous.

    Args:
        collect: whether the garbage collector runs first. Without it only tensors are looked at.
    """
    more: dict[str, Any] = {}

    def nothing_more() -> bool:
        nonlocal more
        more = census(collect=collect).beyond(before)
        if not collect:
            more = {name: count for name, count in more.items() if "ensor" in name}
        return not more

    with suppress(AssertionError):
        wait_until(nothing_more, 5)
    assert not more, f"left over: {more}"


@contextmanager
def only_what_is_new() -> Iterator[None]:
    """In the block a census leaves out what is alive now, which makes it quick."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def hooks_of(network: nn.Module) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Every hook that a forward pass of the network would meet: those of its modules, and PyTorch's global ones."""
    places = [(path, vars(module)) for path, module in network.named_modules()] + [("global", vars(nn.modules.module))]
    return [
        (path, name, tuple(hooks.copy().values()))
        for path, members in places
        for name, hooks in members.items()
        if name.endswith("_hooks") and isinstance(hooks, dict) and hooks
    ]


def _name(thing: Any, kind: type) -> str:
    """What it counts as; empty where it is none of the server's doing."""
    if kind is Tally:  # stay, one for each set of labels, as Prometheus's own do
        return ""
    if str(kind.__module__).startswith("cutaway_server"):
        return kind.__name__
    if kind.__name__.rstrip("0123456789").endswith("Backward") and kind.__module__ == "builtins":
        return f"autograd {kind.__name__}"
    if kind is GeneratorType and "cutaway_server" in thing.gi_code.co_filename:
        return f"generator {thing.gi_code.co_qualname}"
    if kind is TracebackType and "cutaway_server" in thing.tb_frame.f_code.co_filename:
        return f"traceback through {thing.tb_frame.f_code.co_qualname}"
    return ""
