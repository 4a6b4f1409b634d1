"""Cutaway, as `cutaway serve` starts it: of the built-in networks, or of the folder that `cutaway demo photo` writes."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from messages import CUTAWAY, OPEN_INFERENCE
from server import Job, Server

_NAMES = {"mnist": "mnist", "lite0": "efficientnet-lite0"}
_INPUTS = {"mnist": "x", "lite0": "inputs"}
NARROW_WAITING = 64
_THREADS = ("--threads", "1")  # as the peers: PyTorch runs a network so small best on one


@dataclass(frozen=True)
class _Cutaway(Server):
    def model(self, network: str) -> str:
        return _NAMES[network]

    def input(self, network: str) -> str:
        return _INPUTS[network]

    def command(self, python: str, job: Job) -> list[str]:
        listen = ("--listen", f"127.0.0.1:{job.port}", "--metrics", f"127.0.0.1:{job.port + 1}", "--log-level", "error")
        return [python, "-m", "cutaway", "serve", *listen, *self._of_network(job), "--engine", job.engine]

    def _of_network(self, job: Job) -> tuple[str, ...]:
        if job.network == "mnist":
            return _THREADS if job.engine == "eager" else ()
        from cutaway.cli.demo_photo import FACTORY, write_model

        folder = str(write_model(job.folder("cutaway")))
        return "--models", folder, "--allow-factory", FACTORY, "--engine-cache", str(self.cache(job))

    def cache(self, job: Job) -> Path:
        """Of its engines: what one start leaves there, the next one finds."""
        return engine_cache(Path(job.home))


@dataclass(frozen=True)
class _First(_Cutaway):
    def cache(self, job: Job) -> Path:
        """Empty."""
        folder = Path(job.home) / "run" / self.name
        shutil.rmtree(folder, ignore_errors=True)
        return folder


@dataclass(frozen=True)
class _Narrow(_Cutaway):
    def command(self, python: str, job: Job) -> list[str]:
        return [*super().command(python, job), "--max-waiting", str(NARROW_WAITING)]


def engine_cache(home: Path) -> Path:
    """Of all starts of Cutaway, but for first ones."""
    return home / "run" / "cutaway_engines"


SERVER = _Cutaway(
    name="cutaway",
    title="Cutaway",
    settings="defaults; PyTorch on 1 thread for mnist; a folder's engine cache is filled",
    protocol=CUTAWAY,
    engines=("auto", "eager", "onnxruntime"),
    start=10,
)
FIRST = _First(
    name="cutaway_first",
    title="Cutaway, its first start, with an empty engine cache",
    settings="defaults",
    protocol=CUTAWAY,
    engines=("auto",),
    networks=("lite0",),
    start=16,
)
OPEN = _Cutaway(
    name="cutaway_open",
    title="Cutaway, asked by the Open Inference Protocol",
    settings="defaults",
    protocol=OPEN_INFERENCE,
    engines=("auto",),
    start=10,
)
NARROW = _Narrow(
    name="cutaway_narrow",
    title=f"Cutaway, with --max-waiting {NARROW_WAITING}",
    settings="defaults but for that",
    protocol=CUTAWAY,
    engines=("auto",),
    networks=("mnist",),
)
