"""A verification in another database names the same rows, and writes nothing to the view's."""

import random
from collections.abc import Iterator

import pytest

from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.schema.migrate import migrate
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.views.rebuilding import rebuild as rebuilding
from ledger.engine.views.rebuilding.compare import Difference
from ledger.engine.views.rebuilding.shadow import CannotBuild
from tests.support.databases import empty
from tests.support.rebuilding import (
    Vandal,
    as_named,
    damage,
    ignore_progress,
    leftover_tables,
    rows_of,
    view,
)
from tests.support.views import head, query


@pytest.fixture(scope="module")
def other(server: EmbeddedPostgres) -> Iterator[str]:
    with empty(server.url, "beside") as conninfo:
        migrate(conninfo)
        yield conninfo


def verify_apart(conninfo: str, other: str) -> list[Difference]:
    """Verify all views in sessions that may not write; return the rows that were named."""
    reading = f"{conninfo}&options=-c%20default_transaction_read_only%3Don"
    named: list[Difference] = []
    for projection in projections():
        found = rebuilding.verify(
            reading, EnvelopeMapper(), projection, ignore_progress, named.append, other
        )
        assert found.position == head(conninfo)
    return named


def test_no_row_of_a_sound_ledger_is_named(worked: str, other: str) -> None:
    rows = rows_of(worked)
    assert len(rows) > 100
    assert verify_apart(worked, other) == []
    assert (leftover_tables(worked), rows_of(worked)) == ([], rows)


def test_every_damaged_row_is_named_with_its_columns_and_no_other_row(
    worked: str, other: str
) -> None:
    right, vandal, dice = rows_of(worked), Vandal(worked, 7), random.Random(7)
    cells = [(p, table, c) for p in projections() for table in p.tables for c in table.columns]
    dice.shuffle(cells)
    for projection, table, column in cells:
        assert vandal.spoil_cell(projection, table, column), (table.name, column)
    expected = damage(rows_of(worked), right)
    assert {kind for _, _, kind, _, _ in expected} == {"missing", "extra", "differs"}
    assert as_named(verify_apart(worked, other)) == expected


def test_a_view_of_another_version_is_not_compared(worked: str, other: str) -> None:
    query(worked, "UPDATE ledger.projection SET version = version + 1 WHERE name = 'run'")
    with pytest.raises(CannotBuild, match="rebuild it first"):
        rebuilding.verify(worked, EnvelopeMapper(), view("run"), ignore_progress, print, other)
