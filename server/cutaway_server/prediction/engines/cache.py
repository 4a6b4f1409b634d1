"""ONNX files of networks, kept on disk from one start to the next."""

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cutaway_server.models.engine_choice import Timing
from cutaway_server.models.model import Model
from cutaway_server.models.onnx_export import OPSET, NotExportable, export_onnx

_FORM = "1"  # of what is kept
_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino")
_OURS = re.compile(r"[0-9a-f]{64}\.(onnx|json)|\.making-\w+")
_UNUSED_SECONDS = 60 * 86_400


class Kept:
    """What a cache holds of one model: an ONNX file, with its digest and what was measured beside it.

    Args:
        folder: of the cache; made if missing.
        folder_of_model: whose files the network comes from.
        threads: CPU threads that engines were timed with.
    Attributes:
        timings: of this file, as `choose_engine` puts them there.
    """

    def __init__(self, folder: Path, model: Model, folder_of_model: Path, threads: int) -> None:
        self._folder = folder
        self._model = model
        key = _key(model, folder_of_model, threads)
        self._file, self._record = folder / f"{key}.onnx", folder / f"{key}.json"
        self._sha256 = ""
        self.timings: dict[str, tuple[Timing, ...]] = {}
        self._read()

    def file(self) -> tuple[Path, str]:
        """The file and its digest. What is kept is used if it is whole; else the network is exported anew.

        Raises:
            NotExportable: it cannot be, or the cache cannot be written.
        """
        if not self._sha256:
            content = export_onnx(self._model.network, self._model.inputs, self._model.head)
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sweep(self._folder)
                _write(self._file, content)
            except OSError as error:
                raise NotExportable(f"the engine cache cannot be written: {error.strerror}") from error
            self._sha256 = hashlib.sha256(content).hexdigest()
        return self._file, self._sha256

    def save(self) -> None:
        """Writes down what belongs to the file. A cache that cannot be written does no harm."""
        if self._sha256:
            timings = {name: [asdict(timing) for timing in all_of] for name, all_of in self.timings.items()}
            with suppress(OSError):
                _write(self._record, json.dumps({"sha256": self._sha256, "timings": timings}).encode())

    def _read(self) -> None:
        """Takes over what is kept, if all of it is as it was written."""
        try:
            record = json.loads(self._record.read_bytes())
            timings = {str(name): tuple(Timing(**timing) for timing in all_of) for name, all_of in record["timings"].items()}
            with self._file.open("rb") as opened:
                whole = hashlib.file_digest(opened, "sha256").hexdigest() == record["sha256"]
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return
        if whole:
            self._sha256, self.timings = record["sha256"], timings
            with suppress(OSError):
                os.utime(self._file)
                os.utime(self._record)


def _key(model: Model, folder: Path, threads: int) -> str:
    """A digest of all that the file and the timings come from."""
    said = [_FORM, model.weights_digest, repr(model.inputs), model.head, str(OPSET), str(threads), platform.machine(), _cpu()]
    said += [f"{package} {_version(package)}" for package in _PACKAGES]
    said += [f"{path} {type(module).__qualname__}" for path, module in model.network.named_modules()]
    digest = hashlib.sha256("\n".join(said).encode())
    for path in [*sorted(path for path in folder.rglob("*") if path.is_file()), *_programs(model)]:
        with path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _programs(model: Model) -> list[Path]:
    """The Python files of the network's modules, but for PyTorch's own."""
    names = {type(module).__module__ for module in model.network.modules()}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in names if name.partition(".")[0] != "torch"}
    return [Path(file) for file in sorted(file for file in files if file) if Path(file).is_file()]


def _version(package: str) -> str:
    try:
        return version(package) if package != "torch" else torch.__version__
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    """The name of the CPU, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor()


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".making-", delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _sweep(folder: Path) -> None:
    """Removes what nobody used for a long time."""
    for path in folder.iterdir():
        with suppress(OSError):
            if _OURS.fullmatch(path.name) and path.stat().st_mtime < time.time() - _UNUSED_SECONDS:
                path.unlink()
