"""Networks from archives of torch.export. Reading one can run code, so only where the operator allows that."""

import warnings
from pathlib import Path

import torch

from cutaway_server.models.model import NotServable, said
from cutaway_server.models.sources.built import Built


def build_from_exported(path: Path) -> Built:
    """The network in a .pt2 archive, its modules under their own names, so that hooks on them fire.

    Raises:
        NotServable: it is no whole archive of this PyTorch's.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # PyTorch's own, of how it reads its own files
            return Built(torch.export.unflatten(torch.export.load(path)))
    except Exception as error:  # a dozen types, of zip, JSON, pickle and torch
        what = f"{path.name} is no archive of torch.export that this PyTorch reads"
        raise NotServable(f"{what}: {type(error).__name__}: {said(error)}") from error
