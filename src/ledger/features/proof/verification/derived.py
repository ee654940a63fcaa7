"""Compares the tables that are derived from the log with the log (contract, Proof).

Decisions rest on these tables: who has a key, which facts were received, which runs are open. An
append writes them with its events, so they follow from the log, except for what ``differing.py``
allows.

The log is append-only, so it is folded in slices, without a snapshot. Rows that are written once
are looked up slice by slice (``derived_once.py``), so memory does not grow with the facts. Rows
that change are compared in pages (``derived_pages.py``): each page in its own snapshot, after the
fold has reached that snapshot's position. A snapshot lasts no longer than a page: a long one would
keep vacuum from the whole database.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import psycopg
from psycopg.rows import tuple_row

from ledger.engine.log import tables
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.decisions import DecisionTables
from ledger.engine.postgres.schema.table import Table
from ledger.engine.postgres.session import options_of
from ledger.engine.values.recorded import Identity, Recorded
from ledger.features.proof.sealing.shelf import Connection
from ledger.features.proof.tables import Difference, Progress, Report
from ledger.features.proof.verification.derived_once import PossibleIdentities, WrittenOnce
from ledger.features.proof.verification.derived_pages import Pages
from ledger.features.proof.verification.derived_snapshots import Snapshots
from ledger.features.proof.verification.differing import Instants

_AT_ONCE = 1000
"""Events that are folded at a time."""

_NEAR = 10_000
"""The most positions that the fold may be behind when a snapshot is taken."""

_SLICE = f"""
SELECT originator_id, originator_version, topic, state, notification_id
FROM ledger.ledger_events WHERE notification_id > %s ORDER BY notification_id LIMIT {_AT_ONCE}
"""

_HEAD = "SELECT coalesce(max(notification_id), 0) FROM ledger.ledger_events"

TABLES: tuple[Table, ...] = (
    *(
        table
        for table in tables.DECISION_TABLES
        if table.derived is not tables.Derived.NOT_DERIVABLE
    ),
    tables.SNAPSHOT,
    tables.STATEMENT_DOCUMENT,
)

_ONCE = (tables.IDENTITY, tables.RUN_KEY, tables.EXECUTION_RECORD)
"""The tables whose rows are written once: too many rows to hold in memory."""


class DocumentComparison(Protocol):
    """Compares the documents of statements with the events that issued them."""

    rows: int

    def note(self, recorded: Recorded) -> None:
        """Take in an event."""

    def compare(self) -> None:
        """Compare the documents of the statements since the last call."""


class Compared(NamedTuple):
    """How many rows were compared, and how many differences were found."""

    position: int
    """The position up to which the log was folded."""
    rows: int
    faults: int


def compare(
    conninfo: str,
    report: Report,
    progress: Progress,
    breathe: Callable[[], None] = lambda: None,
    *,
    documents: Callable[[Connection, Report], DocumentComparison],
    deliveries: Callable[[], PossibleIdentities],
) -> Compared:
    """Compare each table with the fold of the log; ``report`` gets each difference.

    ``progress`` gets the folded position, and the log's last position. ``breathe`` is called
    between slices, without an open transaction, and may wait. ``documents`` and ``deliveries``
    create the comparisons that statements and webhooks supply.
    """
    # Avoid a plan that reads a whole table for each slice.
    options = options_of(conninfo, "-c enable_hashjoin=off -c enable_mergejoin=off")
    with psycopg.connect(
        conninfo,
        autocommit=True,
        row_factory=tuple_row,
        options=options,
        application_name="ledger verify",
    ) as connection:
        connection.adapters.register_loader("timestamptz", Instants)
        return _Comparison(connection, report, progress, breathe, documents, deliveries()).run()


class _LogTables(DecisionTables):
    """The fold of the log, without the receipts of facts, which only an append needs."""

    def identify(self, new: Identity, recorded: Recorded) -> None:
        self.new_identities.append(tables.IdentityRow(new.digest, recorded.position))


class _Comparison:
    """The comparison, and the fold of the log so far."""

    def __init__(
        self,
        connection: Connection,
        report: Report,
        progress: Progress,
        breathe: Callable[[], None],
        documents: Callable[[Connection, Report], DocumentComparison],
        deliveries: PossibleIdentities,
    ) -> None:
        self._connection, self._reported = connection, report
        self._progress, self._breathe = progress, breathe
        self._decode = EnvelopeMapper().decode
        self._made = _LogTables()
        self._once = WrittenOnce(connection, self._report, deliveries)
        self._snapshots = Snapshots(connection, self._report)
        self._documents = documents(connection, self._report)
        self._position = self._faults = 0

    def run(self) -> Compared:
        """Fold the log, compare the rows that change, then look for rows without an event."""
        self._snapshots.read()
        self._apply_until(self._head())
        pages = Pages(self._connection, self._made, self._report, self._pinned)
        for table in TABLES:
            if table not in (*_ONCE, tables.SNAPSHOT, tables.STATEMENT_DOCUMENT):
                pages.compare(table)
        self._snapshots.finish()
        self._once.finish(self._made.erased, self._pinned)
        rows = pages.rows + self._once.rows + self._snapshots.rows + self._documents.rows
        return Compared(self._position, rows, self._faults)

    def _head(self) -> int:
        ((head,),) = self._connection.execute(_HEAD)
        return int(head)

    def _apply_until(self, head: int) -> None:
        while self._position < head and self._apply_slice():
            self._progress(min(self._position, head), head)
            self._breathe()

    @contextlib.contextmanager
    def _pinned(self) -> Iterator[int]:
        """Open a snapshot and yield its position, which the fold has reached."""
        self._breathe()
        while (head := self._head()) - self._position > _NEAR:
            self._apply_until(head)
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            while self._apply_slice():
                pass
            yield self._position

    def _apply_slice(self) -> bool:
        """Fold the next events; return False if there were none."""
        found = self._connection.execute(_SLICE, (self._position,), binary=True).fetchall()
        for row in found:
            self._position = row[-1]
            # An altered event may fail in any way, and so may one that needs a missing event. The
            # check of the sealed log reports it, and here the rows that rest on it differ.
            with contextlib.suppress(Exception):
                recorded = self._decode(*row)
                for part in (self._snapshots, self._once, self._documents, self._made):
                    part.note(recorded)
        self._once.compare(self._made)
        self._documents.compare()
        # The fold does not need them, and they grow with the log.
        self._made.ended.clear()
        self._made.moved.clear()
        return bool(found)

    def _report(self, difference: Difference) -> None:
        self._faults += 1
        self._reported(difference)
