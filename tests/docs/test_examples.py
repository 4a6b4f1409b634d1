"""The examples in the docs run, and give what the docs say."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image, ImageDraw

import torchvision_shim  # noqa: F401  # an example imports torchvision
from cutaway.cli import main
from cutaway_server.introspection.cam import METHODS
from cutaway_server.models.repository.load import image_spec
from cutaway_server.models.repository.manifest import Versions, read_manifest, read_versions
from doc_examples import BLOCK, checked
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]

WHOLE = {"network": {"factory": "timm:resnet18"}, "weights": "weights.safetensors", "inputs": [{"image": "imagenet"}]}
YAML = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/models.md").read_text(), re.MULTILINE | re.DOTALL)


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
        "docs/engines.md",
        "docs/models.md",
    ],
)
def test_examples(page: str, live_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if page == "docs/models.md":  # what it exports to is old, or warns of what it uses itself
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
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
            if file := re.match(r"# (\w+\.py)$", source, re.MULTILINE):
                Path(file[1]).write_text(source)
            lines_above = text.count("\n", 0, block.start(2))
            source = "\n" * lines_above + checked(source).replace("localhost:50051", live_server.address)
            exec(compile(source, page, "exec"), names)
    assert BLOCK.search(text)
    if page == "docs/client.md":
        assert {"where.png", "conv1.png", "seen"} <= {file.name for file in tmp_path.iterdir()}
    if page == "docs/cams.md":
        drawn = {file.stem for file in (tmp_path / "maps").glob("*.png")}
        assert {name.replace("+", "_") for name in METHODS} | {"sheet"} == drawn
    if page == "docs/models.md":
        assert_written_and_checked(text, tmp_path / "models")


def assert_written_and_checked(text: str, models: Path) -> None:
    """What `cutaway model add` wrote and `check` says is what the page shows, but for digests, times and the faster engine."""
    shown = yaml.safe_load(YAML[0])
    written = yaml.safe_load((models / "photos/1/model.yaml").read_text())
    assert written["weights"].pop("sha256") != shown["weights"].pop("sha256")
    assert list(written.items()) == list(shown.items())
    (told,) = re.findall(r"prints:\n\n```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    said = CliRunner().invoke(main, ["model", "check", str(models / "own/1"), "--allow-code"]).output
    assert words_of(told) == words_of(re.sub(r"│ not \w+ .*", "", said.replace("openvino, ", "onnxruntime, ")))


def words_of(text: str) -> list[str]:
    """Without numbers, units of time and lines of tables."""
    return [word for word in re.findall(r"[A-Za-z][\w+-]*", re.sub(r"\S*\d\S*…?", "", text)) if word not in ("ms", "s")]


@pytest.mark.parametrize("example", YAML)
def test_what_the_docs_say_of_models_is_read(example: str):
    """Whole files, and parts of one."""
    if example.startswith("# versions.yaml"):
        assert read_versions(example.encode()) != Versions()
        return
    given = yaml.safe_load(example)
    manifest = read_manifest(example.encode() if "network" in given else yaml.safe_dump({**WHOLE, **given}).encode())
    for spec in manifest.inputs:
        assert spec.image is None or image_spec(spec.image)
