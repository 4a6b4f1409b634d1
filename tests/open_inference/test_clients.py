"""The clients that people have, each in its own environment, call a real server. `make test` makes the environments."""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cutaway
from doc_examples import BLOCK, checked
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
NAMES = sorted(file.stem for file in CLIENTS.glob("*.txt"))
CAM = "cam:grad-cam@conv2?class=3"


def run(client: str, script: Path, *arguments: str, **environment: str) -> str:
    """What a script says in a client's environment."""
    installed = ROOT / ".venv" / client / "installed"
    assert installed.exists(), f"the client's environment is missing; make it: make {installed.relative_to(ROOT)}"
    python = installed.parent / "bin" / "python"
    ended = subprocess.run([python, script, *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def pictures(digits: np.ndarray) -> list[bytes]:
    files = []
    for digit in digits[:3]:
        file = io.BytesIO()
        Image.fromarray(digit).save(file, "PNG")
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def said(
    live_server: ServerProcess, x: np.ndarray, pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What each client got for the same three digits."""
    given = tmp_path_factory.mktemp("given") / "given.npz"
    np.savez(given, x=x[:3], files=np.array(pictures, dtype=object))
    return {name: json.loads(run(name, CLIENTS / f"with_{name}.py", live_server.address, str(given))) for name in NAMES}


def same(outputs: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(np.array(outputs[name], np.float32), values)


@pytest.fixture
def scores(live: cutaway.Client, x: np.ndarray) -> dict[str, np.ndarray]:
    return {"scores": live.predict("mnist", x[:3]).scores}


@pytest.fixture
def one_by_one(live: cutaway.Client, x: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"scores": live.predict("mnist", x[place : place + 1]).scores} for place in range(3)]


@pytest.fixture
def inside(live: cutaway.Client, x: np.ndarray) -> dict[str, np.ndarray]:
    seen = live.introspect("mnist", x[:3], layers=["conv1", "relu*"], cams=[cutaway.Cam("grad-cam", "conv2", 3)])
    layers = {f"layer:{layer}": values for layer, values in seen.activations.items()}
    return {"scores": seen.prediction.scores, **layers, CAM: seen.cams[0].map}


def some(outputs: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: outputs[name] for name in names}


@pytest.mark.parametrize("client", NAMES)
def test_ready(client: str, said: dict[str, Any]):
    told = said[client].get("told", said[client])
    assert told["live"]
    assert told["ready"]
    assert told["model ready"] in (True, [True, True, False])


@pytest.mark.parametrize(
    ("client", "form"),
    [
        ("tritonclient", "infer"),
        ("tritonclient", "compressed"),
        ("kserve", "raw"),
        ("kserve", "typed"),
        ("mlserver", "raw"),
        ("mlserver", "typed"),
    ],
)
def test_tensors(client: str, form: str, said: dict[str, Any], scores: dict[str, np.ndarray]):
    same(said[client][form], scores)
    assert said[client]["id"] == "mine"


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_files(client: str, said: dict[str, Any], live: cutaway.Client, pictures: list[bytes]):
    same(said[client]["files"], {"scores": live.predict("mnist", pictures).scores})


@pytest.mark.parametrize(
    ("client", "names"),
    [
        ("tritonclient", ["scores", "layer:conv1", "layer:relu", "layer:relu_1", "layer:relu_2", CAM]),
        ("kserve", ["layer:conv1", CAM]),
        ("mlserver", ["layer:conv1", CAM]),
    ],
)
def test_layers_and_maps(client: str, names: list[str], said: dict[str, Any], inside: dict[str, np.ndarray]):
    assert list(said[client]["inside"]) == names
    same(said[client]["inside"], some(inside, *names))


@pytest.mark.parametrize("client", ["tritonclient", "mlserver"])
def test_the_best_classes(client: str, said: dict[str, Any], live: cutaway.Client, x: np.ndarray):
    told = [text.split(":") for text in np.ravel(said[client]["classification"])]
    best = [one for sample in live.predict("mnist", x[:3], top_k=2).top for one in sample]
    assert [(float(np.float32(score)), int(index), label) for score, index, label in told] == [
        (one.score, one.index, one.label) for one in best
    ]


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_a_refusal_reaches_the_caller(client: str, said: dict[str, Any]):
    code, sentence = said[client]["refused"]
    assert code.endswith("INVALID_ARGUMENT")
    assert "no layer 'conv9'; did you mean" in sentence


def test_tritonclient_without_waiting(said: dict[str, Any], one_by_one: list[dict[str, np.ndarray]]):
    answers = said["tritonclient"]["async"]  # in any order
    assert sorted(str(answer["scores"]) for answer in answers) == sorted(str(one["scores"].tolist()) for one in one_by_one)


def test_tritonclients_stream(said: dict[str, Any], scores: dict[str, np.ndarray], inside: dict[str, np.ndarray]):
    first, refused, layer, cam, last = said["tritonclient"]["stream"]
    assert (first["id"], first["final"]) == ("scores", True)
    same(first["outputs"], scores)
    assert "no layer 'conv9'" in refused["error"]
    assert [(part["id"], part["final"]) for part in (layer, cam, last)] == [("last", False), ("last", False), ("last", True)]
    same(layer["outputs"], some(inside, "layer:conv1"))
    same(cam["outputs"], some(inside, CAM))
    assert last["outputs"] == {}


def test_tritonclient_in_asyncio(said: dict[str, Any], one_by_one: list[dict[str, np.ndarray]]):
    told = said["tritonclient"]["aio"]
    assert told["ready"]
    for answer, expected in zip(told["infer"], one_by_one, strict=True):
        same(answer, expected)
    assert [name for name, _ in told["stream"]] == ["0", "1", "2"]
    for (_, answer), expected in zip(told["stream"], one_by_one, strict=True):
        same(answer, expected)


def test_what_tritonclient_is_told(said: dict[str, Any]):
    told = said["tritonclient"]["told"]
    assert told["server"]["name"] == "cutaway"
    assert [output["name"] for output in told["metadata"]["outputs"]] == ["scores"]
    config = told["config"]["config"]
    for part, one in (("inputs", "input"), ("outputs", "output")):  # as perf_analyzer compares them
        assert [tensor["shape"][0] for tensor in told["metadata"][part]] == ["-1"]
        assert [tensor["shape"][1:] for tensor in told["metadata"][part]] == [tensor["dims"] for tensor in config[one]]
    assert config["max_batch_size"] > 0
    (statistics,) = told["statistics"]["model_stats"]
    assert int(statistics["inference_stats"]["success"]["count"]) >= 10
    assert [model["name"] for model in told["index"]["models"]] == ["mnist", "mnist-gap"]


def test_mlservers_client_reads_both_forms(said: dict[str, Any]):
    typed, raw = said["mlserver"]["forms"]
    assert (typed, raw) == (0, 1)
    assert said["mlserver"]["metadata"] == [["scores", "FP32", [-1, 10]]]


@pytest.mark.parametrize(
    "order",
    [
        ["tritonclient.grpc", "cutaway", "cutaway_server.rpc.open_inference.messages"],
        ["cutaway_server.rpc.open_inference.messages", "cutaway", "tritonclient.grpc"],
        ["cutaway", "tritonclient.grpc.aio", "cutaway_server.rpc.open_inference.messages"],
    ],
)
def test_client_and_server_import_beside_tritonclient(order: list[str], live_server: ServerProcess):
    sources = f"{ROOT / 'client' / 'python'}:{ROOT / 'server'}"
    told = json.loads(run("tritonclient", CLIENTS / "beside_tritonclient.py", live_server.address, *order, PYTHONPATH=sources))
    by_triton, by_cutaway = told["scores"]
    assert by_triton == by_cutaway
    assert told["read by ours"] == "scores"
    assert told["read by theirs again"]
    assert told["protobuf"].startswith("6.")
    assert not told["torch"]


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_the_examples_in_the_docs(client: str, live_server: ServerProcess, pictures: list[bytes], tmp_path: Path):
    (tmp_path / "digit.png").write_bytes(pictures[0])
    page = (ROOT / "docs" / "open-inference.md").read_text()
    sources = [source for _, source in BLOCK.findall(page) if ("kserve" in source) == (client == "kserve")]
    script = tmp_path / "example.py"
    script.write_text(
        f"import os\n\nos.chdir({str(tmp_path)!r})\n" + checked("\n".join(sources)).replace("localhost:50051", live_server.address)
    )
    run(client, script)
