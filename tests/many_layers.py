"""A server in a process of its own whose network has many layers of one size, and a reader of known speed.

For tests and benchmarks. As a program: python many_layers.py LAYERS [SETTING=VALUE …]
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor, nn

import cutaway_server
from cutaway.v1 import input_pb2, introspect_pb2, tensor_pb2
from cutaway_server.process.tuning import keep_freed_blocks
from server_process import ServerProcess, _started

MIB = 1 << 20
SAMPLES_PER_MIB = 4  # of one layer's output: [N, 4, 128, 128] float32
RAISES = 1234.0  # an input that begins so makes the network raise after its first layer
SLOW = 4321.0  # an input that begins so makes the network compute for long after each layer
SLOWNESS = 0.05  # seconds


class ManyLayers(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.widen = nn.ConvTranspose2d(1, 4, 16, stride=16)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(count))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mark = x[0, 0, 0].item()
        x = self.widen(x.unsqueeze(1))
        for layer in self.layers:
            x = layer(x)
            if mark == RAISES:
                raise RuntimeError("the network's own")
            end = time.monotonic() + (SLOWNESS if mark == SLOW else 0)
            while time.monotonic() < end:
                pass
        return self.head(x.mean((2, 3)))


def picture(mib: int, mark: float = 0.0) -> np.ndarray:
    """An input for which each layer puts out so much."""
    return np.full((mib * SAMPLES_PER_MIB, 8, 8), mark, np.float32)


def all_layers(mib: int) -> introspect_pb2.IntrospectRequest:
    """Asks for the outputs of all layers, so much of each."""
    x = picture(mib)
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes())
    captures = [introspect_pb2.Capture(layer="layers.*")]
    return introspect_pb2.IntrospectRequest(model="many", inputs=[input_pb2.Input(tensor=tensor)], captures=captures)


@contextmanager
def serving(layers: int, *, exact_memory: bool = False, **settings: object) -> Iterator[ServerProcess]:
    """The server, killed at the end.

    Args:
        exact_memory: whether the C library gives all that is freed back to the system at once, so that what is resident is held.
    """
    gives_back = {"MALLOC_MMAP_THRESHOLD_": str(MIB), "MALLOC_TRIM_THRESHOLD_": str(MIB // 8)}
    environment = {**os.environ, **(gives_back if exact_memory else {})}
    arguments = [f"{name}={value}" for name, value in {"threads": 1, **settings}.items()]
    with TemporaryFile("w+") as log:
        command = [sys.executable, str(Path(__file__)), str(layers), *arguments]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process:
            try:
                yield _started(process, log)
            finally:
                process.kill()


def resident(pid: int) -> int:
    """Bytes of a process that are in memory now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@contextmanager
def resident_samples(pid: int) -> Iterator[list[int]]:
    """What was in memory in the block, looked at all the time."""
    samples, closed = [resident(pid)], threading.Event()

    def look() -> None:
        while not closed.wait(0.005):
            samples.append(resident(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        closed.set()
        thread.join()


def read_slowly(messages: Iterable[introspect_pb2.IntrospectResponse], mib_per_second: float) -> int:
    """Reads a stream to its end, at most so fast. The bytes of captures and scores that came."""
    pause, began, came = threading.Event(), time.monotonic(), 0
    for message in messages:
        came += len(message.chunk.data)
        pause.wait(max(0.0, began + came / MIB / mib_per_second - time.monotonic()))
    return came


def main() -> None:
    layers, *settings = sys.argv[1:]
    keep_freed_blocks()  # as `cutaway serve` does
    torch.manual_seed(0)
    pairs = dict(setting.split("=", 1) for setting in settings)
    with cutaway_server.serve(ManyLayers(int(layers)), torch.zeros(1, 8, 8), name="many", **pairs) as server:
        print(f"metrics at http://{server.metrics_address}/metrics")
        print(f"listening on {server.address}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
