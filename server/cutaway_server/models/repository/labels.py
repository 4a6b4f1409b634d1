"""Labels: one a class, from a file, or those of ImageNet."""

import json
from importlib.resources import files
from pathlib import Path

from cutaway_server.models.model import NotServable
from cutaway_server.models.repository.files import file_in

IMAGENET = "imagenet"
_MAX_BYTES = 1 << 20  # all of them travel in one message, beside the layer table
_MAX_LENGTH = 1000


def read_labels(folder: Path, named: str | None) -> list[str]:
    """The labels that `model.yaml` names; none where it names none.

    Raises:
        NotServable: no such file, no labels in it, or such as cannot be sent.
    """
    if named is None:
        return []
    if named == IMAGENET:
        return files("cutaway_server.models.repository").joinpath("imagenet.txt").read_text("utf-8").splitlines()
    path = file_in(folder, named)
    if path.stat().st_size > _MAX_BYTES:
        raise NotServable(f"{named} has {path.stat().st_size:,} bytes; the limit is {_MAX_BYTES:,}")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotServable(f"{named} is not UTF-8") from error
    labels = _of_json(text, named) if named.endswith(".json") else text.removesuffix("\n").split("\n") if text else []
    if not labels:
        raise NotServable(f"{named} holds no labels")
    for index, label in enumerate(labels):
        _check_sendable(label, f"{named}: label {index:,}")
    return labels


def _check_sendable(label: str, which: str) -> None:
    if len(label) > _MAX_LENGTH:
        raise NotServable(f"{which} has {len(label):,} characters; the limit is {_MAX_LENGTH:,}")
    try:
        label.encode()
    except UnicodeEncodeError as error:  # JSON's escapes can spell halves of characters
        raise NotServable(f"{which} is {label[:40]!r}, which is no text: \\u{ord(label[error.start]):04x} stands alone") from None


def _of_json(text: str, named: str) -> list[str]:
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotServable(f"{named} is no JSON: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise NotServable(f"{named} must be a list of strings")
    return labels
