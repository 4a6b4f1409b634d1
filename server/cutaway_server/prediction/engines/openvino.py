"""OpenVINO, on the CPU."""

import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cutaway_server.models.arrays import Array
from cutaway_server.models.model import NotServable, said


class OpenVino:
    """Runs an ONNX file of the network, one batch at a time.

    Args:
        source: the file, or what is in it.
        threads: CPU threads of one run.
        output: name of the scores; the only output where it is empty.
    Raises:
        NotServable: OpenVINO is not there, or does not read the file.
    """

    name = "openvino"
    runs_python = False
    one_at_a_time = True

    def __init__(self, source: Path | bytes, threads: int, output: str = "") -> None:
        openvino = _imported()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 where the CPU has that
            "INFERENCE_NUM_THREADS": threads,
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(source), "CPU", settings)
            self._output = compiled.output(output) if output else compiled.output(0)
        except Exception as error:  # RuntimeError, about all that may be wrong
            raise NotServable(f"OpenVINO does not read it: {said(error)}") from error
        self._request = compiled.create_infer_request()
        self._alone = threading.Lock()

    def run(self, arguments: tuple[Array, ...]) -> Array:
        """As Eager's."""
        feeds = [np.ascontiguousarray(argument) for argument in arguments]
        with self._alone:  # its outputs lie in memory that the next run writes over
            outputs = self._request.infer(feeds, share_inputs=True, share_outputs=True)
            scores: Array = outputs[self._output].copy()
            return scores


def _imported() -> ModuleType:
    """The package: imported here, for it takes a while and few servers have it. It tells its maker of no import."""
    teller = "openvino_telemetry"  # where it cannot be imported, OpenVINO does without
    silenced = sys.modules.setdefault(teller, None) is None  # type: ignore[arg-type]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise NotServable("OpenVINO is not installed: pip install 'cutaway[openvino]'") from error
    finally:
        if silenced:
            del sys.modules[teller]
