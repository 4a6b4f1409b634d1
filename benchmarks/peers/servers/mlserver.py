"""MLServer: in one process, every request by itself; its adaptive batching was slower."""

import json
from dataclasses import dataclass
from pathlib import Path

from messages import OPEN_INFERENCE
from server import Job, Server


@dataclass(frozen=True)
class _MLServer(Server):
    def command(self, python: str, job: Job) -> list[str]:
        folder = job.folder(self.name)
        ports = {"grpc_port": job.port, "http_port": job.port + 1, "metrics_port": job.port + 2}
        server = {"host": "127.0.0.1", "debug": False, "parallel_workers": 0, "grpc_max_message_length": 67108864, **ports}
        model = {"name": job.network, "implementation": "servers.mlserver_runtime.Runtime"}
        (folder / "settings.json").write_text(json.dumps(server))
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [f"{Path(python).with_name('mlserver')}", "start", f"{folder}"]


SERVER = _MLServer(
    name="mlserver",
    title="MLServer 1.7",
    settings="parallel_workers 0, no batching",
    protocol=OPEN_INFERENCE,
    engines=("eager", "onnxruntime"),
    requirements=("mlserver==1.7.1", "onnxruntime==1.32.0"),
)
