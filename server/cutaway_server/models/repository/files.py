"""Files of a model's folder: inside it, whole, and as their digest says."""

import hashlib
from pathlib import Path

from cutaway_server.models.model import NotServable


def file_in(folder: Path, name: str) -> Path:
    """The file of this name in a folder.

    Raises:
        NotServable: there is none, or it, or a link on the way to it, leads out of the folder.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise NotServable(f"{name} leads out of the model's folder, by a link or by '..'")
    if not path.is_file():
        raise NotServable(f"there is no file {name}")
    return path


def read_bounded(path: Path, limit: int) -> bytes:
    """The whole of a small file. Of a larger one nothing more than the limit is read.

    Raises:
        NotServable: it has more bytes than the limit.
    """
    with path.open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise NotServable(f"{path.name} has {path.stat().st_size:,} bytes; the limit is {limit:,}")
    return content


def digest_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def checked_digest(path: Path, name: str, pinned: str | None) -> str:
    """SHA-256 of a file.

    Raises:
        NotServable: another one is pinned.
    """
    found = digest_of(path)
    if pinned and found != pinned:
        raise NotServable(f"{name} has SHA-256 {found}, but model.yaml pins {pinned}")
    return found
