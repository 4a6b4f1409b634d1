"""Writes the ONNX files beside the built-in weights: `python -m cutaway_server.models.mnist.export`."""

import sys
from pathlib import Path

import onnx
from torch import nn

from cutaway_server.models.builtin import FACTORIES, INPUTS, load_builtin
from cutaway_server.models.onnx_export import export_onnx
from cutaway_server.models.prepare import weights_digest

WEIGHTS_DIGEST = "weights_digest"
"""Of the network that a file was made from, among its metadata."""


def write_onnx(network: nn.Module, path: Path) -> None:
    """A built-in network, in eval mode, as a file for engines."""
    made = onnx.load_from_string(export_onnx(network, INPUTS))
    onnx.helper.set_model_props(made, {WEIGHTS_DIGEST: weights_digest(network)})
    path.write_bytes(made.SerializeToString())


def main() -> None:
    """All of them, from the weights that are there."""
    for name in FACTORIES:
        model = load_builtin(name)
        assert model.onnx is not None
        write_onnx(model.network, model.onnx)
        sys.stdout.write(f"wrote {model.onnx.name}\n")


if __name__ == "__main__":
    main()
