"""ONNX Runtime, on the CPU."""

from cutaway_server.models.arrays import Array
from cutaway_server.models.onnx_session import OnnxSession


class OnnxRuntime:
    """Runs an ONNX file of the network. Several threads may run it at the same time.

    Args:
        output: name of the scores; the only output where it is empty.
    """

    name = "onnxruntime"
    runs_python = False
    one_at_a_time = False

    def __init__(self, session: OnnxSession, output: str = "") -> None:
        self._session = session
        self._outputs = [output or session.gives[0]]

    def run(self, arguments: tuple[Array, ...]) -> Array:
        """As Eager's."""
        return self._session.run(arguments, self._outputs)[0]
