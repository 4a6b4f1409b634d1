"""Which models and versions a repository's folders hold."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cutaway_server.models.model import NotServable, readable, said
from cutaway_server.models.repository.files import file_in, read_bounded
from cutaway_server.models.repository.manifest import MAX_BYTES, VERSIONS, Versions, read_versions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Folder:
    """One version of a model, as it lies there.

    Attributes:
        path: its folder.
        fingerprint: names, sizes and times of its files: another one means other content.
        problem: why it cannot be loaded, where that shows without opening it.
    """

    name: str
    version: str
    path: Path
    fingerprint: Fingerprint = ()
    problem: str = ""


@dataclass(frozen=True)
class ModelFolder:
    """A model, with its versions from the highest down, and which of them are wanted."""

    name: str
    versions: tuple[Folder, ...]
    wanted: Versions

    def candidates(self) -> list[Folder]:
        """The versions that may be served, from the highest down."""
        serve, default = self.wanted.serve, self.wanted.default
        return [folder for folder in self.versions if not isinstance(serve, list) or int(folder.version) in {*serve, default}]

    @property
    def count(self) -> int:
        """How many of them are to be served, counted from the highest that can; the default one is served anyway."""
        serve = self.wanted.serve
        return serve["latest"] if isinstance(serve, dict) else len(self.versions)


def check_name(name: str) -> None:
    """Raises NotServable for what is no name of a model."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise NotServable(
            f"{name[:100]!r} is no name for a model: at most 100 letters, digits, '_', '-' and single dots, no sign first"
        )


def scan(roots: Sequence[Path]) -> tuple[list[ModelFolder], list[Folder]]:
    """The models in some folders, by name, and what cannot be one, with the reason."""
    models: dict[str, ModelFolder] = {}
    broken: list[Folder] = []
    for root in roots:
        for path in _folders(root):
            try:
                check_name(path.name)
                _check_link(path, root)
                if path.name in models:
                    raise NotServable("an earlier folder of --models has a model of this name, which is served")
                found = _model(path, root)
            except Exception as error:  # whatever it is, the other models are looked at
                broken.append(Folder(path.name, "", path, problem=problem_of(error)))
                continue
            broken += [version for version in found.versions if version.problem]
            models[path.name] = replace(found, versions=tuple(version for version in found.versions if not version.problem))
    return [models[name] for name in sorted(models)], broken


def _folders(root: Path) -> Iterator[Path]:
    """What stands in a folder by name; hidden entries are not meant, as Kubernetes' `..data`."""
    return (path for path in sorted(root.iterdir()) if not path.name.startswith(".") and (path.is_dir() or path.is_symlink()))


def _check_link(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise NotServable(f"{path.name} is a link out of the folder of models")


def _model(path: Path, root: Path) -> ModelFolder:
    wanted = read_versions(read_bounded(file_in(path, VERSIONS), MAX_BYTES)) if (path / VERSIONS).exists() else Versions()
    folders = [_version(version, path.name, root) for version in _folders(path)]
    if not folders:
        raise NotServable("it has no version; a model.yaml stands in NAME/VERSION/, as NAME/1/")
    for version in wanted.named:
        if str(version) not in [folder.version for folder in folders]:
            folders.append(
                Folder(path.name, str(version), path / str(version), problem=f"{VERSIONS} asks for it, and there is no such folder")
            )
    highest_first = sorted(folders, key=lambda folder: (len(folder.version), folder.version), reverse=True)
    return ModelFolder(path.name, tuple(highest_first), wanted)


def _version(path: Path, name: str, root: Path) -> Folder:
    try:
        if not _VERSION.fullmatch(path.name):
            raise NotServable(f"the version folder {path.name[:100]!r} is no number from 1 up")
        _check_link(path, root)
        return Folder(name, path.name, path, fingerprint=_fingerprint(path))
    except Exception as error:
        return Folder(name, path.name, path, problem=problem_of(error))


def _fingerprint(path: Path) -> Fingerprint:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return tuple((str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def problem_of(error: Exception) -> str:
    """What is wrong with a folder, by what was raised where it was read, in one line that callers may read."""
    if isinstance(error, NotServable):
        return readable(str(error))
    return f"it cannot be read: {getattr(error, 'strerror', '') or said(error)}"
