"""Writes a model's folder: all of it or nothing, so that a server that looks meanwhile never sees half of one."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from cutaway_server.models.model import NotServable, said
from cutaway_server.models.repository.files import digest_of
from cutaway_server.models.repository.folders import check_name
from cutaway_server.models.repository.labels import IMAGENET
from cutaway_server.models.repository.manifest import MANIFEST, read_manifest
from cutaway_server.models.repository.weights import read_state

WEIGHTS = "weights.safetensors"


def add(
    root: Path,
    name: str,
    version: int | None,
    content: Mapping[str, Any],
    *,
    weights: Path | None,
    files: Mapping[str, Path],
    check: Callable[[Path, str], None],
) -> Path:
    """Writes `root/NAME/VERSION/` and returns it.

    Args:
        version: None for the one after the highest that is there.
        content: of model.yaml, without weights.
        weights: a state dict or safetensors file, which the folder gets as safetensors, with its digest pinned.
        files: copied, by the names that they get.
        check: loads the folder, of this version, and raises NotServable where it is no model that can be served.
    Raises:
        NotServable: the name, the content or the weights do not go, or the check fails; nothing is left behind.
        FileExistsError: the version is there already.
    """
    check_name(name)
    chosen = str(version or _next_version(root / name))
    target = root / name / chosen
    if target.exists():
        raise FileExistsError(f"{target} is there already; a version is never written over")
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=_made(root)) as folder:
        draft = Path(folder, chosen)
        draft.mkdir()
        for own, file in files.items():
            shutil.copyfile(file, _made((draft / own).parent) / Path(own).name)
        whole = dict(content)
        if weights:
            save_state(read_state(weights, weights.name), draft / WEIGHTS)
            whole["weights"] = {"file": WEIGHTS, "sha256": digest_of(draft / WEIGHTS)}
        text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
        read_manifest(text.encode())
        (draft / MANIFEST).write_text(text, "utf-8")
        check(draft, chosen)
        _made(target.parent)
        os.rename(draft, target)
    return target


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """A state dict as safetensors. Tensors that share memory are written once each.

    Raises:
        NotServable: a tensor is of a kind that safetensors does not have, as sparse ones are.
    """
    try:
        save_file({key: value.detach().clone().contiguous() for key, value in state.items()}, path)
    except (RuntimeError, ValueError, KeyError) as error:
        raise NotServable(f"the tensors cannot be written as safetensors: {said(error)}") from error


def label_files(labels: str | None) -> tuple[str | None, dict[str, Path]]:
    """What model.yaml says of labels given as a file's path or as imagenet, and which file goes with it."""
    if labels is None or labels == IMAGENET:
        return labels, {}
    file = Path(labels)
    if not file.is_file():
        raise NotServable(f"--labels {labels}: there is no such file; give one, or {IMAGENET}")
    own = "labels.json" if file.suffix == ".json" else "labels.txt"
    return own, {own: file}


def _next_version(folder: Path) -> int:
    there = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return max(there, default=0) + 1


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
