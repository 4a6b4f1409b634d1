"""How many samples are best joined: more at a time cost less each, until they no longer fit the caches."""

from collections.abc import Callable, Iterator

from cutaway_server.errors import NetworkFailed, OutOfMemory, Refusal

_ROUNDS, _ENOUGH = 3, 0.1  # runs of each size at least, in turns; seconds of all, after which there are no more
_WORTH = 1.05  # a larger batch may cost so much more a sample: it saves what each batch costs besides
_LONGEST = 0.25  # seconds: no batch is tried that is likely to take longer


def best_batch(run: Callable[[int], float], most: int) -> tuple[int, float]:
    """The number of samples of which one costs the least, and how many seconds that batch takes.

    Args:
        run: runs a batch of so many samples, and gives the seconds that it took.
    Raises:
        Refusal: batches of every size fail, or one takes too long. Sizes that fail are passed over.
    """
    seconds = _tried(run, most)
    spent, rounds = 0.0, 2  # each ran twice when it was tried
    while rounds < _ROUNDS or spent < _ENOUGH:
        for size in seconds:
            taken = run(size)
            seconds[size] = min(seconds[size], taken)  # what other programs held up least
            spent += taken
        rounds += 1
    least = min(taken / size for size, taken in seconds.items())
    best = max(size for size, taken in seconds.items() if taken / size <= _WORTH * least)
    return best, seconds[best]


def _sizes(most: int) -> Iterator[int]:
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def _tried(run: Callable[[int], float], most: int) -> dict[int, float]:
    """What each size takes that is neither too long nor fails."""
    seconds: dict[int, float] = {}
    failed: Refusal | None = None
    for size in _sizes(most):
        try:
            seconds[size] = min(run(size), run(size))  # the first run of a size may prepare for it
        except (NetworkFailed, OutOfMemory) as error:
            failed = error
            if seconds:
                break
            continue
        if 2 * seconds[size] > _LONGEST:
            break
    if failed and not seconds:
        raise failed
    return seconds
