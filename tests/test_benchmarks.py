"""Each benchmark finds all that it imports: nothing else in the suite runs them."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("name", ["against_echo.py", "cams.py", "introspection.py", "slow_reader.py", "peers"])
def test_it_says_what_it_measures(name: str) -> None:
    ran = subprocess.run([sys.executable, BENCHMARKS / name, "--help"], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "usage:" in ran.stdout
