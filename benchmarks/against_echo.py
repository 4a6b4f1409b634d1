"""Predict and Introspect beside a bare gRPC echo: what a call costs beyond its transport.

The echo answers each call with the very messages that Cutaway answered it with once. Each server is a process of its own on this
machine. One client sends the same bytes to both, in turn, round by round.
"""

import argparse
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from math import ceil
from statistics import median, quantiles
from typing import Any

import grpc
import numpy as np
from bare_echo import running_echo
from report import machine_words, ratio_cells, table_of_figures
from rich.progress import Progress

from cutaway.cli._command import bytes_text, print_json, progress_bar, stdout
from cutaway.cli._server import running_server
from cutaway.v1 import input_pb2, introspect_pb2, predict_pb2, tensor_pb2
from cutaway_server.models.threads import available_cpus
from cutaway_server.process.settings import Settings

CALL_LIMIT = 20  # seconds, for one call
ROUNDS_LIMIT = 40  # seconds: no round begins after it, save the first two
CALLERS = 8  # where there are many

UNITS: dict[str, Callable[[float, float], float]] = {
    "ms": lambda seconds, mb: 1000 * seconds,
    "calls/s": lambda seconds, mb: 1 / seconds,
    "MB/s": lambda seconds, mb: mb / seconds,
}
"""From the seconds of a call and the MB of its answer to what is shown."""


@dataclass(frozen=True)
class Work:
    """One kind of call, and how it is measured."""

    what: str
    rpc: str
    request: bytes
    callers: int = 1
    share: float = 1  # of --calls
    unit: str = "ms"

    def call(self, channel: grpc.Channel, path: str) -> Callable[[], list[bytes]]:
        """The call, for either server the same: bytes there, bytes back."""
        if self.rpc == "Predict":
            unary = channel.unary_unary(path)
            return lambda: [unary(self.request, timeout=CALL_LIMIT)]
        stream = channel.unary_stream(path)
        return lambda: list(stream(self.request, timeout=CALL_LIMIT))


def digits(count: int) -> np.ndarray:
    """[count, 1, 28, 28] float32, model-ready: the server's own digits, over again where there are too few."""
    with files("cutaway_server.models.mnist").joinpath("digits.npz").open("rb") as file:
        pixels = np.resize(np.load(file)["x"], (count, 1, 28, 28))
    return ((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)


def request(kind: Any, count: int, **fields: Any) -> bytes:
    """A request about so many digits, ready to be sent."""
    x = digits(count)
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=x.shape, data=x.tobytes())
    return kind(model="mnist", inputs=[input_pb2.Input(tensor=tensor)], **fields).SerializeToString()


def all_work() -> list[Work]:
    """What is measured: calls about one digit, but for one of 256."""
    predict = request(predict_pb2.PredictRequest, 1)
    introspect = partial(request, introspect_pb2.IntrospectRequest)
    one_layer = introspect(1, captures=[introspect_pb2.Capture(layer="conv1")])
    every_layer = introspect(256, captures=[introspect_pb2.Capture(layer="*")], without_prediction=True)
    grad_cam = introspect(1, cams=[introspect_pb2.Cam(method="grad-cam")])
    return [
        Work("Predict, 1 caller", "Predict", predict),
        Work(f"Predict, {CALLERS} callers", "Predict", predict, callers=CALLERS, share=4, unit="calls/s"),
        Work("Introspect, conv1", "Introspect", one_layer),
        Work("Introspect, * of 256 digits", "Introspect", every_layer, share=0.1, unit="MB/s"),
        Work("Introspect, grad-cam", "Introspect", grad_cam),
    ]


def plain_forward(threads: int) -> Callable[[], object]:
    """The forward pass of Predict in this process, without a server."""
    import torch  # not above: the echo's process imports this file too, and needs no PyTorch

    from cutaway_server.models.builtin import load_builtin
    from cutaway_server.prediction.engines.eager import Eager

    torch.set_num_threads(threads)
    engine, x = Eager(load_builtin("mnist")), digits(1)
    return lambda: engine.run((x,))


def seconds_of(call: Callable[[], object], calls: int) -> list[float]:
    """How long each of so many calls took, one after the other."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def seconds_a_call(call: Callable[[], object], calls: int, callers: int, pool: ThreadPoolExecutor) -> float:
    """The median time of one caller's calls; with many callers, the time of all calls by their number."""
    if callers == 1:
        return median(seconds_of(call, calls))
    each = ceil(calls / callers)
    began = time.perf_counter()
    list(pool.map(seconds_of, [call] * callers, [each] * callers))
    return (time.perf_counter() - began) / (each * callers)


def measure(rounds: int, calls: int, threads: int, progress: Progress) -> dict[str, Any]:
    """In each round, for each work the echo and then Cutaway; at its end the plain forward pass."""
    works = all_work()
    task = progress.add_task("starting", total=(rounds + 1) * len(works))
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(CALLERS))
        cutaway = stack.enter_context(grpc.insecure_channel(stack.enter_context(running_server())))
        ours = [work.call(cutaway, f"/cutaway.v1.InferenceService/{work.rpc}") for work in works]
        answers = [call() for call in ours]
        echo = stack.enter_context(grpc.insecure_channel(stack.enter_context(running_echo(answers, 2 * CALLERS))))
        bare = [work.call(echo, f"/{work.rpc}/{index}") for index, work in enumerate(works)]
        forward = plain_forward(threads)
        pairs: list[list[tuple[float, float]]] = [[] for _ in works]
        forwards: list[float] = []
        end = time.monotonic() + ROUNDS_LIMIT
        while len(forwards) <= rounds and (len(forwards) < 3 or time.monotonic() < end):
            for work, bare_call, our_call, found in zip(works, bare, ours, pairs, strict=True):
                timed = partial(seconds_a_call, calls=ceil(calls * work.share), callers=work.callers, pool=pool)
                found.append((timed(bare_call), timed(our_call)))
                progress.update(task, advance=1, description=f"round {len(forwards)}" if forwards else "warm-up", refresh=True)
            forwards.append(median(seconds_of(forward, calls)))
    rows = [row(work, found[1:], answer) for work, found, answer in zip(works, pairs, answers, strict=True)]  # [0]: the warm-up
    return {"rounds": len(forwards) - 1, "calls": calls, "rows": rows, "forward_ms": 1000 * median(forwards[1:])}


def row(work: Work, pairs: list[tuple[float, float]], answer: list[bytes]) -> dict[str, Any]:
    """The figures of one work. Ratios are of times: above 1 Cutaway takes longer."""
    echo, cutaway = (median(times) for times in zip(*pairs, strict=True))
    low, _, high = quantiles([ours / bare for bare, ours in pairs], n=4, method="inclusive")
    size, shown = sum(map(len, answer)), UNITS[work.unit]
    return {
        "what": work.what,
        "answer": {"messages": len(answer), "bytes": size},
        "unit": work.unit,
        "echo": shown(echo, size / 1e6),
        "cutaway": shown(cutaway, size / 1e6),
        "ratio": cutaway / echo,
        "ratio_quartiles": [low, high],
    }


def show(report: dict[str, Any]) -> None:
    """The report as a table."""
    table = table_of_figures("what", "answer", "echo", "cutaway", "ratio", "quartiles", words=1)
    for found in report["rows"]:
        form = ".2f" if found["unit"] == "ms" else ",.0f"
        figures = (f"{found[side]:{form}} {found['unit']}" for side in ("echo", "cutaway"))
        table.add_row(found["what"], bytes_text(found["answer"]["bytes"]), *figures, *ratio_cells(found))
    console = stdout()
    console.print(table)
    console.print("Ratio: of the median times of a call, to the end of its answer. Quartiles: of that ratio, round by round.")
    console.print(f"The forward pass of Predict alone, in the client's process: {report['forward_ms']:.2f} ms.")
    console.print(f"Medians of {report['rounds']} rounds. {machine_words(report)}.")


def bounded(low: int, high: int) -> Callable[[str], int]:
    """Reads a number in a range."""

    def number(text: str) -> int:
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be {low} to {high}, not {text}")
        return int(text)

    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=bounded(2, 100), default=12, help="rounds after the warm-up (default: %(default)s)")
    calls = "calls in a round; of some kinds more, of some fewer (default: %(default)s)"
    parser.add_argument("--calls", type=bounded(1, 200), default=40, help=calls)
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of the table")
    options = parser.parse_args()
    threads = Settings().threads  # the server's own setting: it reads the same environment
    bar = progress_bar()
    bar.live.auto_refresh = False  # a bar that draws itself takes time from what is measured
    with bar as progress:
        report = measure(options.rounds, options.calls, threads, progress)
    versions = {"python": platform.python_version(), "grpcio": version("grpcio"), "torch": version("torch")}
    report["machine"] = {"CPUs": available_cpus(), "threads of a forward pass": threads, **versions}
    (print_json if options.json else show)(report)


if __name__ == "__main__":
    main()
