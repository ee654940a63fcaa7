"""A ledger of its own for each test, to be sealed and spoilt."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.settings import Settings
from tests.support.facts import fact
from tests.support.ledger import Ledger, working
from tests.support.sealing import seal


@pytest.fixture
def ledger(conninfo: str, settings: Settings) -> Iterator[Ledger]:
    with working(conninfo, settings) as own:
        yield own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the last checkpoint is kept."""
    return tmp_path / "sealed"


@pytest.fixture
def full(ledger: Ledger, folder: Path) -> Ledger:
    """A line with 601 events, sealed in three parts: three tiles of leaves and one above."""
    line = ledger.line("capacity")
    for count in (200, 300, 100):
        report(ledger, line, count)
        assert seal(ledger.conninfo, folder) > 0
    return ledger


def report(ledger: Ledger, line: str, count: int) -> None:
    """So many check-ins, in one append."""
    items = ledger.report(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(count)))
    assert {item.outcome for item in items} == {"recorded"}
