"""Networks from files that are programs, or can hold one: module.py, torch.export, TorchScript; and from ONNX, which is none."""

import hashlib
import inspect
import io
import os
import re
import subprocess
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save, save_file
from torch import Tensor, nn

import cutaway
from cutaway_server.models.model import Model, NotServable
from cutaway_server.models.sources.exported import build_from_exported
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from server_process import run_server, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
QUIET = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "threads": 1, "lanes": 1, "max_batch": 1, "log_level": "error"}
NOT_READ = "is a program, or can hold one, and is not read; the operator allows that by --allow-code"


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)) + x)


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.stem(x)))
        return self.fc(x.mean((2, 3)))


SOURCE = "import torch\nfrom torch import Tensor, nn\n\n" + inspect.getsource(Block) + inspect.getsource(Net) + "\nbuild = Net\n"
INPUTS = [{"shape": [3, 20, 24]}]
X = torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def eager() -> Net:
    torch.manual_seed(2)
    network = Net()
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 20, 24))  # so that its running statistics are its own
    return network.eval()


@pytest.fixture(scope="module")
def expected(eager: Net) -> np.ndarray:
    with torch.no_grad():
        return eager(X).numpy()


def served(model: Model, ask: Callable[[cutaway.Client], Any]) -> Any:
    with Server([model], load_settings(QUIET)) as server, cutaway.Client(server.address, timeout=30) as client:
        return ask(client)


def module_outputs(network: nn.Module) -> dict[str, np.ndarray]:
    """What each module puts out, by plain hooks that clone."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output.clone().numpy()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules() if name]
    with torch.no_grad():
        network(X)
    for handle in handles:
        handle.remove()
    return seen


class Touches:
    """Pickled, it is a program that makes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


# module.py


def test_a_module_runs_only_where_code_is_allowed(write, loaded, tmp_path: Path, eager: Net, expected: np.ndarray) -> None:
    marks = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n{SOURCE}"
    manifest = {"network": {"module": "module.py"}, "weights": "w.safetensors", "inputs": INPUTS}
    folder = write(manifest, {"module.py": marks, "w.safetensors": save(eager.state_dict())})
    with pytest.raises(NotServable, match=rf"^module\.py {NOT_READ}$"):
        loaded(folder)
    assert not (tmp_path / "ran").exists()
    model = loaded(folder, code=True)
    assert (tmp_path / "ran").exists()
    assert not model.not_introspectable
    np.testing.assert_array_equal(served(model, lambda client: client.predict("net", X.numpy()).scores), expected)
    assert sorted(path.name for path in folder.iterdir()) == ["model.yaml", "module.py", "w.safetensors"], (
        "nothing was written there"
    )


def test_two_files_of_one_name_stay_apart(write, loaded) -> None:
    text = "from torch import nn\nKIND = {kind}\ndef build():\n    return nn.Sequential(nn.Flatten(), KIND())\n"
    manifest = {"network": {"module": "module.py"}, "inputs": [{"shape": [6]}]}
    folders = [write(manifest, {"module.py": text.format(kind=f"nn.{kind}")}, kind.lower()) for kind in ("ReLU", "Tanh", "ELU")]
    models = [loaded(folder, code=True) for folder in folders]
    assert [type(model.network[1]).__name__ for model in models] == ["ReLU", "Tanh", "ELU"]
    x = torch.randn(2, 6)
    for model in models:  # mirrors come from the factory of each: it still sees its own file
        np.testing.assert_array_equal(model.make_mirror().network(x), model.network(x))


def test_a_module_that_changed_runs_as_it_is_now(write, loaded) -> None:
    """Python's own cache of compiled files would take a change within a second, of one length, for none."""
    manifest = {"network": {"module": "module.py"}, "inputs": [{"shape": [6]}]}
    for kind in ("ReLU", "Tanh", "SiLU", "GELU"):
        folder = write(manifest, {"module.py": f"from torch import nn\nbuild = nn.{kind}"})
        os.utime(folder / "module.py", (1_700_000_000, 1_700_000_000))
        assert type(loaded(folder, code=True).network).__name__ == kind


def test_its_function_and_arguments(write, loaded) -> None:
    text = "from torch import nn\ndef make(width, *, bias): return nn.AvgPool1d(width, ceil_mode=bias)"
    network = {"module": "module.py", "callable": "make", "arguments": {"width": 2, "bias": True}}
    model = loaded(write({"network": network, "inputs": [{"shape": [4, 6]}]}, {"module.py": text}), code=True)
    assert (model.network.kernel_size, model.network.ceil_mode) == ((2,), True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def build(): return 3", "gives a int, not a network"),
        ("def built(): pass", "AttributeError: module 'cutaway_model_net_1' has no attribute 'build'"),
        ("def build(: pass", r"SyntaxError: invalid syntax \(module.py, line 1\)"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def build(): open('/somewhere/else/a.bin')", "FileNotFoundError: .* directory: 'a.bin'$"),
        ("def build(): raise ValueError", "ValueError: ValueError"),
        ("\0", "(SyntaxError|ValueError): source code string cannot contain null bytes"),
    ],
)
def test_a_module_that_makes_no_network(write, loaded, text: str, says: str) -> None:
    folder = write({"network": {"module": "module.py"}, "inputs": [{"shape": [6]}]}, {"module.py": text})
    with pytest.raises(NotServable, match=rf"^module\.py, build\(\): {says}"):
        loaded(folder, code=True)


SETTINGS = {
    "torch.set_default_dtype(torch.float64)": torch.get_default_dtype,
    "torch.set_default_device('meta')": torch.get_default_device,
    "torch.set_grad_enabled(False)": torch.is_grad_enabled,
    "torch.set_num_threads(torch.get_num_threads() + 1)": torch.get_num_threads,
    "torch.use_deterministic_algorithms(True)": torch.are_deterministic_algorithms_enabled,
}


DTYPE = next(iter(SETTINGS))


@pytest.mark.parametrize(("call", "where"), [*((call, "build") for call in SETTINGS), (DTYPE, "the file"), (DTYPE, "forward")])
def test_a_module_that_changes_how_others_compute(write, loaded, call: str, where: str) -> None:
    lines = {"the file": "", "build": "", "forward": "", where: call}
    text = f"""
import torch
{lines["the file"]}
class Net(torch.nn.Linear):
    def forward(self, x):
        {lines["forward"]}
        return super().forward(x)

def build():
    {lines["build"]}
    return Net(3, 2)
"""
    folder = write(
        {"network": {"module": "module.py"}, "weights": "w.safetensors", "inputs": [{"shape": [3]}]}, {"module.py": text}
    )
    save_file(nn.Linear(3, 2).state_dict(), folder / "w.safetensors")
    before = {each: read() for each, read in SETTINGS.items()}
    with pytest.raises(
        NotServable, match=rf"^loading it changes {re.escape(call.partition('(')[0])}, which holds for other models"
    ):
        loaded(folder, code=True)
    assert {each: read() for each, read in SETTINGS.items()} == before


@pytest.mark.parametrize("source", ["module", "exported", "torchscript"])
def test_the_digest_of_a_program_is_pinned(write, loaded, source: str) -> None:
    file = b"raise SystemExit"
    folder = write({"network": {source: "file", "sha256": "0" * 64}, "inputs": [{"shape": [6]}]}, {"file": file})
    found = hashlib.sha256(file).hexdigest()
    with pytest.raises(NotServable, match=f"^file has SHA-256 {found}, but model.yaml pins {'0' * 64}$"):
        loaded(folder, code=True)


# torch.export


@pytest.fixture(scope="module")
def archive(eager: Net) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=64)
    opened = io.BytesIO()
    torch.export.save(torch.export.export(eager, (X,), dynamic_shapes=({0: batch},)), opened)
    return opened.getvalue()


EXPORTED = {"network": {"exported": "net.pt2"}, "inputs": INPUTS}


def test_an_archive_shows_what_the_network_it_came_from_shows(
    write, loaded, archive: bytes, eager: Net, expected: np.ndarray
) -> None:
    model = loaded(write(EXPORTED, {"net.pt2": archive}), code=True)
    assert model.not_introspectable == ""
    assert model.file_digest == hashlib.sha256(archive).hexdigest()
    seen = module_outputs(eager)

    def ask(client: cutaway.Client) -> Any:
        cams = [cutaway.Cam("grad-cam", "layer1.1.bn")]
        return client.predict("net", X.numpy()), client.introspect("net", X.numpy(), layers=list(seen), cams=cams)

    predicted, inside = served(model, ask)
    np.testing.assert_array_equal(predicted.scores, expected)
    assert len(seen) == 11
    assert inside.activations.keys() == seen.keys()
    for name, output in seen.items():
        np.testing.assert_array_equal(inside.activations[name], output, err_msg=name)
    assert inside.cams[0].map.shape == (3, 18, 22)


def hostile(archive: bytes, mark: Path) -> bytes:
    """The archive, its sample inputs, which torch unpickles, replaced by a program."""
    bomb, made = io.BytesIO(), io.BytesIO()
    torch.save(Touches(mark), bomb)
    with zipfile.ZipFile(io.BytesIO(archive)) as whole, zipfile.ZipFile(made, "w") as out:
        pickled = [part for part in whole.infolist() if "sample_inputs" in part.filename]
        assert pickled, "without them this proves nothing"
        for part in whole.infolist():
            out.writestr(part, bomb.getvalue() if part in pickled else whole.read(part))
    return made.getvalue()


def test_an_archive_is_not_touched_unless_code_is_allowed(write, loaded, archive: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    folder = write(EXPORTED, {"net.pt2": hostile(archive, mark)})
    with pytest.raises(NotServable, match=rf"^net\.pt2 {NOT_READ}$"):
        loaded(folder)
    assert not mark.exists()
    with pytest.raises(NotServable, match=r"^net\.pt2 is no archive of torch\.export that this PyTorch reads"):
        loaded(folder, code=True)
    assert mark.exists(), "where code is allowed it runs: that is why it needs the operator's word"


def test_a_server_without_the_flag_runs_nothing_of_its_folders(write, archive: bytes, tmp_path: Path) -> None:
    """Nor does the process in which it tries them."""
    marks = {kind: tmp_path / f"{kind}-ran" for kind in ("exported", "module", "weights")}
    write(EXPORTED, {"net.pt2": hostile(archive, marks["exported"])}, "exported")
    source = f"import os; os.mkdir({str(marks['module'])!r})\nfrom torch import nn\nbuild = nn.Flatten"
    write({"network": {"module": "module.py"}, "inputs": INPUTS}, {"module.py": source}, "module")
    bomb = io.BytesIO()
    torch.save(Touches(marks["weights"]), bomb)
    linear = {"factory": "torch.nn:Linear", "arguments": {"in_features": 6, "out_features": 3}}
    write({"network": linear, "weights": "w.pth", "inputs": [{"shape": [6]}]}, {"w.pth": bomb.getvalue()}, "weights")
    write({"network": {"factory": "torch.nn:Flatten"}, "inputs": INPUTS}, name="good")
    allowed = ("--allow-factory", "torch.nn:Linear", "--allow-factory", "torch.nn:Flatten")
    with run_server("--models", str(tmp_path / "models"), *allowed) as server, cutaway.Client(server.address, timeout=60) as client:
        wait_until(lambda: not any(model.state == "loading" for model in client.models()), 60)
        states = {model.name: (model.state, model.state_reason) for model in client.models()}
        assert client.predict("good", X.numpy()).scores.shape == (3, 3 * 20 * 24)
    assert states.pop("good") == ("ready", "")
    assert states.pop("exported") == ("failed", f"net.pt2 {NOT_READ}")
    assert states.pop("module") == ("failed", f"module.py {NOT_READ}")
    assert states["weights"][1].startswith(f"w.pth holds more than tensors ({os.name}.mkdir)")
    assert not any(mark.exists() for mark in marks.values())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", bytes(1000)])
def test_an_archive_that_is_none(write, loaded, content: bytes) -> None:
    with pytest.raises(NotServable, match=r"^net\.pt2 is no archive of torch\.export that this PyTorch reads: [^/]*$"):
        loaded(write(EXPORTED, {"net.pt2": content}), code=True)


def test_an_archive_for_one_size_of_batch(write, loaded, eager: Net) -> None:
    opened = io.BytesIO()
    torch.export.save(torch.export.export(eager, (X[:1],)), opened)
    with pytest.raises(NotServable, match=r"fails on \[2, 3, 20, 24\].*re-export and specify dynamic_shapes"):
        loaded(write(EXPORTED, {"net.pt2": opened.getvalue()}), code=True)


def test_reading_archives_leaves_the_answers_of_others_alone(write, loaded, archive: bytes, models, x: np.ndarray) -> None:
    """Tracing would patch torch for all threads; reading, unflattening, mirroring and checking must not."""
    folder = write(EXPORTED, {"net.pt2": archive})
    with Server(list(models.values()), load_settings(QUIET)) as server, cutaway.Client(server.address, timeout=30) as client:
        expected = {name: client.predict(name, x[:3]).scores for name in models}
        done = threading.Event()

        def ask(name: str) -> int:
            count = 0
            while not done.is_set():
                np.testing.assert_array_equal(client.predict(name, x[:3]).scores, expected[name])
                count += 1
            return count

        with ThreadPoolExecutor(len(models)) as callers:
            asking = [callers.submit(ask, name) for name in models]
            try:
                for _ in range(4):
                    build_from_exported(folder / "net.pt2")
                    loaded(folder, code=True)
            finally:
                done.set()
            assert all(answered.result() > 20 for answered in asking)


# TorchScript and ONNX: Predict alone


def refused(client: cutaway.Client) -> tuple[np.ndarray, cutaway.Error, Any]:
    scores = client.predict("net", X.numpy()).scores
    with pytest.raises(cutaway.Error) as error:
        client.introspect("net", X.numpy(), layers=["*"])
    return scores, error.value, client.model("net")


@pytest.mark.parametrize("make", [torch.jit.script, lambda network: torch.jit.trace(network, X)], ids=["scripted", "traced"])
def test_torchscript_predicts_and_says_why_it_shows_nothing(write, loaded, eager: Net, expected: np.ndarray, make) -> None:
    opened = io.BytesIO()
    torch.jit.save(make(eager), opened)
    folder = write({"network": {"torchscript": "net.pt"}, "inputs": INPUTS}, {"net.pt": opened.getvalue()})
    with pytest.raises(NotServable, match=rf"^net\.pt {NOT_READ}$"):
        loaded(folder)
    scores, error, model = served(loaded(folder, code=True), refused)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "it is TorchScript, which takes no hooks; serve the eager network, or export it by torch.export, instead" in str(error)
    assert not list(model.layers)


def test_torchscript_that_is_none(write, loaded) -> None:
    folder = write({"network": {"torchscript": "net.pt"}, "inputs": INPUTS}, {"net.pt": b"no archive"})
    with pytest.raises(NotServable, match=r"^net\.pt is no TorchScript archive: [^/]*$"):
        loaded(folder, code=True)


def onnx_file(eager: Net, batch: str | int = "N", *, both: bool = False) -> onnx.ModelProto:
    """The network written as a graph by hand: batch norms, residual sums and all."""
    state = {name: value.numpy() for name, value in eager.state_dict().items() if "num_batches" not in name}
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight", "stem.bias"], ["stem"]),
        helper.make_node("Relu", ["stem"], ["at0"]),
    ]
    for index in (0, 1):
        at, own = f"at{index}", f"layer1.{index}"
        norm = [f"{own}.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        nodes += [
            helper.make_node("Conv", [at, f"{own}.conv.weight", f"{own}.conv.bias"], [f"{own}.c"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"{own}.c", *norm], [f"{own}.n"], epsilon=1e-5),
            helper.make_node("Add", [f"{own}.n", at], [f"{own}.s"]),
            helper.make_node("Relu", [f"{own}.s"], [f"at{index + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", ["at2"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["pooled", "fc.weight", "fc.bias"], ["scores"], transB=1),
    ]
    takes = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 20, 24])]
    gives = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])]
    if both:
        gives.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [batch, 8]))
    weights = [numpy_helper.from_array(value, name) for name, value in state.items()]
    graph = helper.make_graph(nodes, "net", takes, gives, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made


ONNX = {"network": {"onnx": "net.onnx"}, "inputs": INPUTS}


def test_onnx_predicts_and_says_why_it_shows_nothing(write, loaded, eager: Net, expected: np.ndarray) -> None:
    file = onnx_file(eager).SerializeToString()
    model = loaded(write(ONNX, {"net.onnx": file}))  # no program, so no flag
    assert (model.engine.name, model.file_digest) == ("onnxruntime", hashlib.sha256(file).hexdigest())
    assert model.weights_digest == model.file_digest
    assert model.weight_bytes == len(file), "what a budget counts"
    scores, error, described = served(model, refused)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "it is ONNX, whose layers are no modules; serve the PyTorch network that it was made from instead" in str(error)
    assert not list(described.layers)


def test_onnx_with_several_outputs_needs_a_head(write, loaded, eager: Net, expected: np.ndarray) -> None:
    file = {"net.onnx": onnx_file(eager, both=True).SerializeToString()}
    with pytest.raises(NotServable, match=r"several tensors; name one .* 'scores' \[2, 5\], 'pooled' \[2, 8\]"):
        loaded(write(ONNX, file))
    model = loaded(write({**ONNX, "head": "scores"}, file))
    scores = served(model, lambda client: client.predict("net", X.numpy()).scores)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_onnx_with_its_weights_beside_it(write, loaded, eager: Net, tmp_path: Path, expected: np.ndarray) -> None:
    folder = write(ONNX)
    onnx.save(onnx_file(eager), folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = loaded(folder)
    scores = served(model, lambda client: client.predict("net", X.numpy()).scores)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert model.weight_bytes == sum((folder / name).stat().st_size for name in ("net.onnx", "weights.bin"))
    (tmp_path / "elsewhere.bin").write_bytes((folder / "weights.bin").read_bytes())
    file = onnx.load(folder / "net.onnx", load_external_data=False)
    (folder / "link.bin").symlink_to(tmp_path / "elsewhere.bin")
    for place in ("../../../elsewhere.bin", str(tmp_path / "elsewhere.bin"), "link.bin"):
        for tensor in file.graph.initializer:
            next(entry for entry in tensor.external_data if entry.key == "location").value = place
        (folder / "net.onnx").write_bytes(file.SerializeToString())
        with pytest.raises(NotServable, match=r"^net\.onnx has tensors in '\w+\.bin', and no such file lies beside it"):
            loaded(folder)


def test_the_digest_of_onnx_is_that_of_all_its_files(write, loaded, eager: Net) -> None:
    folder = write(ONNX)
    onnx.save(onnx_file(eager), folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    printed = subprocess.run(["sha256sum", "net.onnx", "weights.bin"], cwd=folder, capture_output=True, check=True).stdout
    digest = hashlib.sha256(printed).hexdigest()
    write({**ONNX, "network": {"onnx": "net.onnx", "sha256": digest}})
    model = loaded(folder)
    assert (model.file_digest, model.weights_digest) == (digest, digest)
    swapped = bytearray((folder / "weights.bin").read_bytes())
    swapped[:8] = np.float32([7, 7]).tobytes()
    (folder / "weights.bin").write_bytes(swapped)
    with pytest.raises(
        NotServable, match=rf"^net\.onnx has SHA-256 \w+ together with weights\.bin, but model\.yaml pins {digest}$"
    ):
        loaded(folder)


def test_inputs_of_onnx_have_its_own_names(write, loaded) -> None:
    takes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("picture", "mask:0")]
    gives = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph([helper.make_node("Sub", ["picture", "mask:0"], ["scores"])], "net", takes, gives)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for named, expected in (({}, "picture"), ({"name": "mine"}, "mine")):
        manifest = {"network": {"onnx": "net.onnx"}, "inputs": [{"shape": [3], **named}, {"shape": [3]}]}
        model = loaded(write(manifest, {"net.onnx": made.SerializeToString()}))
        assert [spec.name for spec in model.inputs] == [expected, "mask:0"]


def test_onnx_for_one_size_of_batch(write, loaded, eager: Net) -> None:
    folder = write(ONNX, {"net.onnx": onnx_file(eager, 1).SerializeToString()})
    with pytest.raises(NotServable, match=r"input x is \[1, 3, 20, 24\]; export it with a batch of any size as its first axis"):
        loaded(folder)


@pytest.mark.parametrize("content", [b"", b"no graph at all", bytes(1000)])
def test_onnx_that_is_none(write, loaded, content: bytes) -> None:
    with pytest.raises(NotServable, match=r"^net\.onnx is no ONNX file( that ONNX Runtime reads)?: [^/]*$"):
        loaded(write(ONNX, {"net.onnx": content}))
