"""Engines of a real server: found in a process apart, told of, equal to the network, and quick to come back."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import nn

import cutaway
import cutaway_server
from cutaway.cli import main
from cutaway.v1 import admin_pb2, admin_pb2_grpc
from server_process import ServerProcess, run_server

PROGRAM = '''
import os, signal
import torch
from torch import nn
import torch.nn.functional as F


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.dropout(F.relu(self.conv(x)), training=self.training)
        return self.fc(x.mean((2, 3)))


class Decides(Small):
    def forward(self, x):
        return super().forward(x if x.mean() < 1 else -x)


class Crashes(Small):
    """When it is traced."""

    def forward(self, x):
        if torch.jit.is_tracing():
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().forward(x)


class Several(Small):
    def forward(self, x):
        return {"maps": self.conv(x), "scores": super().forward(x)}


def build(kind="Small"):
    torch.manual_seed(1)
    network = globals()[kind]()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape) / 4
    return network
'''
FIXED = {"name": "x", "shape": [3, 20, 20]}
RANGED = {"name": "x", "shape": [3, [16, 40], [16, 40]]}
MODELS: dict[str, dict[str, object]] = {
    "auto": {"kind": "Small"},
    "named": {"kind": "Small", "serving": {"engine": "openvino"}},
    "plain": {"kind": "Small", "serving": {"engine": "eager"}},
    "ranged": {"kind": "Small", "inputs": [RANGED]},
    "several": {"kind": "Several", "head": "scores"},
    "decides": {"kind": "Decides"},
    "decides-named": {"kind": "Decides", "serving": {"engine": "onnxruntime"}},
    "crashes": {"kind": "Crashes"},
    "half": {"kind": "Small", "serving": {"autocast": "bfloat16"}},
    "compiled": {"kind": "Small", "serving": {"engine": "compiled"}},
}


def write(root: Path, name: str, kind: str, **more: object) -> Path:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text(PROGRAM)
    manifest = {"network": {"module": "module.py", "arguments": {"kind": kind}}, "inputs": [FIXED], **more}
    manifest["weights"] = "w.pt"
    torch.save(network(folder, kind).state_dict(), folder / "w.pt")
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def network(folder: Path, kind: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location("program_of_a_test", folder / "module.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(kind).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, model in MODELS.items():
        write(root, name, **model)  # type: ignore[arg-type]
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with run_server("--models", str(folder), "--allow-code", "--threads", "1", "--lanes", "1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[cutaway.Client]:
    with cutaway.Client(server.address, timeout=60) as connected:
        yield connected


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("name", ["auto", "named", "plain", "ranged", "several", "decides", "crashes"])
def test_the_answers_are_the_networks(client: cutaway.Client, folder: Path, name: str) -> None:
    own = network(folder / name / "1", str(MODELS[name]["kind"]))
    for shape in [(1, 3, 20, 20), (5, 3, 20, 20), *([(2, 3, 16, 39), (1, 3, 40, 40)] if name == "ranged" else [])]:
        x = drawn(*shape)
        with torch.no_grad():
            output = own(torch.from_numpy(x))
        expected = output["scores"] if isinstance(output, dict) else output
        answer = client.predict(name, x, top_k=1)
        np.testing.assert_allclose(answer.scores, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["auto", "ranged", "several"])
def test_auto_takes_another_engine_and_tells_how_it_did(client: cutaway.Client, server: ServerProcess, name: str) -> None:
    engine = client.model(name).engine
    assert engine.name in ("onnxruntime", "openvino")
    assert 0 <= engine.deviation <= engine.tolerance == 1e-4
    assert engine.speed_up > 1
    assert [timing.batch for timing in engine.timings] == [1, 8]
    assert engine.speed_up == pytest.approx(np.prod([one.eager / one.engine for one in engine.timings]) ** 0.5, rel=1e-3)
    listed = {model.name: model for model in client.models()}[name]
    assert listed.provenance.engine == listed.engine.name == engine.name
    about = {"model": name, "version": "1"}
    assert server.metric("cutaway_engine_info", **about, engine=engine.name) == 1
    assert server.metric("cutaway_engine_info", **about) == 1
    assert server.metric("cutaway_engine_deviation", **about) == engine.deviation
    assert server.metric("cutaway_engine_speed_up", **about) == pytest.approx(engine.speed_up)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("decides", "it decides by the values of tensors"),
        ("crashes", "it ended the process that tried it, with signal SIGSEGV"),
        ("half", "it runs in bfloat16"),
    ],
)
def test_auto_falls_back_to_eager_and_says_why(client: cutaway.Client, server: ServerProcess, name: str, why: str) -> None:
    model = client.model(name)
    assert (model.engine.name, model.provenance.engine, model.engine.speed_up) == ("eager", "eager", 1)
    assert why in model.engine.rejected["onnxruntime"]
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["event"] == "Predict runs eager" and line["model"] == name]
    assert why in line["reasons"]["onnxruntime"]


def test_what_is_named_is_taken(client: cutaway.Client) -> None:
    assert client.model("named").engine.name == "openvino"
    plain = client.model("plain").engine
    assert (plain.name, plain.deviation, plain.rejected) == ("eager", 0, {})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("decides-named", "engine onnxruntime cannot run it: it decides by the values of tensors"),
        (
            "compiled",
            "serving.engine: compiled is not offered: torch.compile in a process that serves changes other models' answers",
        ),
    ],
)
def test_what_is_named_and_cannot_be_taken_is_not_served(client: cutaway.Client, name: str, why: str) -> None:
    listed = {model.name: model for model in client.models()}[name]
    assert listed.state == "failed"
    assert why in listed.state_reason
    with pytest.raises(cutaway.Error, match=re.escape(why)):
        client.predict(name, drawn(1, 3, 20, 20))


def test_introspect_runs_eager_whatever_predict_runs(client: cutaway.Client, folder: Path) -> None:
    x = drawn(2, 3, 20, 20)
    seen = client.introspect("auto", x, layers=["conv"], top_k=1, cams=[cutaway.Cam("grad-cam", "conv")])
    assert seen.started.provenance.engine == seen.prediction.engine == "eager"
    assert client.model("auto").provenance.engine != "eager"
    with torch.no_grad():
        expected = network(folder / "auto" / "1", "Small")(torch.from_numpy(x))
    np.testing.assert_array_equal(seen.prediction.scores, expected)
    for top_k in (0, 1):
        answer = client.predict("auto", x, top_k=top_k)
        np.testing.assert_allclose(answer.scores, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
        assert answer.engine == client.model("auto").provenance.engine


def test_the_commands_tell_of_engines(server: ServerProcess) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(main, list(words), env={"CUTAWAY_SERVER": server.address})
        assert result.exit_code == 0, result.output
        return result.output

    assert re.search(r"named .* openvino, \d+\.\d x", run("models"))
    assert re.search(r"Predict: openvino, \d+\.\d times as fast as the network itself, deviates by up to", run("layers", "named"))
    assert "not onnxruntime: it decides by the values of tensors" in run("layers", "decides")


def test_the_check_of_a_model_tells_of_engines(folder: Path) -> None:
    def check(name: str, *more: str) -> str:
        result = CliRunner().invoke(main, ["model", "check", str(folder / name), "--allow-code", *more])
        assert result.exit_code == 0, result.output
        return result.output

    assert re.search(r"engine +│ openvino, \d+\.\d times as fast as the network itself", check("named"))
    (report,) = json.loads(check("decides", "--json"))
    assert (report["engine"], report["engine_speed_up"]) == ("eager", 1)
    assert "it decides by the values" in report["engines_rejected"]["onnxruntime"]


def test_a_second_start_exports_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    write(tmp_path / "models", "one", "Small", serving={"engine": "onnxruntime"})
    flags = ("--models", str(tmp_path / "models"), "--allow-code", "--threads", "1", "--engine-cache", str(cache))
    engines, files = [], []
    for _ in range(2):
        with run_server(*flags) as running, cutaway.Client(running.address, timeout=60) as connected:
            engines.append(connected.model("one").engine)
            scores = connected.predict("one", drawn(2, 3, 20, 20)).scores
        files.append({path: path.stat().st_ino for path in cache.iterdir() if path.suffix == ".onnx"})
    assert engines[0].timings == engines[1].timings  # measured once
    assert len(files[0]) == 1
    assert files[0] == files[1]  # written once
    (file,) = files[0]
    file.write_bytes(file.read_bytes()[:-9])
    with run_server(*flags) as running, cutaway.Client(running.address, timeout=60) as connected:
        assert connected.model("one").engine.name == "onnxruntime"
        np.testing.assert_array_equal(connected.predict("one", drawn(2, 3, 20, 20)).scores, scores)


def test_new_weights_get_a_new_file(tmp_path: Path) -> None:
    root, cache, x = tmp_path / "models", tmp_path / "cache", drawn(2, 3, 20, 20)
    folder = write(root, "one", "Small", serving={"engine": "onnxruntime"})
    flags = ("--models", str(root), "--allow-code", "--threads", "1", "--engine-cache", str(cache), "--admin")
    with run_server(*flags) as running, cutaway.Client(running.address, timeout=60) as connected:
        before = connected.predict("one", x).scores
        state = torch.load(folder / "w.pt")
        torch.save({key: value * 2 for key, value in state.items()}, folder / "w.pt")
        for path in cache.iterdir():
            path.unlink()
        with grpc.insecure_channel(running.address) as channel:
            admin_pb2_grpc.AdminServiceStub(channel).ReloadModels(admin_pb2.ReloadModelsRequest(), timeout=60)
        model = connected.model("one")
        after = connected.predict("one", x).scores
    assert (model.engine.name, model.state_reason) == ("onnxruntime", "")
    doubled = network(folder, "Small")
    doubled.load_state_dict(torch.load(folder / "w.pt"))
    with torch.no_grad():
        expected = doubled(torch.from_numpy(x))
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert not np.allclose(before, after)


def test_without_a_cache_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do engines leave the marks by which they would tell their makers of us."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    for variable in ("HOME", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    write(tmp_path / "models", "one", "Small", serving={"engine": "onnxruntime"})
    write(tmp_path / "models", "two", "Small", serving={"engine": "openvino"})
    with run_server("--models", str(tmp_path / "models"), "--allow-code", "--threads", "1", "--engine-cache", "") as running:
        with cutaway.Client(running.address, timeout=60) as connected:
            assert connected.model("one").engine.name == "onnxruntime"
            assert connected.model("two").engine.name == "openvino"
        assert running.stop() == 0
    assert [list((tmp_path / variable).iterdir()) for variable in ("HOME", "TMPDIR")] == [[], []]


def test_the_builtin_networks_need_no_export(live: cutaway.Client) -> None:
    for model in live.models():
        assert model.engine.name == "onnxruntime", model.engine.rejected
        assert model.engine.deviation < 1e-5


def test_a_notebooks_network_runs_eager() -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.zeros(1, 12)
    with cutaway_server.serve(net, x, name="mine", log_level="error") as server, cutaway.Client(server.address) as client:
        assert client.model("mine").engine.name == "eager"
    with (
        pytest.raises(ValueError, match="engine is 'auto'; here it can be eager only"),
        cutaway_server.serve(net, x, name="mine", engine="auto"),
    ):
        pass
