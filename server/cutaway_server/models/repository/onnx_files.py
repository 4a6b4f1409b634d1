"""The files that an ONNX network lies in: the one that is named, and those that it names itself, with its larger tensors."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway_server.models.model import NotServable, said
from cutaway_server.models.repository.files import checked_digest, digest_of, file_in


@dataclass(frozen=True)
class OnnxFiles:
    """What an ONNX network lies in.

    Attributes:
        beside: files of its tensors, by the names that it gives them, which count from its own folder; empty where it holds all.
    """

    path: Path
    beside: dict[str, Path]

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(path.stat().st_size for path in (self.path, *self.beside.values()))

    def checked_digest(self, name: str, pinned: str | None) -> str:
        """SHA-256 of the file; where there are others beside it, that of what `sha256sum` prints of it and them, in order of names.

        Args:
            name: of the file in the model's folder.
        Raises:
            NotServable: another one is pinned.
        """
        if not self.beside:
            return checked_digest(self.path, name, pinned)
        files = [(Path(name).name, self.path), *sorted(self.beside.items())]
        lines = "".join(f"{digest_of(path)}  {own}\n" for own, path in files)
        found = hashlib.sha256(lines.encode()).hexdigest()
        if pinned and found != pinned:
            raise NotServable(
                f"{name} has SHA-256 {found} together with {', '.join(sorted(self.beside))}, but model.yaml pins {pinned}"
            )
        return found


def onnx_files(path: Path) -> OnnxFiles:
    """The files of the network in an ONNX file.

    Raises:
        NotServable: it is no ONNX file, or names one that is not in its own folder or below.
    """
    import onnx  # here: it takes a while, and few servers need it

    try:
        model = onnx.load(path, "protobuf", load_external_data=False)
    except Exception as error:  # protobuf's own
        raise NotServable(f"{path.name} is no ONNX file: {said(error)}") from error
    tensors = (tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL)
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return OnnxFiles(path, {name: _beside(path, name) for name in sorted(names)})


def _tensors(message: Any) -> Iterator[Any]:
    """All TensorProto in a message, in whatever graph or attribute they stand."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _beside(path: Path, name: str) -> Path:
    try:
        if ".." not in Path(name).parts:
            return file_in(path.parent, name)
    except (NotServable, OSError, ValueError):  # a null byte
        pass
    raise NotServable(f"{path.name} has tensors in {Path(name).name!r}, and no such file lies beside it or in a folder there")
