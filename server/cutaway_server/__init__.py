"""The Cutaway server: hosts PyTorch CNNs over gRPC and shows their inside while they serve.

`serve(net, example_input)` serves a network that one has at hand; `cutaway serve` is the command.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway_server.process.notebook import serve as serve

__all__ = ["serve"]


def __getattr__(name: str) -> object:
    # Imported when asked for: the digits and the version of this package can be read without PyTorch.
    if name == "serve":
        from cutaway_server.process.notebook import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
