"""Values that Prometheus is given in one go."""

from collections import deque
from collections.abc import Callable

_MOST = 256  # so few that giving them takes well under a millisecond


class Tally:
    """Holds values until the metrics are read, or many have come: adding one to it costs less than observing it.

    Args:
        observe: is given each value.
        count: is given how many there were.
    """

    __slots__ = ("_count", "_observe", "_values")

    def __init__(self, observe: Callable[[float], object], count: Callable[[int], object] | None = None) -> None:
        self._observe = observe
        self._count = count
        self._values: deque[float] = deque()

    def add(self, value: float) -> None:
        """From any thread."""
        self._values.append(value)
        if len(self._values) >= _MOST:
            self.give()

    def give(self) -> None:
        """Gives what is there, from any thread."""
        given = 0
        try:
            while True:
                self._observe(self._values.popleft())
                given += 1
        except IndexError:  # another thread may be giving, too: none is left
            pass
        if given and self._count:
            self._count(given)
