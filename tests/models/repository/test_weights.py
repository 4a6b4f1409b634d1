"""Weights from files: read without running anything, and fitted to the network in full, or refused with what does not fit."""

import argparse
import hashlib
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from structlog.testing import capture_logs
from torch import Tensor, nn

from cutaway_server.models.model import NotServable
from cutaway_server.models.repository.convert import rescue_state
from cutaway_server.models.repository.weights import fit_state, read_state

STATE = {"weight": torch.arange(18.0).reshape(3, 6) / 7, "bias": torch.tensor([1.0, -2.0, 0.5])}
LINEAR = {
    "network": {"factory": "torch.nn:Linear", "arguments": {"in_features": 6, "out_features": 3}},
    "inputs": [{"shape": [6]}],
}
ALLOWED = ("torch.nn:Linear",)


def saved(content: Any, **how: Any) -> bytes:
    opened = io.BytesIO()
    torch.save(content, opened, **how)
    return opened.getvalue()


def same(network: nn.Module, state: dict[str, Tensor] = STATE) -> bool:
    return all(torch.equal(network.state_dict()[name], value) for name, value in state.items())


class Runs:
    """Pickled, it is a program."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


class OfOurs(nn.Module):
    """A network whose class the reader does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2, bias=False)
        self.register_buffer("kept", torch.tensor([3.0]))
        self.register_buffer("passing", torch.zeros(1), persistent=False)


# Reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.safetensors", save(STATE)),
        ("w.pth", saved(STATE)),
        ("w.bin", saved(OrderedDict(STATE))),
        ("old.pth", saved(STATE, _use_new_zipfile_serialization=False)),
        ("parameters.pth", saved({name: nn.Parameter(value) for name, value in STATE.items()})),
        *(
            (f"{key}.pth", saved({"epoch": 3, key: STATE, "lr": 0.1, "optimizer": {"state": {}}}))
            for key in ("state_dict", "model_state_dict", "model", "model_state", "net", "network")
        ),
        ("module.pth", saved({f"module.{name}": value for name, value in STATE.items()})),
        ("compiled.pth", saved({f"_orig_mod.{name}": value for name, value in STATE.items()})),
        ("both.pth", saved({"state_dict": {f"module.model.{name}": value for name, value in STATE.items()}})),
    ],
)
def test_a_state_dict_in_any_of_its_forms(write, loaded, name: str, content: bytes) -> None:
    model = loaded(write({**LINEAR, "weights": name}, {name: content}), factories=ALLOWED)
    assert same(model.network)
    assert model.file_digest == hashlib.sha256(content).hexdigest()
    assert not model.not_introspectable
    x = torch.randn(2, 6)
    torch.testing.assert_close(model.network(x), x @ STATE["weight"].T + STATE["bias"])


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old"])
@pytest.mark.parametrize(
    "place", [lambda bomb: bomb, lambda bomb: {**STATE, "extra": bomb}, lambda bomb: {"state_dict": STATE, "a": [bomb]}]
)
def test_a_program_among_the_weights_does_not_run(write, loaded, tmp_path: Path, how: dict[str, Any], place: Any) -> None:
    mark = tmp_path / "ran"
    for bomb, named in (
        (Runs(os.mkdir, str(mark)), f"{os.name}.mkdir"),
        (Runs(eval, f"__import__('os').mkdir({str(mark)!r})"), "eval"),
        (Runs(getattr, Path(mark), "touch"), "getattr"),
    ):
        folder = write({**LINEAR, "weights": "w.pth"}, {"w.pth": saved(place(bomb), **how)})
        said = rf"^w\.pth holds more than tensors \({named}\), and reading that can run code, so it is not read; "
        with pytest.raises(NotServable, match=said + "`cutaway model convert FILE weights.safetensors`") as error:
            loaded(folder, factories=ALLOWED, code=True)
        assert "torch.save(network.state_dict(), FILE)" in str(error.value)
        assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_torch_did_not_write(write, loaded, tmp_path: Path, protocol: int) -> None:
    for content in (Runs(os.mkdir, str(tmp_path / "ran")), {"weight": np.zeros(3)}):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(NotServable, match=r"^w\.pkl .* can run code.* where you trust .*torch\.save\(.*, FILE\)$"):
            read_state(tmp_path / "w.pkl", "w.pkl")
        assert not (tmp_path / "ran").exists()


WHOLE = saved(STATE)
OLD = saved(STATE, _use_new_zipfile_serialization=False)


def header(of: Any) -> bytes:
    text = json.dumps(of).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"{at}.pth", WHOLE[: len(WHOLE) * at // 8]) for at in range(8)),
        *((f"old{at}.pth", OLD[: len(OLD) * at // 8]) for at in range(1, 8)),
        ("text.pth", b"hello world\n" * 20),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
        ("zeros.pth", bytes(5000)),
        ("page.pth", b"<!DOCTYPE html><html></html>"),
    ],
)
def test_a_file_of_torch_save_that_is_not_whole(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NotServable, match=rf"^{name} (is no whole file of torch\.save; |holds no state dict)"):
        read_state(tmp_path / name, name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        save(STATE)[:40],
        save(STATE)[:-1],
        save(STATE) + b"more",
        b"\xff" * 200,
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}) + bytes(4),
        header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        WHOLE,
    ],
)
def test_a_safetensors_file_that_is_not_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(NotServable, match=r"^w\.safetensors is no whole safetensors file: [^/]*$"):
        read_state(tmp_path / "w.safetensors", "w.safetensors")


@pytest.mark.parametrize(
    ("content", "holds"),
    [([1, 2], "list"), (STATE["weight"], "Tensor"), ({"epoch": 3, "weights": STATE}, "'epoch', 'weights'"), (None, "NoneType")],
)
def test_a_file_without_a_state_dict(tmp_path: Path, content: Any, holds: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(
        NotServable, match=rf"^w\.pth holds no state dict, by itself or under one of state_dict, .*; it holds {holds}$"
    ):
        read_state(tmp_path / "w.pth", "w.pth")


@pytest.mark.filterwarnings("ignore:.*TorchScript archive:UserWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_as_weights(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(6, 3)).save(tmp_path / "w.pt")
    with pytest.raises(NotServable, match=r"^w\.pt is a TorchScript archive, .* `network: \{torchscript: FILE\}`"):
        read_state(tmp_path / "w.pt", "w.pt")


# Fitting


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(12))


def test_every_key_that_does_not_fit_is_named() -> None:
    state = {f"layers.{index}.weight": torch.zeros(2, 2) for index in range(12)}
    fit_state(Many(), dict(state), "w", strict=True)

    wrong = {**state, "layers.3.weight": torch.zeros(3, 2), "layers.5.weight": torch.zeros(4)}
    says = r"layers\.3\.weight is \[3, 2\], not \[2, 2\], layers\.5\.weight is \[4\], not \[2, 2\]$"
    with pytest.raises(NotServable, match="^w does not fit the network; wrong shapes: " + says):
        fit_state(Many(), dict(wrong), "w", strict=True)
    with pytest.raises(NotServable, match=says):  # shapes must fit even so
        fit_state(Many(), dict(wrong), "w", strict=False)

    others = {"layers.0.weight": torch.zeros(2, 2), **{f"more.{index}": torch.zeros(1) for index in range(9)}}
    missing = ", ".join(f"layers.{index}.weight" for index in range(1, 9))
    unexpected = ", ".join(f"more.{index}" for index in range(8))
    with pytest.raises(NotServable) as error:
        fit_state(Many(), dict(others), "w", strict=True)
    assert str(error.value) == (f"w does not fit the network; missing: {missing} and 3 more; unexpected: {unexpected} and 1 more")


def test_what_does_not_fit_is_logged_where_the_owner_wants_it_so(write, loaded) -> None:
    state = {"weight": STATE["weight"], "extra": torch.zeros(1)}
    weights = {"file": "w.safetensors", "strict": False}
    folder = write({**LINEAR, "weights": weights}, {"w.safetensors": save(state)})
    with capture_logs() as logs:
        model = loaded(folder, factories=ALLOWED)
    assert torch.equal(model.network.weight, STATE["weight"])
    (line,) = [line for line in logs if line["event"] == "weights do not fit in full"]
    assert (line["log_level"], line["file"], line["missing"], line["unexpected"]) == (
        "warning",
        "w.safetensors",
        ["bias"],
        ["extra"],
    )
    folder = write({**LINEAR, "weights": {**weights, "strict": True}}, {"w.safetensors": save(state)})
    with pytest.raises(NotServable, match=r"w\.safetensors does not fit the network; missing: bias; unexpected: extra$"):
        loaded(folder, factories=ALLOWED)


def test_weights_of_another_network_are_never_taken(write, loaded) -> None:
    weights = {"file": "w.safetensors", "strict": False}
    folder = write({**LINEAR, "weights": weights}, {"w.safetensors": save({"a.b": torch.zeros(1), "c": torch.zeros(2)})})
    with pytest.raises(NotServable, match="none of its 2 keys is one of the network's 2"):
        loaded(folder, factories=ALLOWED)


def test_files_older_than_the_counter_of_batch_norms() -> None:
    state = {name: value for name, value in nn.BatchNorm2d(4).state_dict().items() if name != "num_batches_tracked"}
    fit_state(nn.BatchNorm2d(4), state, "w", strict=True)


def test_a_prefix_that_is_the_networks_own_stays() -> None:
    network = nn.Sequential(OrderedDict(module=nn.Linear(6, 3)))
    fit_state(network, {f"module.{name}": value for name, value in STATE.items()}, "w", strict=True)
    assert same(network.module)
    with pytest.raises(NotServable, match="missing"):
        fit_state(nn.Linear(6, 3), {"a.weight": STATE["weight"], "b.bias": STATE["bias"]}, "w", strict=True)


# In a folder


def test_a_digest_that_is_pinned(write, loaded) -> None:
    file = save(STATE)
    digest = hashlib.sha256(file).hexdigest()
    pinned = {"file": "w.safetensors", "sha256": digest}
    assert loaded(write({**LINEAR, "weights": pinned}, {"w.safetensors": file}), factories=ALLOWED).file_digest == digest
    other = save({**STATE, "bias": STATE["bias"] + 1})
    found = hashlib.sha256(other).hexdigest()
    with pytest.raises(NotServable, match=rf"^w\.safetensors has SHA-256 {found}, but model\.yaml pins {digest}$"):
        loaded(write({**LINEAR, "weights": pinned}, {"w.safetensors": other}), factories=ALLOWED)


def test_a_network_without_its_weights(write, loaded) -> None:
    with pytest.raises(
        NotServable, match=r"^the network has 21 parameters, and no weights for them: name their file as weights in model\.yaml"
    ):
        loaded(write(LINEAR), factories=ALLOWED)
    no_weights = {"network": {"factory": "torch.nn:Flatten"}, "inputs": [{"shape": [2, 3]}]}
    assert loaded(write(no_weights), factories=("torch.nn:Flatten",)).parameter_count == 0


def test_weights_that_are_broken(write, loaded) -> None:
    state = {**STATE, "bias": torch.tensor([0.0, float("nan"), 0.0])}
    with pytest.raises(NotServable, match=r"^of the 6 scores for a probe 2 are NaN or infinite: its weights are broken$"):
        loaded(write({**LINEAR, "weights": "w.pth"}, {"w.pth": saved(state)}), factories=ALLOWED)


@pytest.mark.parametrize("name", ["w.safetensors", "sub/w.safetensors"])
def test_a_link_out_of_the_folder(write, loaded, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w.safetensors").write_bytes(save(STATE))
    folder = write({**LINEAR, "weights": name})
    link = folder / name.split("/")[0]
    link.symlink_to(tmp_path / "outside" / ("w.safetensors" if link.suffix else ""))
    with pytest.raises(NotServable, match=f"^{name} leads out of the model's folder, by a link or by '..'$"):
        loaded(folder, factories=ALLOWED)


def test_a_link_within_the_folder(write, loaded) -> None:
    folder = write({**LINEAR, "weights": "w.safetensors"}, {"real": save(STATE)})
    (folder / "w.safetensors").symlink_to("real")
    assert same(loaded(folder, factories=ALLOWED).network)


def test_a_file_that_is_not_there(write, loaded) -> None:
    for name in ("w.safetensors", "sub/w.pth"):
        with pytest.raises(NotServable, match=f"^there is no file {name}$"):
            loaded(write({**LINEAR, "weights": name}), factories=ALLOWED)


# Taking tensors out of files that hold more


def test_tensors_beside_objects_of_any_kind(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=0.1, path=Path("x")), "best": np.float64(0.9), "config": {1: {2}}}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(NotServable, match="holds more than tensors"):
        read_state(tmp_path / "w.pth", "w.pth")
    found = rescue_state(tmp_path / "w.pth", "w.pth")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_a_whole_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = OfOurs()
    network.body[0].register_forward_hook(Hook())
    for content in (network, {"epoch": 1, "model": network}):
        torch.save(content, tmp_path / "w.pth")
        found = rescue_state(tmp_path / "w.pth", "w.pth")
        expected = network.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


class Hook:
    def __call__(self, *given: object) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    ("call", "argument", "blocked"),
    [
        (os.mkdir, "{}", True),
        (os.system, "mkdir {}", True),
        (eval, "__import__('os').mkdir('{}')", False),
        (exec, "import os; os.mkdir('{}')", False),
        (__import__, "os", False),
        (Path, "{}", False),
    ],
)
def test_nothing_runs_while_tensors_are_taken_out(tmp_path: Path, call: Any, argument: str, *, blocked: bool) -> None:
    mark = tmp_path / "ran"
    torch.save({"state_dict": STATE, "bomb": Runs(call, argument.format(mark))}, tmp_path / "w.pth")
    if blocked:  # PyTorch refuses whatever is of the module os
        with pytest.raises(NotServable, match="holds more than tensors"):
            rescue_state(tmp_path / "w.pth", "w.pth")
    else:
        assert rescue_state(tmp_path / "w.pth", "w.pth").keys() == STATE.keys()
    assert not mark.exists()


def test_nothing_is_imported_while_tensors_are_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imports_and_marks.py").write_text(
        "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nclass A: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from imports_and_marks import A

    torch.save({"model": STATE, "a": A()}, tmp_path / "w.pth")
    (tmp_path / "ran").unlink()
    monkeypatch.delitem(sys.modules, "imports_and_marks")
    assert rescue_state(tmp_path / "w.pth", "w.pth").keys() == STATE.keys()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("state", [{"_modules": 3}, {"_modules": {}, "_parameters": 3, "_buffers": {}}, {"_modules": {"a": 1}}])
def test_a_network_that_is_none(tmp_path: Path, state: Any) -> None:
    network = Hook()
    vars(network).update(state)
    torch.save(network, tmp_path / "w.pth")
    with pytest.raises(NotServable, match="holds more than tensors"):
        rescue_state(tmp_path / "w.pth", "w.pth")


def test_a_network_without_end(tmp_path: Path) -> None:
    network = Hook()
    vars(network).update(_modules={"again": network}, _parameters={}, _buffers={})
    torch.save(network, tmp_path / "w.pth")
    with pytest.raises(NotServable, match="holds more than tensors"):
        rescue_state(tmp_path / "w.pth", "w.pth")


def test_an_archive_that_is_no_file_of_torch_save(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(NotServable, match=r"is no whole file of torch\.save"):
        rescue_state(tmp_path / "w.pth", "w.pth")
