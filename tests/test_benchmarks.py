"""Each benchmark finds all that it imports, and the page of peers says what was found: nothing else in the suite runs them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    "name",
    [
        "against_echo.py",
        "allocator.py",
        "cams.py",
        "image_decoders.py",
        "introspection.py",
        "slow_reader.py",
        "startup.py",
        "peers",
    ],
)
def test_it_says_what_it_measures(name: str) -> None:
    ran = subprocess.run([sys.executable, BENCHMARKS / name, "--help"], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "usage:" in ran.stdout


def start(number: int, server: str, engine: str, rates: dict[int, float], p99_a_caller: float = 1.0) -> dict[str, Any]:
    def run(callers: int, rate: float) -> dict[str, Any]:
        times = {"p50": 1.0, "p99": p99_a_caller * callers, "refused": 0, "refused_p99": 0.0, "seconds": 1.0}
        return {"callers": callers, "rps": rate, "server_cpu_ms": 1.0, **times}

    runs = [run(callers, rate) for callers, rate in rates.items()]
    about = {"round": number, "server": server, "network": "mnist", "engine": engine}
    return {**about, "runs": runs, "memory_mib": 10.0, "start_s": 1.0}


def page(*found: dict[str, Any]) -> list[str]:
    results = {"seconds": 1.0, "machine": {}, "missing": {}, "found": found}
    program = "import json, sys; from table import report; print(report(json.load(sys.stdin)))"
    command, given = [sys.executable, "-c", program], json.dumps(results)
    ran = subprocess.run(command, cwd=BENCHMARKS / "peers", input=given, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_ratios_are_taken_round_by_round_to_the_peer_that_is_best_there() -> None:
    found = page(
        start(0, "cutaway", "auto", {1: 100, 8: 300}),
        start(1, "cutaway", "auto", {1: 300, 8: 300}),
        start(0, "kserve", "eager", {1: 100, 8: 10}),
        start(1, "kserve", "eager", {1: 100, 8: 10}),
        start(1, "mlserver", "eager", {1: 50, 8: 100}),  # it did not run in the first round
    )
    assert "| `mnist`, requests/s to the best peer's, as a user gets it | 2.00 (1.00 to 3.00) | 3.00 |  |" in found


def test_many_callers_are_held_against_the_most_answers_of_all() -> None:
    rates = {1: 100.0, 32: 400.0, 64: 500.0, 256: 450.0}
    found = page(start(0, "cutaway", "auto", rates, p99_a_caller=2.0))
    assert "| `mnist`, 32 to 256 callers: fewest answers/s to the most of all | 0.80 |" in found
    assert "| `mnist`, p99 a caller: at 256 callers to that at 32 | 1.00 |" in found
    assert "| 64 | 500 | 1.00 | 1.00 | 128 | 2.00 | 0.00 |" in found
