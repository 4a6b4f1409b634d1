"""Model folders for tests, written and loaded as a server would."""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from cutaway_server.models.model import Model
from cutaway_server.models.repository.load import Hardware, Permissions, load

Write = Callable[..., Path]
Load = Callable[..., Model]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(model.yaml as text or mapping, {file: content}, name=…): the folder of one version."""

    def write(
        manifest: str | Mapping[str, Any], files: Mapping[str, str | bytes] = MappingProxyType({}), name: str = "net"
    ) -> Path:
        folder = tmp_path / "models" / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        text = manifest if isinstance(manifest, str) else yaml.safe_dump(dict(manifest))
        for file, content in {"model.yaml": text, **files}.items():
            (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return write


@pytest.fixture
def loaded() -> Load:
    """loaded(folder, code=…, factories=…): the model in it."""

    def loaded(folder: Path, *, code: bool = False, factories: tuple[str, ...] = ()) -> Model:
        return load(folder, folder.parent.name, folder.name, Permissions(code, factories), Hardware())

    return loaded


@pytest.fixture
def no_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reaches nobody, and finds nothing that was fetched before."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(f"something wants the net: {arguments}")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for variable in ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "fetched"))
