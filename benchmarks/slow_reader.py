"""What a slow reader costs the server: the memory of a call that captures 1 GiB for a reader of 10 MiB/s.

The server is a process of its own on this machine, whose resident memory is looked at all the time: first in a server that runs the
same call without captures, which shows what the forward pass takes by itself, then in a new one that sends the output of every
layer. Exit code 1 if that took more than the forward pass by itself, the stream buffer and some slack.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import grpc

import cutaway
from cutaway.v1.inference_pb2_grpc import InferenceServiceStub

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from many_layers import MIB, all_layers, picture, read_slowly, resident, resident_samples, serving
from server_process import ServerProcess

LAYERS = 64
SLACK = 16  # MiB: messages on their way, what Python and gRPC make for a call


def growth(call: Callable[[ServerProcess], None], **settings: object) -> tuple[float, int]:
    """By how many MiB the resident memory of a new server grew while it served a call, and how often that was looked at."""
    with serving(LAYERS, **settings) as server:
        idle = resident(server.process.pid)
        with resident_samples(server.process.pid) as samples:
            call(server)
    return (max(samples) - idle) / MIB, len(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="MiB that the call captures (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10, help="MiB/s that the reader takes (default: %(default)s)")
    parser.add_argument("--buffer", type=int, default=32, help="MiB of the stream buffer (default: %(default)s, as the server's)")
    exact = "have the C library give freed memory back at once, so that what is resident is what is held"
    parser.add_argument("--exact", action="store_true", help=exact)
    options = parser.parse_args()
    if not (LAYERS <= options.mib <= 8192 and 1 <= options.rate <= 10_000 and 1 <= options.buffer <= 1024):
        parser.error(f"--mib goes from {LAYERS} to 8192, --rate from 1 to 10000, --buffer from 1 to 1024")
    each, limit = options.mib // LAYERS, 60 + 2 * options.mib / options.rate  # seconds: when all is given up
    settings = {"stream_buffer_mib": options.buffer, "call_timeout": limit, "exact_memory": options.exact}
    took = read = 0.0

    def without_captures(server: ServerProcess) -> None:
        with cutaway.Client(server.address) as client:
            client.introspect("many", picture(each))

    def slowly(server: ServerProcess) -> None:
        nonlocal took, read
        with grpc.insecure_channel(server.address) as channel:
            began = time.monotonic()
            read = read_slowly(InferenceServiceStub(channel).Introspect(all_layers(each), timeout=limit), options.rate) / MIB
            took = time.monotonic() - began

    alone, _ = growth(without_captures, **settings)
    grown, samples = growth(slowly, **settings)
    budget = alone + options.buffer + SLACK
    print(f"read    {read:,.1f} MiB in {took:.1f} s, {read / took:.1f} MiB/s: {LAYERS} layers of {each} MiB")
    print(f"growth  {grown:,.0f} MiB at most, of {samples:,} samples")
    print(f"budget  {budget:,.0f} MiB: forward pass by itself {alone:,.0f}, stream buffer {options.buffer}, slack {SLACK}")
    print(f"with    Python {platform.python_version()}, grpcio {version('grpcio')}, torch {version('torch')}, 1 CPU thread")
    if grown > budget:
        sys.exit("the call took more memory than its budget")


if __name__ == "__main__":
    main()
