"""What the tables of the benchmarks have in common."""

from typing import Any

from rich.table import Table


def table_of_figures(*columns: str, words: int) -> Table:
    """A table whose first columns are words; the others are figures, to the right."""
    table = Table(*columns)
    for column in table.columns[words:]:
        column.justify = "right"
    return table


def ratio_cells(found: dict[str, Any]) -> tuple[str, str]:
    """A row's ratio, and the quartiles of it from round to round."""
    low, high = found["ratio_quartiles"]
    return f"{found['ratio']:.2f}", f"{low:.2f} to {high:.2f}"


def machine_words(report: dict[str, Any]) -> str:
    """What it ran on, and with."""
    return ", ".join(f"{name} {value}" for name, value in report["machine"].items())
