"""The decision tables compared with the log (contract, Command line).

Decisions rest on these tables: who has a key, which facts are known, which runs are open. An append
writes them with its events, so they follow from the log, but for what ``tables.Derived`` names.

The log is append-only, so it is folded in slices first, without a snapshot. A snapshot is then
taken for the last few events and the tables alone: a long snapshot would keep vacuum from the whole
database.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from eventsourcing.persistence import MapperDeserialisationError
from psycopg.rows import TupleRow, tuple_row
from psycopg.types.datetime import TimestamptzBinaryLoader

from ledger.domain.endpoint import WebhookDeliveryFailed
from ledger.domain.recorded import Recorded
from ledger.domain.run import RunRequested, RunStarted
from ledger.domain.values import format_instant
from ledger.log.codec import EnvelopeMapper
from ledger.log.decisions import DecisionTables
from ledger.log.tables import (
    DECISION_TABLES,
    ID_COUNTER,
    IDENTITY,
    LEASE,
    RUN_KEY,
    DecisionTable,
    Derived,
)

Report = Callable[[str], None]
Progress = Callable[[int, int], None]
Columns = dict[str, Any]
Rows = dict[Any, Columns]
"""The rows of a table by key, each with its other columns."""

_AT_ONCE = 5000
"""Rows that are read at a time."""

_SLICE = f"""
SELECT originator_id, originator_version, topic, state, notification_id
FROM ledger.ledger_events WHERE notification_id > %s ORDER BY notification_id LIMIT {_AT_ONCE}
"""

_HEAD = "SELECT coalesce(max(notification_id), 0) FROM ledger.ledger_events"

TABLES = tuple(table for table in DECISION_TABLES if table.derived is not Derived.NOT_DERIVABLE)


class Compared(NamedTuple):
    """How many rows were compared, and how many differences were found."""

    rows: int
    faults: int


def compare(conninfo: str, report: Report, progress: Progress) -> Compared:
    """Compare each decision table with the fold of the log; ``report`` gets each difference.

    ``progress`` gets the position that is folded, and the log's last position.
    """
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        connection.adapters.register_loader("timestamptz", _Instants)
        return _Comparison(connection, report, progress).run()


class _Instants(TimestamptzBinaryLoader):
    """Loads instants that Python cannot represent, such as infinity, as None."""

    def load(self, data: Any) -> Any:
        try:
            return super().load(data)
        except psycopg.DataError:
            return None


class _Comparison:
    """The comparison, and the fold of the log so far."""

    def __init__(
        self, connection: psycopg.Connection[TupleRow], report: Report, progress: Progress
    ) -> None:
        self._connection, self._report, self._progress = connection, report, progress
        self._decode = EnvelopeMapper().decode
        self._fold = DecisionTables()
        self._identities: dict[bytes, int] = {}
        self._run_keys: Rows = {}
        self._failures: set[int] = set()
        """The positions of failed deliveries: the log does not have their identities."""
        self._position = self._rows = self._faults = 0

    def run(self) -> Compared:
        """Fold the log, then compare in a snapshot."""
        ((head,),) = self._connection.execute(_HEAD)
        while self._position < head and self._fold_slice():
            self._progress(min(self._position, head), head)
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            while self._fold_slice():
                pass
            expected = self._expected()
            for table in TABLES:
                if table is not IDENTITY:
                    self._compare(table, expected[table])
            self._compare_identities()
        return Compared(self._rows, self._faults)

    # The fold.

    def _fold_slice(self) -> bool:
        """Fold the next events; return whether there were any."""
        found = self._connection.execute(_SLICE, (self._position,), binary=True).fetchall()
        for row in found:
            self._position = row[-1]
            # An event that cannot be read, or that needs a missing one: the check of the sealed log
            # names it, and here the rows that rest on it differ.
            with contextlib.suppress(MapperDeserialisationError, KeyError):
                self._note(self._decode(*row))
        self._identities |= {row.digest: row.position for row in self._fold.take_identities()}
        # The fold goes on without these, which grow with the log.
        self._fold.firsts.clear()
        self._fold.ended.clear()
        return bool(found)

    def _note(self, recorded: Recorded) -> None:
        self._fold.note(recorded)
        body = recorded.body
        if isinstance(body, WebhookDeliveryFailed):
            self._failures.add(recorded.position)
        elif isinstance(body, RunRequested | RunStarted) and body.run_id_origin is not None:
            run_key = {"organization_id": recorded.organization_id, "destroyed_at": None}
            self._run_keys[recorded.originator_id] = run_key

    def _expected(self) -> Mapping[DecisionTable, Rows]:
        """The rows of every table but ``IDENTITY``."""
        for run_id, at in self._fold.erased.items():
            self._run_keys.setdefault(run_id, {}).update(wrapped=None, destroyed_at=at)
        expected: dict[DecisionTable, Rows] = {RUN_KEY: self._run_keys}
        for table, rows in self._fold.changed().items():
            assert isinstance(table, DecisionTable)
            expected[table] = dict(_split(table, row) for row in rows)
        return expected

    # The comparison.

    def _compare(self, table: DecisionTable, expected: Rows) -> None:
        for row in self._stored(table):
            key, stored = _split(table, row)
            columns = expected.pop(key, None)
            if columns is None:
                self._fault(f"{_name(table, key)}: the log has no such row")
                continue
            for column in _differing(table, columns, stored):
                self._fault(
                    f"{_name(table, key)}: its column {column} says {_shown(stored[column])},"
                    f" the log {_shown(columns[column])}"
                )
        for key in expected:
            self._fault(f"{_name(table, key)}: the row is missing")

    def _compare_identities(self) -> None:
        """Compare the largest table without a dictionary for each row."""
        for digest, position in self._stored(IDENTITY):
            expected = self._identities.pop(digest, None)
            if expected is None and position not in self._failures:
                self._fault(f"{_name(IDENTITY, digest)}: the log has no such row")
            elif expected not in (None, position):
                self._fault(
                    f"{_name(IDENTITY, digest)}: its column position says {position},"
                    f" the log {expected}"
                )
        for digest in self._identities:
            self._fault(f"{_name(IDENTITY, digest)}: the row is missing")

    def _stored(self, table: DecisionTable) -> Iterator[Sequence[Any]]:
        with self._connection.cursor(table.name, binary=True) as cursor:
            cursor.itersize = _AT_ONCE
            columns = ", ".join(table.columns)
            cursor.execute(f"SELECT {columns} FROM ledger.{table.name}".encode())
            for row in cursor:
                self._rows += 1
                yield tuple(map(_plain, row))

    def _fault(self, line: str) -> None:
        self._faults += 1
        self._report(line)


def _differing(table: DecisionTable, expected: Columns, stored: Columns) -> list[str]:
    """The columns of a row that cannot be as they are."""
    if table is LEASE:
        return _differing_lease(expected, stored)
    if table is ID_COUNTER:
        # A counter may be ahead: all that matters is that it gives no id again.
        return ["last"] if stored["last"] < expected["last"] else []
    return [column for column, value in expected.items() if stored[column] != value]


def _differing_lease(begun: Columns, stored: Columns) -> list[str]:
    """The columns of a lease that cannot be as they are: heartbeats only put off its end."""
    heard_at, ends_at = stored["heard_at"], stored["ends_at"]
    lasts = timedelta(seconds=begun["seconds"])
    sound = {
        "seconds": stored["seconds"] == begun["seconds"],
        "heard_at": heard_at is not None and heard_at >= begun["heard_at"],
        "ends_at": ends_at is not None and (heard_at is None or ends_at >= heard_at + lasts),
    }
    return [column for column, is_sound in sound.items() if not is_sound]


def _split(table: DecisionTable, row: Sequence[Any]) -> tuple[Any, Columns]:
    """A row's key, which is a tuple if several columns make it, and its other columns."""
    columns = dict(zip(table.columns, row, strict=True))
    key = tuple(columns.pop(column) for column in table.key)
    return key if len(key) > 1 else key[0], columns


def _name(table: DecisionTable, key: Any) -> str:
    return f"{table.name} {_shown(key)}"


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return value.bytes
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return format_instant(value)
    return " ".join(map(_shown, value)) if isinstance(value, tuple) else str(value)
