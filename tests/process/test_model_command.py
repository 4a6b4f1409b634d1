"""`cutaway model add`, `check`, `convert` and `schema`, as a user runs them."""

import hashlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

import cutaway
from cutaway.cli import main
from cutaway_server.models.engine_choice import ENGINES
from cutaway_server.models.repository.load import Hardware, Permissions, load
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from torchvision_shim import models as torchvision_models

QUIET = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "threads": 1, "lanes": 1, "max_batch": 1, "log_level": "error"}
LINEAR = ("--allow-factory", "torch.nn:Linear", "--factory", "torch.nn:Linear", "--arg", "in_features=6", "--arg", "out_features=3")
STATE = {"weight": torch.arange(18.0).reshape(3, 6) / 7, "bias": torch.tensor([1.0, -2.0, 0.5])}


def run(*words: object) -> Result:
    before = torch.get_num_threads()
    try:
        return CliRunner().invoke(main, ["model", *map(str, words)], catch_exceptions=False)
    finally:
        torch.set_num_threads(before)


def fails(*words: object) -> str:
    """What it says on standard error, in whole lines, as it exits with 1 or 2."""
    result = run(*words)
    assert result.exit_code in (1, 2), result.output
    return " ".join(result.stderr.split())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"state_dict": {f"module.{name}": value for name, value in STATE.items()}}, tmp_path / "linear.pth")
    return tmp_path / "linear.pth"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


# add


def test_add_writes_a_folder_that_serves(tmp_path: Path, root: Path, digits: np.ndarray) -> None:
    torch.manual_seed(3)
    network = torchvision_models.squeezenet1_1(num_classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    (tmp_path / "classes.txt").write_text("cat\ndog\nfox\nowl\n")
    words = ("--factory", "torchvision.models:squeezenet1_1", "--arg", "num_classes=4", "--preset", "imagenet")
    files = ("--weights", tmp_path / "trained.pth", "--labels", tmp_path / "classes.txt")
    result = run("add", "photo", "--models", root, *words, *files)
    assert result.exit_code == 0, result.output
    folder = root / "photo" / "1"
    assert f"wrote {folder}; it loads and runs" in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["labels.txt", "model.yaml", "weights.safetensors"]
    assert [path.name for path in root.iterdir()] == ["photo"], "no draft is left"
    assert yaml.safe_load((folder / "model.yaml").read_text()) == {
        "network": {"factory": "torchvision.models:squeezenet1_1", "arguments": {"num_classes": 4}},
        "inputs": [{"image": "imagenet"}],
        "scores": "logits",
        "labels": "labels.txt",
        "weights": {
            "file": "weights.safetensors",
            "sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        },
    }
    stored = load_file(folder / "weights.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in network.state_dict().items())

    model = load(folder, "photo", "1", Permissions(), Hardware(), look_inside=False)  # that add did
    x = torch.randn(2, 3, 224, 224)
    with Server([model], load_settings(QUIET)) as server, cutaway.Client(server.address, timeout=60) as client:
        predicted = client.predict("photo", x.numpy(), top_k=1)
    with torch.inference_mode():
        expected = network(x)
    np.testing.assert_allclose(predicted.scores, expected, rtol=1e-5, atol=1e-6)
    assert [top[0].label for top in predicted.top] == [["cat", "dog", "fox", "owl"][index] for index in expected.argmax(1)]


def test_versions_count_up_and_none_is_written_over(root: Path, weights: Path) -> None:
    add = ("add", "linear", "--models", root, *LINEAR, "--weights", weights, "--shape", "6")
    assert run(*add).exit_code == run(*add).exit_code == run(*add, "--version", 7).exit_code == run(*add).exit_code == 0
    assert sorted(path.name for path in (root / "linear").iterdir()) == ["1", "2", "7", "8"]
    before = (root / "linear" / "7" / "model.yaml").stat()
    assert "is there already; a version is never written over" in fails(*add, "--version", 7)
    assert (root / "linear" / "7" / "model.yaml").stat() == before


GIVEN = {"--weights": "linear.pth", "--shape": "6"}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "linear",
            {"--weights": None},
            "the network has 21 parameters, and no weights for them: name .* or by --weights of `cutaway model add`",
        ),
        ("linear", {"--shape": "7"}, r"the network fails on \[2, 7\]"),
        ("linear", {"--shape": None}, "give --preset or --shape: what the network takes is never guessed"),
        ("linear", {"--shape": "a,b"}, "is no list of sizes, as 3,224,224 or 3,64-512,64-512"),
        ("linear", {"--shape": "0"}, "inputs.0.shape.0: must be a size of 1 or more"),
        ("linear", {"--arg": "no_such=1"}, "fails: TypeError: .* unexpected keyword argument 'no_such'"),
        ("linear", {"--arg": "bias"}, "'bias' is no KEY=VALUE"),
        ("linear", {"--arg": "bias=["}, "is no YAML value"),
        ("linear", {"--labels": "none.txt"}, "--labels none.txt: there is no such file; give one, or imagenet"),
        ("linear", {"--labels": "labels.txt"}, "2 labels for 3 classes"),
        ("linear", {"--labels": "empty.txt"}, "--labels empty.txt holds no labels"),
        ("linear", {"--labels": "imagenet"}, "1000 labels for 3 classes"),
        ("linear", {"--scores": "sigmoid"}, "the scores are declared sigmoid, but for a probe they are not between 0 and 1"),
        ("linear", {"--head": "out"}, "there is no tensor 'out' in what the network gives"),
        ("linear", {"--weights": "bomb.pth"}, r"bomb.pth holds more than tensors \(\w+.mkdir\)"),
        (
            "linear",
            {"--weights": "other.pth"},
            "--weights other.pth does not fit the network; missing: weight, bias; unexpected: other",
        ),
        ("linear", {"--onnx": "labels.txt"}, "give exactly one of --factory, --module, --exported, --torchscript, --onnx"),
        ("../linear", {}, "'../linear' is no name for a model"),
        (".linear", {}, "'.linear' is no name for a model"),
        ("a/b", {}, "'a/b' is no name for a model"),
        ("", {}, "'' is no name for a model"),
    ],
)
def test_add_writes_all_or_nothing(
    tmp_path: Path, root: Path, weights: Path, name: str, options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("a\nb\n")
    Path("empty.txt").touch()
    torch.save(Bomb(tmp_path / "ran"), "bomb.pth")
    torch.save({"other": torch.zeros(1)}, "other.pth")
    words = [word for pair in {**GIVEN, **options}.items() if pair[1] is not None for word in pair]
    assert re.search(says, fails("add", name, "--models", root, *LINEAR, *words))
    assert not root.exists() or not list(root.rglob("*"))
    assert not (tmp_path / "ran").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path != root) == [
        "bomb.pth",
        "empty.txt",
        "labels.txt",
        "linear.pth",
        "other.pth",
    ]


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_factory_that_is_not_allowed(root: Path) -> None:
    said = fails("add", "linear", "--models", root, "--factory", "torch.nn:Linear", "--shape", "6")
    assert "factory torch.nn:Linear is not allowed; the operator allows it by --allow-factory torch.nn:Linear" in said


def test_a_module_with_its_flag(tmp_path: Path, root: Path) -> None:
    text = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\nfrom torch import nn\nbuild = nn.Softmax\n"
    (tmp_path / "mine.py").write_text(text)
    probabilities = ("--arg", "dim=1", "--shape", "4", "--scores", "probabilities")
    add = ("add", "soft", "--models", root, "--module", tmp_path / "mine.py", *probabilities)
    assert "--module mine.py is a program, or can hold one, and is not read; the operator allows that by --allow-code" in fails(
        *add
    )
    assert not (tmp_path / "ran").exists()
    assert run(*add, "--allow-code").exit_code == 0
    assert (root / "soft" / "1" / "module.py").read_text() == text
    network = yaml.safe_load((root / "soft" / "1" / "model.yaml").read_text())["network"]
    assert network == {"module": "module.py", "arguments": {"dim": 1}}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_file_that_brings_its_weights(tmp_path: Path, root: Path, weights: Path) -> None:
    torch.jit.trace(nn.Linear(6, 3), torch.zeros(2, 6)).save(tmp_path / "net.pt")
    add = ("add", "script", "--models", root, "--torchscript", tmp_path / "net.pt", "--shape", "6", "--allow-code")
    assert run(*add).exit_code == 0
    assert (root / "script" / "1" / "network.pt").read_bytes() == (tmp_path / "net.pt").read_bytes()
    assert "weights are for factory and module; network.pt brings its own" in fails(*add, "--weights", weights)


def test_onnx_with_its_tensors_beside_it(tmp_path: Path, root: Path) -> None:
    tensors = [numpy_helper.from_array(STATE["weight"].numpy(), "weight"), numpy_helper.from_array(STATE["bias"].numpy(), "bias")]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", width]) for name, width in (("x", 6), ("y", 3))]
    node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    onnx.save(made, tmp_path / "mine" / "mine.onnx", save_as_external_data=True, location="data/all.bin", size_threshold=0)
    add = ("add", "linear", "--models", root, "--onnx", tmp_path / "mine" / "mine.onnx", "--shape", "6")
    assert run(*add).exit_code == 0
    folder = root / "linear" / "1"
    assert (folder / "data" / "all.bin").read_bytes() == (tmp_path / "mine" / "data" / "all.bin").read_bytes()
    checked = run("check", folder)
    size = (folder / "network.onnx").stat().st_size + 84
    assert re.search(rf"weights +│ {size} B, digest", checked.stdout), checked.output
    (tmp_path / "mine" / "data" / "all.bin").unlink()
    said = fails(*add)
    assert "mine.onnx has tensors in 'all.bin', and no such file lies beside it or in a folder there" in said
    assert str(tmp_path) not in said
    assert [path.name for path in (root / "linear").iterdir()] == ["1"]


# check


@pytest.fixture
def some(root: Path, weights: Path, tmp_path: Path) -> Path:
    """A folder with a good model of two versions, and bad ones."""
    add = ("add", "linear", "--models", root, *LINEAR, "--weights", weights, "--shape", "6")
    assert run(*add).exit_code == run(*add).exit_code == 0
    bad = {
        "broken": "network: {factory: 'a:b'}\ninputs: [{shap: [3]}]",
        "away": "network: {onnx: net.onnx}\ninputs: [{shape: [3]}]",
    }
    for name, manifest in bad.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.yaml").write_text(manifest)
    (root / "empty" / "1").mkdir(parents=True)
    (root / "bare").mkdir()
    (root / "linked").symlink_to(tmp_path)
    return root


def test_check_tells_good_from_bad(some: Path) -> None:
    result = run("check", some, *LINEAR[:2])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("cannot be served:")] == [
        "cannot be served: away version 1: there is no file net.onnx",
        "cannot be served: broken version 1: model.yaml: inputs.0.shap: unknown key; did you mean shape?",
        "cannot be served: empty version 1: the folder is empty; it needs a model.yaml",
        "cannot be served: bare: it has no version; a model.yaml stands in NAME/VERSION/, as NAME/1/",
        "cannot be served: linked: linked is a link out of the folder of models",
    ]
    assert lines.count("can be served") == 2


@pytest.mark.parametrize("where", ["linear/1", "linear"])
def test_check_of_one(some: Path, where: str) -> None:
    result = run("check", some / where, *LINEAR[:2])
    assert result.exit_code == 0, result.output
    said = result.stdout
    assert "linear version 1" in said
    assert re.search(r"weights +│ 21 parameters, 84 B", said)
    assert f"SHA-256 {hashlib.sha256((some / 'linear/1/weights.safetensors').read_bytes()).hexdigest()}" in said
    assert re.search(r"input +│ input: float32 \[N, 6\]", said)
    assert re.search(r"scores +│ logits, 3 classes, 0 labels", said)
    for batch in (1, 2, 8):
        assert re.search(rf"Predict, batch of {batch} +│ .*, median of 5", said)
    assert "note: its 3 classes have no labels; answers will have numbers only" in said
    assert "note: it takes tensors only: no input has an image, so photographs are refused" in said
    assert said.rstrip().endswith("can be served")


def test_check_takes_versions_as_numbers(some: Path) -> None:
    (some / "linear" / "2").rename(some / "linear" / "10")
    (some / "linear" / ".draft").mkdir()
    (some / "linear" / "1").rename(some / "linear" / "9")
    reports = json.loads(run("check", some / "linear", *LINEAR[:2], "--json").stdout)
    assert [one["version"] for one in reports] == ["9", "10"]


def test_check_needs_the_same_flags(some: Path) -> None:
    result = run("check", some / "linear")
    assert result.exit_code == 1
    said = "cannot be served: linear version {}: factory torch.nn:Linear is not allowed; the operator allows it by --allow-factory"
    assert [said.format(version) in result.stdout for version in (1, 2)] == [True, True]


def test_check_as_json(some: Path) -> None:
    result = run("check", some, *LINEAR[:2], "--json")
    assert result.exit_code == 1
    reports = {(one["model"], one["version"]): one for one in json.loads(result.stdout)}
    assert reports["away", "1"] == {"model": "away", "version": "1", "problem": "there is no file net.onnx"}
    good = reports["linear", "2"]
    assert (good["parameters"], good["bytes"], good["classes"], good["device"]) == (21, 84, 3, "cpu")
    assert good["engine"] in ENGINES
    assert good["inputs"] == [{"name": "input", "shape": "[N, 6]", "image": False}]
    assert good["file_digest"] == hashlib.sha256((some / "linear/2/weights.safetensors").read_bytes()).hexdigest()
    assert set(good["predict_seconds"]) == {"1", "2", "8"}
    assert all(seconds > 0 for seconds in good["predict_seconds"].values())
    assert len(reports) == 7


MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.never = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return torch.relu(self.conv(x)).mean((2, 3))

class Random(Net):
    def forward(self, x):
        return super().forward(x) + torch.rand(4)

class Pairs(Net):
    def forward(self, x):
        if len(x) == 8:
            raise RuntimeError("at most seven")
        return super().forward(x)

class Raises(Net):
    def forward(self, x):
        raise RuntimeError("/somewhere/of/ours/a.bin is missing")
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def written(name: str) -> Path:
        folder = tmp_path / "models" / name.lower() / "1"
        folder.mkdir(parents=True)
        scope: dict[str, Any] = {}
        exec(MODULE, scope)
        torch.manual_seed(1)
        save_file(scope[name]().state_dict(), folder / "w.safetensors")
        (folder / "net.py").write_text(MODULE)
        network = {"module": "net.py", "callable": name}
        content = {"network": network, "weights": "w.safetensors", "inputs": [{"shape": [3, 8, 8]}], "labels": "labels.json"}
        (folder / "model.yaml").write_text(yaml.safe_dump(content))
        (folder / "labels.json").write_text(json.dumps(list("abcd")))
        return folder

    return written


def test_check_lists_the_layers_and_tries_the_hooks(written: Callable[[str], Path]) -> None:
    result = run("check", written("Net"), "--allow-code")
    assert result.exit_code == 0, result.output
    rows = [re.split(r" *│ *", line.strip("│ ")) for line in result.stdout.splitlines() if re.match(r"│ +\d+ │", line)]
    assert [row[1:5] for row in rows] == [
        ["conv", "Conv2d", "N x 4 x 6 x 6", "576 B"],
        ["relu", "relu", "N x 4 x 6 x 6", "576 B"],
        ["mean", "mean", "N x 4", "16 B"],
    ]
    assert "hooks: a private copy shows every layer as the network itself runs it, bit for bit" in result.stdout
    assert re.search(r"maps: .*grad-cam", result.stdout)
    assert "note: 1 of its modules never run, and cannot be captured: never" in result.stdout


def test_check_says_what_would_fail(written: Callable[[str], Path]) -> None:
    random = run("check", written("Random"), "--allow-code")
    assert random.exit_code == 0, "Predict would serve it"
    assert re.search("note: Introspect is refused: layer '.*' does not give the same each time for the same input", random.stdout)
    assert "hooks: a private copy" not in random.stdout
    pairs = run("check", written("Pairs"), "--allow-code")
    assert re.search(r"Predict, batch of 8 +│ fails", pairs.stdout)
    assert "note: Predict fails on batches of 8" in pairs.stdout
    raises = run("check", written("Raises"), "--allow-code")
    assert raises.exit_code == 1
    assert "cannot be served: raises version 1: the network fails on [2, 3, 8, 8]: a.bin is missing" in raises.stdout


def test_check_of_nothing(tmp_path: Path) -> None:
    assert "holds no model: a model.yaml stands in NAME/VERSION/" in fails("check", tmp_path)
    assert "does not exist" in fails("check", tmp_path / "nowhere")


@pytest.mark.parametrize("folder", ["mine/1", "mine"])
def test_check_reads_no_program_without_the_flag(tmp_path: Path, folder: str) -> None:
    """An archive of torch.export whose sample inputs are a program."""
    place = tmp_path / "mine" / "1"
    place.mkdir(parents=True)
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), bomb)
    with zipfile.ZipFile(place / "net.pt2", "w") as archive:
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/data/sample_inputs/model.pt", bomb.getvalue())
    (place / "model.yaml").write_text("network: {exported: net.pt2}\ninputs: [{shape: [3]}]")
    result = run("check", tmp_path / folder)
    assert result.exit_code == 1
    assert "net.pt2 is a program, or can hold one, and is not read; the operator allows that by --allow-code" in result.stdout
    assert not (tmp_path / "ran").exists()


# convert


def test_convert(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "linear.safetensors"
    result = run("convert", weights, out)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == f"wrote {out}: 2 tensors, 21 numbers"
    assert load_file(out).keys() == {"module.weight", "module.bias"}
    assert f"{out} is there already" in fails("convert", weights, out)
    assert "OUT must end in .safetensors" in fails("convert", weights, tmp_path / "linear.pth2")


def test_convert_a_whole_network_without_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As people save them: torch.save(network). Its class is known nowhere when it is read."""
    elsewhere = ModuleType("elsewhere")
    exec(MODULE, vars(elsewhere))
    with monkeypatch.context() as there:
        there.setitem(sys.modules, "elsewhere", elsewhere)
        network = elsewhere.Net()
        torch.save(network, tmp_path / "whole.pth")
    add = ("add", "net", "--models", tmp_path / "models", *LINEAR, "--shape", "6")
    assert "`cutaway model convert FILE weights.safetensors`" in fails(*add, "--weights", tmp_path / "whole.pth")
    assert run("convert", tmp_path / "whole.pth", tmp_path / "out.safetensors").exit_code == 0
    expected, found = network.state_dict(), load_file(tmp_path / "out.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": whole, "b": whole, "c": whole.T, "d": whole[0]}, tmp_path / "w.pth")
    assert run("convert", tmp_path / "w.pth", tmp_path / "w.safetensors").exit_code == 0
    found = load_file(tmp_path / "w.safetensors")
    assert torch.equal(found["c"], whole.T)
    assert torch.equal(found["d"], whole[0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            lambda mark: {"state_dict": STATE, "bomb": Bomb(mark)},
            r"holds more than tensors \(\w+.mkdir\)",
        ),
        (lambda mark: [1], "holds no state dict"),
        (lambda mark: {"a": torch.eye(3).to_sparse()}, "cannot be written as safetensors"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse:UserWarning")
def test_what_is_not_converted(tmp_path: Path, content: Callable[[Path], Any], says: str) -> None:
    torch.save(content(tmp_path / "ran"), tmp_path / "w.pth")
    assert re.search(says, fails("convert", tmp_path / "w.pth", tmp_path / "w.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pth"]


# schema


@pytest.mark.parametrize(("words", "key"), [((), "network"), (("--versions",), "serve")])
def test_schema(words: tuple[str, ...], key: str) -> None:
    result = run("schema", *words)
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert key in schema["properties"]


ODD = """
import torch

class Odd(torch.nn.Module):
    def forward(self, x):
        if len(x) == 3:
            raise RuntimeError("three is a crowd")
        return x.flatten(1)

build = Odd
"""


def test_check_tells_what_is_amiss_in_a_line(root: Path) -> None:
    folder = root / "odd" / "1"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text(ODD)
    (folder / "model.yaml").write_text("network: {module: module.py}\ninputs: [{shape: [1, 4, 4]}]\n")
    ended = run("check", root, "--allow-code")
    assert ended.exit_code == 0, ended.output
    assert "note: Introspect is refused" in ended.stdout
    assert set(ended.stderr.splitlines()) == {"warning: no introspection; RuntimeError: three is a crowd"}
