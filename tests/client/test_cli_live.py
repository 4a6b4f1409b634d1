"""The command against a real server: reductions, plans and maps."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import cutaway
from cutaway.cli import main
from server_process import ServerProcess


@pytest.fixture
def ask(live_server: ServerProcess, digits: np.ndarray, tmp_path: Path):
    Image.fromarray(digits[0]).save(tmp_path / "digit.png")

    def introspect(*words: str) -> Result:
        words = ("introspect", "mnist", str(tmp_path / "digit.png"), *words)
        return CliRunner().invoke(main, words, env={"CUTAWAY_SERVER": live_server.address, "COLUMNS": "200"})

    return introspect


def test_a_plan(ask, live_server: ServerProcess):
    ran = live_server.metric("cutaway_captured_bytes_total")
    said = ask("--layer", "conv*", "--channels", "top:3", "--precision", "float16", "--cam", "grad-cam@conv1", "--plan").stdout
    assert "output/conv1" in said
    assert "1 x 3 x 24 x 24" in said
    assert "22.5 KiB" in said  # of the whole of conv1
    assert "cam/0: grad-cam at conv1" in said
    assert "1 forward, 1 backward, about" in said
    assert "Nothing ran." in said
    assert live_server.metric("cutaway_captured_bytes_total") == ran

    plan = json.loads(ask("--layer", "conv*", "--without-prediction", "--plan", "--json").stdout)
    assert [capture["bytes"] for capture in plan["captures"]] == [23040, 5120, 5120]
    assert plan["total_bytes"] == 33280
    assert plan["estimate"]["stops_after"] == "conv2_drop"


def test_statistics(ask, tmp_path: Path):
    result = ask("--layer", "relu*", "--statistics", "--bins", "4", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "statistics" in result.stdout
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["values.npz"]
    with np.load(tmp_path / "out" / "values.npz") as values:
        assert values["output/relu/histogram"].sum() == 10 * 12 * 12
        assert values["output/relu/minimum"] == 0
    seen = json.loads(ask("--layer", "relu", "--statistics", "--json").stdout)
    (sample,) = seen["captures"][0]["samples"]
    assert (sample["minimum"], sample["non_finite"]) == (0, 0)
    assert seen["captures"][0]["maximum"] == sample["maximum"]


@pytest.mark.parametrize(
    ("words", "shape", "dtype"),
    [
        (("--pool", "mean"), [1, 10, 1, 1], "float32"),
        (("--pool", "max:4x2"), [1, 10, 4, 2], "float32"),
        (("--channels", "0,3"), [1, 2, 24, 24], "float32"),
        (("--channels", "2:8:2", "--precision", "float16"), [1, 3, 24, 24], "float16"),
        (("--channels", "top:1", "--precision", "affine8"), [1, 1, 24, 24], "float32"),
    ],
)
def test_reductions(ask, words: tuple[str, ...], shape: list[int], dtype: str, tmp_path: Path):
    result = ask("--layer", "conv1", *words, "--json", "--out", str(tmp_path / "out"))
    (capture,) = json.loads(result.stdout)["captures"]
    assert (capture["shape"], capture["dtype"]) == (shape, dtype)
    assert (tmp_path / "out" / "output-conv1.png").exists()
    if words[1] == "0,3":
        assert capture["channels"] == [0, 3]


@pytest.mark.parametrize("words", [("--pool", "median"), ("--pool", "mean:4,4"), ("--channels", "all"), ("--channels", "-1")])
def test_what_cannot_be_read_is_a_usage_error(ask, words: tuple[str, str]):
    result = ask("--layer", "conv1", *words)
    assert result.exit_code == 2
    assert repr(words[1]) in result.stderr


def test_two_reductions_at_once(ask):
    result = ask("--layer", "conv1", "--statistics", "--pool", "mean")
    assert result.exit_code == 1
    assert "only one of statistics, pool" in result.stderr
    assert "Traceback" not in result.output


def test_every_method_on_one_sheet(live: cutaway.Client, live_server: ServerProcess, digits: np.ndarray, tmp_path: Path):
    Image.fromarray(digits[0]).save(tmp_path / "digit.png")
    words = ("cam", "mnist-gap", str(tmp_path / "digit.png"), "--method", "all", "--no-faithfulness", "--json")
    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out"), "--server", live_server.address])
    assert result.exit_code == 0, result.output
    seen = json.loads(result.stdout)
    methods = list(live.model("mnist-gap").introspection.cam_methods)
    assert [made["method"] for made in seen["maps"]] == methods
    assert seen["failures"] == []
    (one,) = live.introspect("mnist-gap", tmp_path / "digit.png", cams=[cutaway.Cam("cam")]).cams
    with np.load(tmp_path / "out" / "values.npz") as values:
        np.testing.assert_array_equal(values["cam/cam"], one.map)
        assert set(values) == {f"cam/{method}" for method in methods}
    assert (tmp_path / "out" / "sheet.png").exists()
    passes = {made["method"]: made["forward_passes"] for made in seen["maps"]}
    assert passes["cam"] == 1 < passes["occlusion"]
