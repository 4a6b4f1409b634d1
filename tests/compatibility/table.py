"""The table in docs/compatibility.md. As a program: makes it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from itertools import zip_longest
from pathlib import Path

import torch

from compatibility.check import Row, check
from compatibility.networks import ALL
from compatibility.serving import serving

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEAD = "| network | input | layers | names | captures | Predict | default layer | Grad-CAM |\n|---|---|---|---|---|---|---|---|\n"
END = "\n## "


def rows() -> dict[str, Row]:
    """What the page says, by network."""
    _, _, table = PAGE.read_text().partition(HEAD)
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.partition(END)[0].splitlines())
    return {row.network: row for row in (Row(*of_one) for of_one in cells)}


def write(made: Iterable[Row]) -> None:
    """Puts the rows in place of the table that is there."""
    before, _, after = PAGE.read_text().partition(HEAD)
    lines = [f"| {' | '.join(astuple(row))} |\n" for row in made]
    PAGE.write_text(f"{before}{HEAD}{''.join(lines)}{after[after.index(END) :]}")


def main() -> None:
    torch.set_num_threads(1)  # as the server: comparisons are bit for bit
    made = []
    with serving(ALL) as client, ThreadPoolExecutor(1) as ahead:
        for entry, following in zip_longest(ALL, ALL[1:]):
            if following:
                ahead.submit(client.model, following.model)  # the server loads it meanwhile
            made.append(check(entry, client))
            print("  ".join(filter(None, astuple(made[-1]))), flush=True)
    write(made)


if __name__ == "__main__":
    main()
