"""How much memory the weights of all models may take together, and which model is parked for another one."""

from collections.abc import Iterable

from cutaway_server.models.model import NotServable
from cutaway_server.process.slot import Slot

_MIB = 1 << 20


class BudgetInUse(Exception):
    """Models that calls use fill the budget."""


class MemoryBudget:
    """A budget of so many bytes; 0 for no limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def check(self, needed: int) -> None:
        """Raises NotServable for what does not fit, whatever else is parked."""
        if self.limit and needed > self.limit:
            raise NotServable(f"it takes {needed / _MIB:,.1f} MiB; the budget of all models is {self.limit / _MIB:,.1f} MiB")

    def fits(self, needed: int, others: Iterable[Slot]) -> bool:
        """Whether so many bytes fit beside others."""
        taken = sum(other.current.served.model.weight_bytes for other in others if other.current)
        return not self.limit or taken + needed <= self.limit

    @staticmethod
    def first_to_go(others: Iterable[Slot]) -> Slot | None:
        """Of the models in memory that no call uses the one that was asked for longest ago."""
        idle = (other for other in others if other.current and not other.current.users)
        return min(idle, key=lambda other: other.last_used, default=None)
