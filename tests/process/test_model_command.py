"""`cutaway model`, as a person sees it."""

from pathlib import Path

from click.testing import CliRunner

from cutaway.cli import main

ODD = """
import torch

class Odd(torch.nn.Module):
    def forward(self, x):
        if len(x) == 3:
            raise RuntimeError("three is a crowd")
        return x.flatten(1)

build = Odd
"""


def test_what_is_amiss_is_told_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "odd/1"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text(ODD)
    (folder / "model.yaml").write_text("network: {module: module.py}\ninputs: [{shape: [1, 4, 4]}]\n")
    ended = CliRunner().invoke(main, ["model", "check", str(tmp_path), "--allow-code"])
    assert ended.exit_code == 0, ended.output
    assert "note: Introspect is refused" in ended.stdout
    assert set(ended.stderr.splitlines()) == {"warning: no introspection; RuntimeError: three is a crowd"}
