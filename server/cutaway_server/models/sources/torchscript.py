"""Networks as TorchScript. Its programs can write files, so only where the operator allows code."""

from pathlib import Path

import torch

from cutaway_server.models.model import NotServable, said
from cutaway_server.models.sources.built import Built

_WHY = "it is TorchScript, which takes no hooks; serve the eager network, or export it by torch.export, instead"


def build_from_torchscript(path: Path) -> Built:
    """The network in a TorchScript archive.

    Raises:
        NotServable: it is no such archive.
    """
    try:
        return Built(torch.jit.load(path, map_location="cpu"), not_hookable=_WHY, engine="torchscript")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise NotServable(f"{path.name} is no TorchScript archive: {said(error)}") from error
