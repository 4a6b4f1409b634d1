"""How many samples are best joined: more at a time cost less each, until they no longer fit the caches."""

from collections.abc import Callable, Iterator

from cutaway_server.errors import NetworkFailed, OutOfMemory, Refusal

_RUNS = 3  # of each size at least; the least time counts, which other programs held up least
_AT_LEAST = 0.005  # seconds of runs like that one: of short batches there are more, so that some are not held up at all
_WORTH = 1.05  # a larger batch may cost so much more a sample: it saves what each batch costs besides
_LONGEST = 0.25  # seconds: no batch is tried that is likely to take longer


def best_batch(run: Callable[[int], float], most: int) -> tuple[int, float]:
    """The number of samples of which one costs the least, and how many seconds that batch takes.

    Args:
        run: runs a batch of so many samples, and gives the seconds that it took.
    Raises:
        Refusal: batches of every size fail, or one takes too long. Sizes that fail are passed over.
    """
    seconds: dict[int, float] = {}
    failed: Refusal | None = None
    for size in _sizes(most):
        try:
            seconds[size] = _least(run, size)
        except (NetworkFailed, OutOfMemory) as error:
            failed = error
            if seconds:
                break
            continue
        if 2 * seconds[size] > _LONGEST:
            break
    if failed and not seconds:
        raise failed
    least = min(taken / size for size, taken in seconds.items())
    best = max(size for size, taken in seconds.items() if taken / size <= _WORTH * least)
    return best, seconds[best]


def _sizes(most: int) -> Iterator[int]:
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def _least(run: Callable[[int], float], size: int) -> float:
    times: list[float] = []
    while len(times) < _RUNS or len(times) * min(times) < _AT_LEAST:
        times.append(run(size))
    return min(times)
