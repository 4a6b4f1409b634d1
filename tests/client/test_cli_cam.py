"""`cutaway cam` against a server that answers by hand: one call a method, a sheet, and every reason listed."""

import json

import grpc
import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

import cutaway
from cutaway.cli.cam import _watched
from cutaway.v1 import inference_pb2, introspect_pb2

from . import fake

DEAD = introspect_pb2.CamNote(reason=introspect_pb2.CAM_NOTHING_DEAD_LAYER, message="the layer put out zeros only")


class Maps:
    """An Introspect answer: a map for each sample, as the request asks; keeps the requests and how long they may take."""

    def __init__(self, samples: int = 1) -> None:
        self.samples = samples
        self.asked: list[introspect_pb2.IntrospectRequest] = []
        self.seconds: list[float] = []
        self.refused: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.failed: dict[str, str] = {}

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> list[introspect_pb2.IntrospectResponse]:
        asked = introspect_pb2.IntrospectRequest.FromString(request)
        self.asked.append(asked)
        self.seconds.append(context.time_remaining())
        (cam,) = asked.cams
        if cam.method in self.refused:
            context.abort(*self.refused[cam.method])
        begin = fake.started(cams=1)
        if cam.HasField("faithfulness"):
            begin.started.estimate.forward_passes += 98
            begin.started.cams[0].faithfulness_forward_passes = 98
        return [begin, *self._map(cam), fake.finished()]

    def _map(self, cam: introspect_pb2.Cam) -> list[introspect_pb2.IntrospectResponse]:
        if cam.method in self.failed:
            return [fake.failed(9, self.failed[cam.method], cam=0)]
        plane = np.array([[[0, 1], [0, 0]]] * self.samples)
        places = [introspect_pb2.Affine(scale_x=14, scale_y=14)] * self.samples
        notes = [DEAD] if cam.method == "cam" else []
        header = fake.cam(method=cam.method, classes=[1] * self.samples, placement=places, notes=notes)
        measured = [fake.faithfulness()] if cam.HasField("faithfulness") else []
        return [response_of_progress(cam.method), fake.whole(1, plane, **header), *measured]

    @property
    def methods(self) -> list[str]:
        return [asked.cams[0].method for asked in self.asked]


def response_of_progress(method: str) -> introspect_pb2.IntrospectResponse:
    return fake.response(progress=introspect_pb2.Progress(what=method, done=3, total=9))


@pytest.fixture
def maps(server) -> Maps:
    server.answers["Introspect"] = Maps()
    return server.answers["Introspect"]


@pytest.fixture
def look(run, maps, digit, tmp_path):
    return lambda *words: run("cam", "mnist", digit, "--out", str(tmp_path / "out"), *words)


def test_one_method(look, maps, tmp_path):
    result = look()
    assert result.exit_code == 0, result.output
    for words in ("grad-cam", "conv1", "1.5 ms", "1 forward, 1 backward", "digit.png: the maps explain class dog"):
        assert words in result.stdout
    assert "insertion" not in result.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"sheet.png", "grad-cam.png", "values.npz"}
    with np.load(tmp_path / "out" / "values.npz") as values:
        assert {name: value.tolist() for name, value in values.items()} == {"cam/grad-cam": [[[0, 1], [0, 0]]]}
    (asked,) = maps.asked
    assert asked.without_prediction
    assert asked.cams[0] == introspect_pb2.Cam(method="grad-cam", settings=introspect_pb2.CamSettings())
    assert 290 < maps.seconds[0] < 310


def test_all_methods_measured_and_one_refused(look, maps, tmp_path):
    maps.refused["cam"] = (grpc.StatusCode.FAILED_PRECONDITION, "'cam' needs a linear head")
    result = look("--method", "all")
    assert result.exit_code == 0, result.output
    assert maps.methods == ["cam", "grad-cam"]
    for words in ("'cam' needs a linear head", "0.750 (0.500)", "insertion", "deletion", "road"):
        assert words in result.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"sheet.png", "grad-cam.png", "values.npz"}

    assert not look("--method", "all", "--no-faithfulness").exit_code
    assert not maps.asked[-1].cams[0].HasField("faithfulness")


def test_what_is_refused_costs_only_itself_but_is_told(look, maps, tmp_path):
    maps.refused["score-cam"] = (grpc.StatusCode.INVALID_ARGUMENT, "no such method")
    maps.failed["cam"] = "no gradient reaches it"
    result = look("--method", "score-cam", "--method", "cam", "--method", "grad-cam", "--method", "cam", "--faithfulness")
    assert maps.methods == ["score-cam", "cam", "grad-cam"]
    assert result.exit_code == 1
    assert "score-cam: no such method" in result.stderr
    assert "cam: map 0 could not be made: no gradient reaches it" in result.stderr
    assert (tmp_path / "out" / "grad-cam.png").exists()
    assert maps.asked[-1].cams[0].HasField("faithfulness")


def test_as_json(look, maps, tmp_path):
    maps.refused["other"] = (grpc.StatusCode.INVALID_ARGUMENT, "no such method")
    result = look("--method", "cam", "--method", "other", "--faithfulness", "--json")
    seen = json.loads(result.stdout)
    (made,) = seen["maps"]
    assert (made["method"], made["layers"], made["classes"], made["shape"]) == ("cam", ["conv1"], [1], [1, 2, 2])
    assert (made["forward_passes"], made["backward_passes"], made["seconds"]) == (1, 1, 0.0015)
    assert made["faithfulness"]["map"]["insertion"] == [0.75]
    assert made["faithfulness"]["random"]["insertion"] == [0.5]
    assert made["notes"] == [{"sample": 0, "reason": "dead_layer", "message": DEAD.message}]
    assert seen["failures"] == [{"method": "other", "code": "INVALID_ARGUMENT", "message": "no such method"}]
    assert seen["files"] == [str(tmp_path / "out" / name) for name in ("sheet.png", "cam.png", "values.npz")]


def test_settings(look, maps):
    words = "--layer conv1 --layer conv2 --class 2 --score probability --steps 9 --augment --channels principal --seed -7"
    assert look(*words.split()).exit_code == 0
    (asked,) = maps.asked
    assert (asked.HasField("seed"), asked.seed) == (True, -7)
    (cam,) = asked.cams
    assert (list(cam.layers), list(cam.target.classes.indices)) == (["conv1", "conv2"], [2])
    assert cam.settings == introspect_pb2.CamSettings(
        score=introspect_pb2.SCORE_PROBABILITY, steps=9, augment=True, join=introspect_pb2.CHANNEL_JOIN_PRINCIPAL
    )


def test_a_sheet_for_each_sample(run, maps, digit, tmp_path):
    maps.samples = 3
    (tmp_path / "more").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "more" / "digit.png")
    Image.new("L", (28, 28)).save(tmp_path / "seven.png")
    files = [digit, str(tmp_path / "more" / "digit.png"), str(tmp_path / "seven.png")]
    result = run("cam", "mnist", *files, "--out", str(tmp_path / "out"), "--method", "cam")
    assert result.exit_code == 0, result.output
    assert "digit.png: the layer put out zeros only" in result.stdout
    ends = ("-0-digit.png", "-1-digit.png", "-seven.png")
    expected = {f"{name}{end}.png" for name in ("sheet", "cam") for end in ends} | {"values.npz"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == expected


def test_the_sheet_has_a_cell_for_each_method(look, server, tmp_path):
    described = fake.model()
    described.introspection.cam_methods[:] = ["a", "b", "c"]
    server.answers["GetModel"] = inference_pb2.GetModelResponse(model=described)
    assert look("--method", "all").exit_code == 0
    with Image.open(tmp_path / "out" / "sheet.png") as sheet, Image.open(tmp_path / "out" / "a.png") as overlay:
        cell, found = np.asarray(overlay), np.asarray(sheet)
    tops, lefts = np.nonzero((found[:, :, None] == cell[0, 200]).all(axis=(2, 3)))
    assert len(tops) == 3 * (cell == cell[0, 200]).all(axis=2).sum()
    quarters = zip(tops > found.shape[0] / 2, lefts > found.shape[1] / 2, strict=True)
    assert set(quarters) == {(False, False), (False, True), (True, False)}


def test_a_large_photograph_is_small_on_the_sheet_and_whole_by_itself(run, maps, tmp_path):
    Image.new("RGB", (900, 1200)).save(tmp_path / "large.png")
    assert run("cam", "mnist", str(tmp_path / "large.png"), "--out", str(tmp_path / "out")).exit_code == 0
    with Image.open(tmp_path / "out" / "sheet.png") as sheet, Image.open(tmp_path / "out" / "grad-cam.png") as overlay:
        assert overlay.size == (900, 1200)
        assert sheet.height < 600


def test_a_tensor_is_drawn_without_a_photograph(run, maps, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 28, 28), np.float32))
    assert run("cam", "mnist", str(tmp_path / "x.npy"), "--out", str(tmp_path / "out")).exit_code == 0
    assert (tmp_path / "out" / "grad-cam.png").exists()


def test_a_server_that_is_gone_ends_it(look, maps):
    maps.refused["grad-cam"] = (grpc.StatusCode.UNAVAILABLE, "going away")
    result = look("--method", "grad-cam", "--method", "cam")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no answer from a server at")
    assert maps.methods == ["grad-cam"]


def test_a_model_that_cannot_be_looked_into(look, server, maps, tmp_path):
    described = fake.model()
    described.introspection.Clear()
    described.introspection.reason = "it is compiled"
    server.answers["GetModel"] = inference_pb2.GetModelResponse(model=described)
    result = look("--method", "all")
    assert (result.exit_code, maps.asked) == (1, [])
    assert result.stderr == "Error: 'mnist' cannot be looked into: it is compiled\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("--class", "x"), ("--class", "1,"), ("--score", "logit"), ("--steps", "-1")])
def test_wrong_use_exits_with_2(look, words):
    assert look(*words).exit_code == 2


def test_a_bar_follows_the_network_and_goes_with_the_call():
    def events():
        yield cutaway.Progress("score-cam", 3, 9)
        raise cutaway.DeadlineExceeded("too slow")

    progress = Progress(disable=True)
    seen = _watched(events(), progress, "score-cam")
    next(seen)
    (bar,) = progress.tasks
    assert (bar.description, bar.completed, bar.total) == ("score-cam", 3, 9)
    with pytest.raises(cutaway.DeadlineExceeded):
        next(seen)
    assert progress.tasks == []
