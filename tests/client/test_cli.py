"""The command against a server that answers by hand: tables, JSON, files, and one clear line when it fails."""

import json
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cutaway.cli import main
from cutaway.cli._output_files import safe
from cutaway.v1 import inference_pb2, introspect_pb2, predict_pb2

from . import fake

SCORES = np.array([[0.5, 4.0, -1.0]], np.float32)


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output.startswith("cutaway 0.")


def test_models(run):
    result = run("models")
    assert result.exit_code == 0, result.output
    assert "mnist" in result.stdout
    assert "grad-cam" in result.stdout
    (model,) = json.loads(run("models", "--json").stdout)
    assert (model["name"], model["inputs"][0]["shape"]) == ("mnist", [-1, 1, 28, 28])


def test_models_of_many_sizes_and_states(run, server):
    listed = fake.models()
    (ready,) = listed.models
    spec = ready.inputs[0]
    spec.shape[:], spec.min_shape[:], spec.max_shape[:] = [-1, 3, -1, 64], [1, 3, 16, 64], [-1, 3, 512, 64]
    listed.models.add(name="broken", version="2", state="MODEL_STATE_FAILED", state_reason="it has no weights")
    server.answers["ListModels"] = listed
    shown = " ".join(run("models").stdout.split())
    assert "float32 N x 3 x 16…512 x 64" in shown
    assert "failed: it has no weights" in shown
    assert "unspecified" not in shown


def test_layers(run, server):
    result = run("layers", "mnist")
    assert result.exit_code == 0, result.output
    assert "N x 2 x 3 x 3" in result.stdout
    assert "it is never called" in result.stdout
    served = fake.model(layers=True)
    served.forward.FromNanoseconds(41_500)
    server.answers["GetModel"] = inference_pb2.GetModelResponse(model=served)
    assert " 42 µs a sample when the model was loaded" in " ".join(run("layers", "mnist").stdout.split())
    conv, spare = json.loads(run("layers", "mnist", "--json").stdout)
    assert (conv["outputs"][0]["bytes"], spare["index"]) == (72, -1)


def test_predict(run, server, digit):
    result = run("predict", "mnist", digit, "--top", "1")
    assert result.exit_code == 0, result.output
    assert "digit.png" in result.stdout
    assert "class 1 (75.0%)" in result.stdout
    asked = predict_pb2.PredictRequest.FromString(server.requests["Predict"])
    assert asked.inputs[0].images.files[0][:4] == b"\x89PNG"
    answer = json.loads(run("predict", "mnist", digit, "--json").stdout)
    assert answer["scores"] == SCORES.tolist()
    assert answer["top"][0][0] == {"index": 1, "label": "class 1", "score": 4.0, "probability": 0.75}


def test_several_files_are_one_batch(run, server, tmp_path):
    np.save(tmp_path / "two.npy", np.zeros((2, 28, 28), np.uint8))
    np.save(tmp_path / "one.npy", np.zeros((1, 28, 28), np.uint8))
    server.answers["Predict"] = fake.prediction(np.repeat(SCORES, 3, 0), top=[0, 1, 2])
    result = run("predict", "mnist", str(tmp_path / "two.npy"), str(tmp_path / "one.npy"), "--json")
    assert json.loads(result.stdout)["samples"] == ["two.npy[0]", "two.npy[1]", "one.npy"]
    asked = predict_pb2.PredictRequest.FromString(server.requests["Predict"])
    assert list(asked.inputs[0].tensor.shape) == [3, 28, 28]


def test_json_has_no_nan(run, server, digit):
    server.answers["Predict"] = fake.prediction(np.array([[np.nan, np.inf, 1]]))
    assert json.loads(run("predict", "mnist", digit, "--json").stdout)["scores"] == [[None, None, 1.0]]


LOOK = ("--layer", "conv1", "--input", "fc1", "--gradient", "conv1", "--cam", "grad-cam@conv1?class=1")


def test_introspect(run, server, digit):
    result = run("introspect", "mnist", digit, *LOOK)
    assert result.exit_code == 0, result.output
    for word in ("output/conv1", "input/fc1", "gradient/conv1", "grad-cam", "forward 1.5 ms", "class 1 (75.0%)"):
        assert word in result.stdout
    asked = introspect_pb2.IntrospectRequest.FromString(server.requests["Introspect"])
    assert [capture.layer for capture in asked.captures] == ["conv1", "fc1", "conv1"]
    (cam,) = asked.cams
    assert (cam.method, list(cam.layers), list(cam.target.classes.indices)) == ("grad-cam", ["conv1"], [1])


def test_cams_by_word(run, server, digit):
    words = ["grad-cam@conv1+layer1.0.conv2?class=1,2&against=0", "saliency?top=3", "cam@conv1"]
    assert run("introspect", "mnist", digit, *(word for cam in words for word in ("--cam", cam))).exit_code == 0
    contrast, best, plain = introspect_pb2.IntrospectRequest.FromString(server.requests["Introspect"]).cams
    assert (contrast.method, list(contrast.layers)) == ("grad-cam", ["conv1", "layer1.0.conv2"])
    assert (list(contrast.target.contrast.indices), list(contrast.target.contrast.against)) == ([1, 2], [0])
    assert (best.method, list(best.layers), best.target.top_k.k) == ("saliency", [], 3)
    assert (plain.method, list(plain.layers), plain.HasField("target")) == ("cam", ["conv1"], False)


def test_classes_that_contradict_each_other(run, digit):
    for cam, sentence in (("cam?against=1", "against goes with class_index"), ("cam?class=1&top=2", "top_k asks for the best")):
        result = run("introspect", "mnist", digit, "--cam", cam)
        assert result.exit_code == 1
        assert sentence in result.stderr


def test_maps_of_a_top_k(run, server, digit, tmp_path):
    note = introspect_pb2.CamNote(reason=introspect_pb2.CAM_NOTHING_DEAD_LAYER, message="the layer put out zeros only")
    best = [fake.whole(1, np.ones((1, 2, 2)), **fake.cam()), fake.whole(2, np.zeros((1, 2, 2)), **fake.cam(rank=1, notes=[note]))]
    server.answers["Introspect"] = [fake.started(cams=2), *best, fake.finished()]
    result = run("introspect", "mnist", digit, "--cam", "grad-cam?top=2", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("the layer put out zeros only") == 1
    names = {"cam0-grad-cam-conv1.png", "cam0-1-grad-cam-conv1.png", "values.npz"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    with np.load(tmp_path / "out" / "values.npz") as values:
        assert {name: values[name].max() for name in values} == {"cam/0": 1, "cam/0/1": 0}


def test_introspect_as_json(run, digit):
    seen = json.loads(run("introspect", "mnist", digit, *LOOK, "--json").stdout)
    assert [capture["key"] for capture in seen["captures"]] == ["output/conv1", "input/fc1", "gradient/conv1"]
    assert (seen["captures"][0]["mean"], seen["captures"][0]["shape"]) == (8.5, [1, 2, 3, 3])
    assert (seen["cams"][0]["layers"], seen["cams"][0]["shape"], seen["cams"][0]["maximum"]) == (["conv1"], [1, 2, 2], 1)
    assert seen["cams"][0]["placement"] == [{"scale_x": 14, "scale_y": 14, "offset_x": 0, "offset_y": 0}]
    assert (seen["request_id"], seen["failures"], seen["files"]) == ("r1", [], [])


def test_introspect_writes_pictures_and_values(run, digit, tmp_path):
    out = tmp_path / "out"
    result = run("introspect", "mnist", digit, *LOOK, "--out", str(out))
    assert result.exit_code == 0, result.output
    names = {"output-conv1.png", "input-fc1.png", "gradient-conv1.png", "cam0-grad-cam-conv1.png", "values.npz"}
    assert {file.name for file in out.iterdir()} == names
    assert all(f"wrote {out / name}" in result.stdout for name in names)
    with np.load(out / "values.npz") as values:
        assert set(values) == {"output/conv1", "input/fc1", "gradient/conv1", "cam/0", "scores"}
        assert values["output/conv1"].tolist() == np.arange(18).reshape(1, 2, 3, 3).tolist()
    with Image.open(out / "cam0-grad-cam-conv1.png") as picture:
        assert picture.width >= 280


def test_several_samples_get_a_folder_each(run, server, tmp_path):
    np.save(tmp_path / "two.npy", np.zeros((2, 1, 28, 28), np.float32))
    server.answers["Introspect"] = [
        fake.started(cams=1),
        fake.whole(1, np.ones((2, 4)), **fake.capture("fc1")),
        fake.whole(2, np.ones((2, 3, 3)), **fake.cam(classes=[0, 7])),
        fake.finished(),
    ]
    result = run("introspect", "mnist", str(tmp_path / "two.npy"), "--layer", "*", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    for sample in ("sample-0", "sample-1"):
        names = {file.name for file in (tmp_path / "out" / sample).iterdir()}
        assert names == {"output-fc1.png", "cam0-grad-cam-conv1.png"}


def test_what_failed_is_told_after_all_else_was_written(run, server, digit, tmp_path):
    lost = introspect_pb2.CaptureHeader(layer="fft", kind=introspect_pb2.CAPTURE_KIND_OUTPUT)
    server.answers["Introspect"] = [
        fake.started(),
        fake.failed(12, "complex tensors do not travel", capture=lost),
        fake.whole(1, np.ones((1, 4)), **fake.capture("fc1")),
        fake.finished(),
    ]
    result = run("introspect", "mnist", digit, "--layer", "*", "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert result.stderr == "Error: output/fft: complex tensors do not travel\n"
    assert (tmp_path / "out" / "output-fc1.png").exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c", "layer1.0.conv", "ünï", "a" * 500])
def test_layer_names_stay_in_their_folder(name):
    assert "/" not in safe(name)
    assert "\\" not in safe(name)
    assert len(safe(name)) <= 200


def test_errors_are_one_line(run, server, digit, tmp_path):
    del server.answers["Predict"]
    result = run("predict", "mnist", digit)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: not here\n")

    np.save(tmp_path / "doubt.npy", np.zeros((28, 28), np.uint8))
    result = run("predict", "mnist", str(tmp_path / "doubt.npy"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: uint8 pixels of shape (28, 28)")

    np.save(tmp_path / "complex.npy", np.zeros((1, 2), complex))
    result = run("predict", "mnist", str(tmp_path / "complex.npy"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_nobody_listens(digit):
    result = CliRunner().invoke(main, ["models"], env={"CUTAWAY_SERVER": "127.0.0.1:1"})
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no answer from a server at 127.0.0.1:1 (")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("introspect", "mnist"),
        ("predict",),
        ("predict", "mnist", "/no/such/file.png"),
        ("layers", "mnist", "--timeout", "0"),
    ],
)
def test_wrong_use_exits_with_2(run, words):
    assert run(*words).exit_code == 2


def test_wrong_looks_exit_with_2(run, digit):
    assert run("introspect", "mnist", digit).exit_code == 2
    for cam in ("", "@conv1", "cam?class=", "cam?class=x", "cam?klass=1", "cam@", "cam?", "cam?class=1&", "cam?top=1,2", "cam@a?b"):
        result = run("introspect", "mnist", digit, "--cam", cam)
        assert result.exit_code == 2, cam
        assert "is not METHOD[@LAYER" in result.stderr


@pytest.mark.parametrize(("command", "module"), [("serve", "main"), ("sanity", "sanity")])
def test_commands_of_the_server_without_it(monkeypatch, command, module):
    monkeypatch.setitem(sys.modules, f"cutaway_server.process.{module}", None)
    result = CliRunner().invoke(main, [command, "--listen", "127.0.0.1:0"])
    assert result.exit_code == 1
    assert "pip install 'cutaway[server]'" in result.stderr


@pytest.mark.parametrize(("command", "module"), [("serve", "main"), ("sanity", "sanity")])
def test_what_is_the_servers_own_is_handed_over(monkeypatch, command, module):
    @click.command()
    @click.option("--listen")
    def own(listen):
        """The server's own help."""
        click.echo(f"listening on {listen}")

    there = type(sys)(f"cutaway_server.process.{module}")
    setattr(there, command, own)
    monkeypatch.setitem(sys.modules, there.__name__, there)
    assert CliRunner().invoke(main, [command, "--listen", "here:1"]).output == "listening on here:1\n"
    help_text = CliRunner().invoke(main, [command, "--help"]).output
    assert "The server's own help." in help_text
    assert f"Usage: main {command}" in help_text
    assert CliRunner().invoke(main, [command, "--nonsense"]).exit_code == 2


def test_the_demo_needs_the_server(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cutaway_server", None)
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "pip install 'cutaway[server]'" in result.stderr
