"""No server: the network by itself, in batches, in a process of its own. As a program: prints what `loadgen` prints."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from messages import CUTAWAY
from networks import MAX_BATCH, SHAPES, Run, runner
from server import Job, Server

from servers.cutaway import engine_cache

SERVER = Server(
    name="in_process",
    title="the engine in process",
    settings="no server and no client: the network alone, in batches as large as the callers would fill, Lite0: 4 at most; "
    "for mnist ONNX Runtime on 1 thread, for Lite0 what Cutaway chose, from its engine cache",
    protocol=CUTAWAY,
    engines=("auto",),
    start=1,
)


def engine(job: Job) -> tuple[str, Run]:
    """What Cutaway runs, in words and at work."""
    records = list(engine_cache(Path(job.home)).glob("*.json"))
    if job.network == "mnist" or not records:
        return "ONNX Runtime", runner(job.network, "onnxruntime", job.networks)
    from cutaway_server.models.engine_choice import EngineChoice, Timing
    from cutaway_server.prediction.engines.opening import open_runtime

    timings = json.loads(records[0].read_text())["timings"]
    choices = {tried: EngineChoice(timings=tuple(Timing(**one) for one in of)) for tried, of in timings.items()}
    chosen = max(choices, key=lambda tried: choices[tried].speed_up)
    name, threads = chosen.split()
    opened = open_runtime(name, records[0].with_suffix(".onnx"), int(threads), "")
    return f"{name}, {threads} thread{'s' if threads != '1' else ''}", lambda x: opened.run((x,))


def measure(job: Job, callers: int, seconds: float, warm_up: float) -> dict[str, float | str]:
    """Times of batches: what would be answered within one is answered at its end."""
    name, run = engine(job)
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
    cpu_ms = 1e3 * cpu / answered
    return {"engine": name, "answered": answered, "rps": answered / wall, "p50": p50, "p99": p99, "server_cpu_ms": cpu_ms}


if __name__ == "__main__":
    print(json.dumps(measure(Job.from_environment(), int(sys.argv[1]), *map(float, sys.argv[2:]))))
