"""The best number of samples to join, by times that are given here."""

import itertools

import pytest

from cutaway_server.errors import NetworkFailed
from cutaway_server.prediction.batch_size import best_batch


def test_as_many_as_cost_least_each():
    best, seconds = best_batch(lambda samples: 0.001 + 0.001 * samples if samples <= 8 else 0.01 * samples, 32)
    assert (best, seconds) == (8, pytest.approx(0.009))


@pytest.mark.parametrize("quick", [0.1, 1, 3])
def test_what_else_the_machine_does_changes_nothing(quick: float):
    """Of five runs four are held up for a slice of another program's time, those of each size as often."""
    held_up = itertools.cycle([0.002] * 4 + [0.0])
    best, seconds = best_batch(lambda samples: quick * (0.0001 + 0.00002 * samples) + next(held_up), 32)
    assert (best, seconds) == (32, pytest.approx(quick * 0.00074))


def test_sizes_that_fail_are_passed_over():
    def run(samples: int) -> float:
        if samples in (1, 8):
            raise NetworkFailed("odd")
        return 0.001 * samples

    assert best_batch(run, 32) == (4, pytest.approx(0.004))


def test_all_sizes_fail():
    def run(samples: int) -> float:
        raise NetworkFailed("broken")

    with pytest.raises(NetworkFailed, match="broken"):
        best_batch(run, 32)
