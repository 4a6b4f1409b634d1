"""TorchServe: one worker, batches of what comes within a delay, a quiet log. This file is its handler, too."""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from messages import TORCHSERVE
from networks import MAX_BATCH, SHAPES, Run, runner
from server import Job, Server

_DELAY_MS = {"mnist": 1, "lite0": 20}
_CONFIG = """\
inference_address=http://127.0.0.1:{http}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_address=127.0.0.1
grpc_inference_port={grpc}
grpc_management_address=127.0.0.1
grpc_management_port={grpc_management}
disable_token_authorization=true
enable_envvars_config=false
job_queue_size=1024
max_request_size=67108864
max_response_size=67108864
"""
_MODEL = """\
minWorkers: 1
maxWorkers: 1
batchSize: {batch}
maxBatchDelay: {delay}
responseTimeout: 120
"""
_LOG = """\
<Configuration status="ERROR">
  <Appenders><Console name="console"><PatternLayout pattern="%d %p %c - %m%n"/></Console></Appenders>
  <Loggers><Root level="error"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""


@dataclass(frozen=True)
class _TorchServe(Server):
    def command(self, python: str, job: Job) -> list[str]:
        folder, programs = job.folder(self.name), Path(python).parent
        ports = ("grpc", "http", "management", "metrics", "grpc_management")
        alone = job.callers == 1  # it would wait for others in vain
        batch, delay = (1, 1) if alone else (MAX_BATCH[job.network], _DELAY_MS[job.network])
        (folder / "config.properties").write_text(_CONFIG.format(**{name: job.port + at for at, name in enumerate(ports)}))
        (folder / "model.yaml").write_text(_MODEL.format(batch=batch, delay=delay))
        (folder / "log4j2.xml").write_text(_LOG)
        archive = [programs / "torch-model-archiver", "--force", "--model-name", job.network, "--version", "1.0"]
        files = ["--handler", __file__, "--config-file", folder / "model.yaml", "--export-path", folder]
        subprocess.run([*archive, *files], check=True, capture_output=True, env={"PATH": f"{programs}"})
        own = [f"TMPDIR={folder}", f"LOG_LOCATION={folder}", f"METRICS_LOCATION={folder}"]
        start = [f"{programs / 'torchserve'}", "--start", "--foreground", "--ncs", "--disable-token-auth"]
        given = ["--ts-config", f"{folder}/config.properties", "--log-config", f"{folder}/log4j2.xml"]
        return ["env", *own, *start, *given, "--model-store", f"{folder}", "--models", f"{job.network}={job.network}.mar"]


SERVER = _TorchServe(
    name="torchserve",
    title="TorchServe 0.12",
    settings="batchSize 32, maxBatchDelay 1 ms; Lite0: 4 and 20 ms; for 1 caller batchSize 1; one worker, quiet log, "
    "job_queue_size 1024; warmed up for 30 s, Lite0: 15 s",
    protocol=TORCHSERVE,
    requirements=(
        "torchserve==0.12.0",
        "torch-model-archiver==0.12.0",
        "setuptools<81",
        "psutil",
        "pyyaml",
        "numpy",
        "packaging",
        "requests",
    ),
    own_start=(("mnist", 1), ("lite0", 1)),
    start=7,
    warm_up=(("mnist", 30), ("lite0", 15)),
)


@cache
def network() -> tuple[Run, tuple[int, ...]]:
    job = Job.from_environment()
    return runner(job.network, job.engine, job.networks), SHAPES[job.network]


def handle(data: list[dict[str, bytearray]] | None, context: object) -> list[bytes]:
    """What TorchServe calls: at the start about nothing, then about a batch."""
    run, shape = network()
    if data is None:
        return []
    return [row.tobytes() for row in run(np.stack([np.frombuffer(one["data"], np.float32).reshape(shape) for one in data]))]
