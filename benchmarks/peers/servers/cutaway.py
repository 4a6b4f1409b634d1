"""Cutaway, as `cutaway serve` starts it: of the built-in networks, or of the folder that `cutaway demo photo` writes."""

from dataclasses import dataclass

from messages import CUTAWAY, OPEN_INFERENCE
from server import Job, Server

_NAMES = {"mnist": "mnist", "lite0": "efficientnet-lite0"}
_THREADS = ("--threads", "1")  # as the peers: PyTorch runs a network so small best on one


@dataclass(frozen=True)
class _Cutaway(Server):
    def model(self, network: str) -> str:
        return _NAMES[network]

    def command(self, python: str, job: Job) -> list[str]:
        listen = ("--listen", f"127.0.0.1:{job.port}", "--metrics", f"127.0.0.1:{job.port + 1}", "--log-level", "error")
        return [python, "-m", "cutaway", "serve", *listen, *self._of_network(job), "--engine", job.engine]

    def _of_network(self, job: Job) -> tuple[str, ...]:
        if job.network == "mnist":
            return _THREADS if job.engine == "eager" else ()
        from cutaway.cli.demo_photo import FACTORY, write_model

        return "--models", str(write_model(job.folder("cutaway"))), "--allow-factory", FACTORY


SERVER = _Cutaway(
    name="cutaway",
    title="Cutaway",
    settings="defaults; PyTorch on 1 thread for mnist",
    protocol=CUTAWAY,
    engines=("auto", "eager", "onnxruntime"),
)
OPEN = _Cutaway(
    name="cutaway_open",
    title="Cutaway, asked by the Open Inference Protocol",
    settings="defaults",
    protocol=OPEN_INFERENCE,
    engines=("auto",),
)
