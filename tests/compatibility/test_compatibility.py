"""The networks of the table that are small, through a real server; `make compatibility` takes all of them."""

from collections.abc import Iterator

import pytest

import cutaway
from compatibility.check import check
from compatibility.networks import ALL, SMALL, Entry
from compatibility.serving import serving
from compatibility.table import rows


@pytest.fixture(scope="module")
def client() -> Iterator[cutaway.Client]:
    with serving(SMALL) as connected:
        yield connected


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.title)
def test_the_table_is_right(entry: Entry, client: cutaway.Client) -> None:
    row = check(entry, client)
    assert row == rows()[row.network]


def test_the_table_has_every_network() -> None:
    assert list(rows()) == [f"`{entry.title}`" for entry in ALL]
