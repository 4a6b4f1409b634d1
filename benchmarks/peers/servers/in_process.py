"""No server: the network by itself, in batches, in a process of its own. As a program: prints what `loadgen` prints."""

import json
import sys
import time

import numpy as np
from messages import CUTAWAY
from networks import MAX_BATCH, SHAPES, runner
from server import Job, Server

SERVER = Server(
    name="in_process",
    title="ONNX Runtime in process",
    settings="no server and no client: the network alone, in batches as large as the callers would fill, Lite0: 4 at most",
    protocol=CUTAWAY,
    engines=("onnxruntime",),
)


def measure(job: Job, callers: int, seconds: float, warm_up: float) -> dict[str, float]:
    """Times of batches: what would be answered within one is answered at its end."""
    run = runner(job.network, job.engine, job.networks)
    batch = min(callers, MAX_BATCH[job.network])
    x = np.random.default_rng(0).standard_normal((batch, *SHAPES[job.network]), np.float32)
    end = time.perf_counter() + warm_up
    while time.perf_counter() < end:
        run(x)
    times, cpu, began = [], time.process_time(), time.perf_counter()
    while time.perf_counter() < began + seconds:
        at = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - at)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    p50, p99 = 1e3 * np.quantile(times, (0.5, 0.99))
    answered = batch * len(times)
    return {"answered": answered, "rps": answered / wall, "p50": p50, "p99": p99, "server_cpu_ms": 1e3 * cpu / answered}


if __name__ == "__main__":
    print(json.dumps(measure(Job.from_environment(), int(sys.argv[1]), *map(float, sys.argv[2:]))))
