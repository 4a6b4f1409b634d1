"""`cutaway sanity`, as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cutaway.cli import main


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["sanity", *map(str, words)])


def test_a_table_says_what_stays() -> None:
    result = run("mnist-gap", "grad-cam")
    assert result.exit_code == 0, result.output
    assert "What stays of maps by grad-cam at features.relu5, mnist-gap version 1" in result.output
    rows = [line for line in result.output.splitlines() if "of 10" in line]
    assert [row.split("│")[1].strip() for row in rows][:3] == ["fc", "features.bn5", "features.conv5"]
    assert len(rows) == 11


def test_json_has_each_sample() -> None:
    result = run("mnist", "saliency", "--independent", "--seed", 3, "--class", 7, "--json")
    facts = json.loads(result.stdout)
    assert (facts["model"], facts["method"], facts["layers"]) == ("mnist", "saliency", [])
    assert (facts["independent"], facts["seed"]) == (True, 3)
    assert [stage["layer"] for stage in facts["drawn"]] == ["fc2", "fc1", "conv2", "conv1"]
    assert {len(stage[of]) for stage in facts["drawn"] for of in ("signed", "unsigned")} == {10}


def test_files_are_pictures_or_arrays(tmp_path: Path, digits: np.ndarray, x: np.ndarray) -> None:
    Image.fromarray(digits[0]).save(tmp_path / "digit.png")
    np.save(tmp_path / "pixels.npy", digits[:1])
    np.save(tmp_path / "ready.npy", x[:1])
    found = [
        json.loads(run("mnist", "grad-cam", tmp_path / name, "--layer", "conv1", "--json").stdout)["drawn"]
        for name in ("digit.png", "pixels.npy", "ready.npy")
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]["signed"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope", "cam"], "there is no model 'nope'; there is: mnist, mnist-gap"),
        (["mnist", "nope"], "cam.method: got 'nope'"),
        (["mnist", "cam"], "cam is not possible"),
        (["mnist", "grad-cam", "--layer", "conv9"], "did you mean"),
        (["mnist", "grad-cam", "--class", "10"], "0 to 9"),
        (["mnist", "grad-cam", __file__], "no whole PNG or JPEG"),
    ],
)
def test_what_does_not_go_is_said_in_one_line(words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_wrong_use_exits_with_2() -> None:
    assert run("mnist").exit_code == 2
    assert run("mnist", "grad-cam", "/no/such/file.png").exit_code == 2
