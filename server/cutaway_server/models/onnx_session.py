"""An ONNX file, opened by ONNX Runtime on the CPU."""

import os
from collections.abc import Sequence
from pathlib import Path

from cutaway_server.models.arrays import Array
from cutaway_server.models.model import NotServable, said


class OnnxSession:
    """Runs an ONNX network. Several threads may run it at the same time.

    Args:
        source: the file, or what is in it.
        threads: CPU threads of one run, the caller's own among them.
    Attributes:
        takes: names of its inputs.
        gives: names of its outputs.
        shapes: of its inputs; an axis of any size is a name, or None.
    Raises:
        NotServable: ONNX Runtime is not there, or does not read it.
    """

    def __init__(self, source: Path | bytes, threads: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it tells its maker of each session, over the net
        try:
            import onnxruntime  # here: it takes a while, and not every server needs it
        except ImportError as error:
            raise NotServable("ONNX Runtime is not installed: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Else its threads spin for tens of milliseconds after each run, on CPUs that other calls need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Its own pool keeps for ever what the largest batch took, for each session; malloc gives the same memory to all.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3  # errors: they are raised, too
        name = source.name if isinstance(source, Path) else "it"
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own, one type for each of its status codes
            raise NotServable(f"{name} is no ONNX file that ONNX Runtime reads: {said(error)}") from error
        self.takes = [given.name for given in self._session.get_inputs()]
        self.gives = [given.name for given in self._session.get_outputs()]
        self.shapes = [given.shape for given in self._session.get_inputs()]

    def run(self, arguments: Sequence[Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """These outputs, or all, for an argument for each input. The arguments are read where they lie."""
        if len(arguments) != len(self.takes):
            raise TypeError(f"it takes {len(self.takes)} inputs ({', '.join(self.takes)}), not {len(arguments)}")
        given: list[Array] = self._session.run(outputs, dict(zip(self.takes, arguments, strict=True)))
        return given
