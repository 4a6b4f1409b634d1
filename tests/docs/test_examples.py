"""The examples in the docs run, and give what the docs say."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from cutaway.cli import main
from cutaway_server.introspection.cam import METHODS
from doc_examples import BLOCK, checked
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]


def run_command(line: str, address: str) -> None:
    program, *words = shlex.split(line.removeprefix("$ "))
    assert program == "cutaway"
    result = CliRunner().invoke(main, words, env={"CUTAWAY_SERVER": address})
    assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/client.md",
        "docs/captures.md",
        "docs/cams.md",
        "docs/notebook.md",
        "docs/layers.md",
        "docs/contract.md",
    ],
)
def test_examples(page: str, live_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    digit = Image.new("L", (280, 280))
    ImageDraw.Draw(digit).line([(80, 70), (200, 70), (130, 215)], fill=255, width=24, joint="curve")
    digit.save("digit.png")
    text = (ROOT / page).read_text()
    names: dict[str, object] = {}
    for block in BLOCK.finditer(text):
        language, source = block.groups()
        if language == "console":
            for line in source.splitlines():
                run_command(line, live_server.address)
        else:
            lines_above = text.count("\n", 0, block.start(2))
            source = "\n" * lines_above + checked(source).replace("localhost:50051", live_server.address)
            exec(compile(source, page, "exec"), names)
    assert names
    if page == "docs/client.md":
        assert {"where.png", "conv1.png", "seen"} <= {file.name for file in tmp_path.iterdir()}
    if page == "docs/cams.md":
        drawn = {file.stem for file in (tmp_path / "maps").glob("*.png")}
        assert {name.replace("+", "_") for name in METHODS} | {"sheet"} == drawn
