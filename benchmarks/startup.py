"""What a start of `cutaway serve` takes until it is ready: time, CPU and memory, medians of starts in turns.

The rows: what is loaded in any case, and what a server of `mnist` with no PyTorch in it would load; the built-in networks; and
EfficientNet-Lite0 in a folder, run by ONNX Runtime, with an engine cache that is empty and then with the same one.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from report import table_of_figures

import cutaway_server
from cutaway.cli._command import stdout
from cutaway.cli._server import SERVE
from cutaway.cli.demo_photo import FACTORY, write_model

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from processes import cpu_seconds

READY = "listening"
MNIST = Path(cutaway_server.__path__[0]) / "models/mnist/mnist.onnx"
TORCH = "import torch"
WITHOUT_TORCH = f"""
import grpc, numpy, onnxruntime
from cutaway.v1 import inference_pb2_grpc
session = onnxruntime.InferenceSession({str(MNIST)!r}, providers=["CPUExecutionProvider"])
session.run(None, {{session.get_inputs()[0].name: numpy.zeros((1, 1, 28, 28), numpy.float32)}})
"""


class Start(NamedTuple):
    """Seconds, CPU seconds of all processes, MiB resident when it is ready, and at most until then."""

    wall: float
    cpu: float
    resident: float
    most: float


def start(command: Sequence[str]) -> Start:
    """A process, until it says that it is ready; then it is ended."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not any(line.startswith(READY) for line in process.stdout):
            raise SystemExit(f"it did not start: {' '.join(command)}")
        wall = time.monotonic() - began
        memory = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        found = Start(wall, cpu_seconds(process.pid), *(int(memory[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")))
        process.terminate()
        process.communicate()  # what it says as it ends
        return found


@contextmanager
def commands(models: Path) -> Iterator[dict[str, Sequence[str]]]:
    """What is started in one round, in this order."""
    waits = f"\nimport sys\nprint({READY!r}, flush=True)\nsys.stdin.read()"
    serve = (*SERVE, "--log-level", "error")
    with TemporaryDirectory() as cache:
        folder = (*serve, "--models", str(models), "--allow-factory", FACTORY, "--engine", "onnxruntime", "--engine-cache", cache)
        yield {
            "import torch": (sys.executable, "-c", TORCH + waits),
            "mnist by ONNX Runtime, no PyTorch": (sys.executable, "-c", WITHOUT_TORCH + waits),
            "built-in networks": serve,
            "built-in networks, --engine eager": (*serve, "--engine", "eager"),
            "EfficientNet-Lite0, first start": folder,
            "EfficientNet-Lite0, second start": folder,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, choices=range(1, 21), default=4, metavar="1..20", help="default: %(default)s")
    rounds = parser.parse_args().rounds
    found: dict[str, list[Start]] = {}
    with TemporaryDirectory() as models:
        write_model(Path(models))
        for _ in range(rounds):
            with commands(Path(models)) as all_of_them:
                for name, command in all_of_them.items():
                    found.setdefault(name, []).append(start(command))
    table = table_of_figures("start", "ready after", "CPU", "resident", "at most", words=1)
    for name, starts in found.items():
        wall, cpu, resident, most = map(median, zip(*starts, strict=True))
        table.add_row(name, f"{wall:.1f} s", f"{cpu:.1f} s", f"{resident:.0f} MiB", f"{most:.0f} MiB")
    stdout().print(table)


if __name__ == "__main__":
    main()
