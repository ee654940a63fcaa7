"""Compares tables whose rows change with the fold of the log, in pages.

A page is a range of keys, read in its own snapshot. Its rows are compared with the fold at that
snapshot's position. So no page is older than its rows, however long the table is. A row that was
written after its page was read is in no page; it is looked up at the end.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from ledger.engine.log.decisions import DecisionTables
from ledger.engine.log.tables import LEASE, LINE_ACTIVITY, OPEN_RUN
from ledger.engine.postgres.schema.table import Table
from ledger.features.proof.sealing.shelf import Connection
from ledger.features.proof.tables import Report
from ledger.features.proof.verification.differing import (
    differing,
    differs,
    extra,
    may_be_extra,
    missing,
    plain,
)

_PAGE = 10_000

_NEVER = datetime.min.replace(tzinfo=UTC)

Key = tuple[Any, ...]
Expected = Callable[[Key], Sequence[Any] | None]


class Pages:
    """The comparison of the tables whose rows change."""

    def __init__(
        self,
        connection: Connection,
        made: DecisionTables,
        report: Report,
        pinned: Callable[[], AbstractContextManager[int]],
    ) -> None:
        self._connection, self._made, self._report = connection, made, report
        self._pinned = pinned
        self.rows = 0

    def compare(self, table: Table) -> None:
        visited: set[Key] = set()
        after: Key | None = None
        is_last = False
        while not is_last:
            with self._pinned():
                rows = self._page(table, after)
                is_last = len(rows) < _PAGE
                self._compare(table, rows, visited)
                if is_last:
                    self._compare_unseen(table, visited)
            if rows:
                after = _key_of(table, rows[-1])

    def _page(self, table: Table, after: Key | None) -> list[Sequence[Any]]:
        columns, keys = ", ".join(table.columns), ", ".join(table.key)
        marks = ", ".join(f"%s::{table.columns[column]}" for column in table.key)
        beyond = "" if after is None else f"WHERE ({keys}) > ({marks})"
        return self._read(
            f"SELECT {columns} FROM ledger.{table.name} {beyond} ORDER BY {keys} LIMIT {_PAGE}",
            after or (),
        )

    def _compare_unseen(self, table: Table, visited: set[Key]) -> None:
        """Compare the rows that no page had: they were written later, or they are missing."""
        unseen = [key for key in map(_keys(table), self._rows_made(table)) if key not in visited]
        columns = ", ".join(f"t.{column}" for column in table.columns)
        names = ", ".join(table.key)
        arrays = ", ".join(f"%s::{table.columns[column]}[]" for column in table.key)
        statement = (
            f"SELECT {columns} FROM unnest({arrays}) AS asked ({names})"
            f" JOIN ledger.{table.name} AS t USING ({names})"
        )
        for at in range(0, len(unseen), _PAGE):
            keys = unseen[at : at + _PAGE]
            rows = self._read(statement, [list(values) for values in zip(*keys, strict=True)])
            self._compare(table, rows, visited)
            for key in keys:
                if key not in visited:
                    self._report(missing(table, key))

    def _read(self, statement: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        found = self._connection.execute(statement.encode(), values, binary=True)
        return [tuple(map(plain, row)) for row in found]

    def _compare(self, table: Table, rows: Iterable[Sequence[Any]], visited: set[Key]) -> None:
        expected, key_of = self._expected(table), _keys(table)
        for row in rows:
            self.rows += 1
            key = key_of(row)
            made = expected(key)
            if made is None:
                if not may_be_extra(table, dict(zip(table.columns, row, strict=True))):
                    self._report(extra(table, key))
                continue
            visited.add(key)
            if row != made:
                self._compare_columns(table, key, row, made)

    def _compare_columns(
        self, table: Table, key: Key, row: Sequence[Any], made: Sequence[Any]
    ) -> None:
        stored = dict(zip(table.columns, row, strict=True))
        if table is LEASE:
            stored["listened_at"] = self._listened_at()
        expected = dict(zip(table.columns, made, strict=True))
        for column in differing(table, expected, stored):
            self._report(differs(table, key, column, stored[column], expected[column]))

    def _listened_at(self) -> datetime:
        """When the service last could take heartbeats: leases are extended while it cannot."""
        found = self._read("SELECT listened_at FROM ledger.listening", ())
        return next((at for (at,) in found if at is not None), _NEVER)

    # The rows that follow from the log.

    def _rows_made(self, table: Table) -> Sequence[Sequence[Any]]:
        return self._made.changed()[table]

    def _expected(self, table: Table) -> Expected:
        """A function that returns the row of a key, in the fold as it is now."""
        if (large := _LARGE.get(table)) is not None:
            rows_of, index = large
            rows, key_of = rows_of(self._made), _keys(table)

            def expected(key: Key) -> Sequence[Any] | None:
                row = rows.get(key[index])
                return row if row is not None and key_of(row) == key else None

            return expected
        return {_key_of(table, row): row for row in self._rows_made(table)}.get


_LARGE: Mapping[Table, tuple[Callable[[DecisionTables], Mapping[str, Sequence[Any]]], int]] = {
    LINE_ACTIVITY: (lambda made: made.activity, 0),
    OPEN_RUN: (lambda made: made.opened, 1),
    LEASE: (lambda made: made.leases, 0),
}
"""Tables of many pages: the rows in the fold, and the index of their key in the table's key."""


def _keys(table: Table) -> Callable[[Sequence[Any]], Key]:
    indexes = [list(table.columns).index(column) for column in table.key]
    if len(indexes) == 1:
        (index,) = indexes
        return lambda row: (row[index],)
    return lambda row: tuple(row[index] for index in indexes)


def _key_of(table: Table, row: Sequence[Any]) -> Key:
    return _keys(table)(row)
