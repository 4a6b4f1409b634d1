"""A client in a process of its own that reads the beginning of a stream and then nothing more."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PROGRAM = """
import sys, numpy as np, cutaway
from cutaway import Cam, Capture
x = np.zeros({shape}, np.float32)
x.flat[0] = {mark}
with cutaway.Client({address!r}) as client, client.introspect_stream({model!r}, x, **{wanted!r}) as events:
    next(events)
    print("reading", flush=True)
    sys.stdin.read()
"""


@contextmanager
def reader_that_stops(
    address: str, model: str, shape: tuple[int, ...], mark: float = 0.0, **wanted: Any
) -> Iterator["subprocess.Popen[str]"]:
    """The process, which has read one event; it ends with the block.

    Args:
        shape: of its input, all 0 but for the first element, which is `mark`.
        wanted: as for `cutaway.Client.introspect_stream`.
    """
    program = _PROGRAM.format(address=address, model=model, shape=shape, mark=mark, wanted=wanted)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        yield reader
