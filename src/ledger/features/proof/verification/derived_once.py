"""Compares tables whose rows are written once with the events that caused the rows.

There is a row for nearly each fact. So the rows of an event are looked up as soon as the event is
folded, and nothing of them stays in memory. To find rows without an event, PostgreSQL looks up the
event that each row must have, page by page. Only a hash ties identities to their events, so their
rows are counted first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from ledger.engine.log import tables
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.decisions import DecisionTables
from ledger.engine.values.recorded import Recorded
from ledger.features.proof.sealing.shelf import Connection
from ledger.features.proof.tables import Report
from ledger.features.proof.verification.differing import differs, extra, missing
from ledger.features.runs.model.run import RunRequested, RunStarted

_PAGE = 50_000
"""Rows of a page: PostgreSQL compares them in some tenths of a second."""

# The identities that are missing, or have another position than expected.
_IDENTITIES = """
SELECT asked.digest, asked.position, i.position
FROM unnest(string_to_array(%s, ' ')::uuid[], string_to_array(%s, ' ')::bigint[])
    AS asked (digest, position)
LEFT JOIN LATERAL (
    SELECT position FROM ledger.identity WHERE digest = asked.digest OFFSET 0
) AS i ON true
WHERE i.position IS DISTINCT FROM asked.position
"""

# The possible identities of failed deliveries that exist, with their positions.
_FAILURES = """
SELECT i.digest, i.position FROM unnest(%s::uuid[]) AS asked (digest)
CROSS JOIN LATERAL (
    SELECT digest, position FROM ledger.identity WHERE digest = asked.digest OFFSET 0
) AS i
"""

# The keys of runs that are missing or another organization's.
_RUN_KEYS = """
SELECT asked.run_id, asked.organization_id, k.run_id IS NOT NULL, k.organization_id
FROM unnest(%s::text[], %s::text[]) AS asked (run_id, organization_id)
LEFT JOIN LATERAL (
    SELECT run_id, organization_id FROM ledger.run_key WHERE run_id = asked.run_id OFFSET 0
) AS k ON true
WHERE k.organization_id IS DISTINCT FROM asked.organization_id
"""

# The execution records that are missing or different.
_RECORDS = """
SELECT asked.execution_id, asked.line_id, asked.organization_id,
    r.execution_id IS NOT NULL, r.line_id, r.organization_id
FROM unnest(%s::text[], %s::text[], %s::text[]) AS asked (execution_id, line_id, organization_id)
LEFT JOIN LATERAL (
    SELECT execution_id, line_id, organization_id FROM ledger.execution_record
    WHERE execution_id = asked.execution_id OFFSET 0
) AS r ON true
WHERE (r.line_id, r.organization_id) IS DISTINCT FROM (asked.line_id, asked.organization_id)
"""

# The erased runs whose keys are not destroyed, or at another instant.
_ERASED = """
SELECT asked.run_id, asked.at, k.destroyed_at, k.wrapped IS NOT NULL
FROM unnest(%s::text[], %s::timestamptz[]) AS asked (run_id, at)
JOIN ledger.run_key AS k USING (run_id)
WHERE k.destroyed_at IS DISTINCT FROM asked.at OR k.wrapped IS NOT NULL
"""

# A page of identities up to a position: how many there are, and the last one.
_COUNTED = f"""
SELECT count(*) FILTER (WHERE position <= %s), (max(digest::text))::uuid, count(*)
FROM (
    SELECT digest, position FROM ledger.identity WHERE digest > %s ORDER BY digest LIMIT {_PAGE}
) AS page
"""

# A page of identities up to a position, with the events at their positions.
_NAMED = """
SELECT i.digest, i.position, e.originator_id, e.originator_version, e.topic, e.state
FROM (
    SELECT digest, position FROM ledger.identity WHERE digest > %s AND position <= %s
    ORDER BY digest LIMIT 1000
) AS i
LEFT JOIN LATERAL (
    SELECT originator_id, originator_version, topic, state FROM ledger.ledger_events
    WHERE notification_id = i.position OFFSET 0
) AS e ON true
ORDER BY i.digest
"""

# A page of the keys of runs: the last one, and those without a run, destroyed or without a key.
_ODD_RUN_KEYS = f"""
WITH page AS MATERIALIZED (
    SELECT run_id, destroyed_at, wrapped IS NULL AS is_gone FROM ledger.run_key
    WHERE run_id > %s ORDER BY run_id LIMIT {_PAGE}
), counted AS (
    SELECT max(run_id) AS last, count(*) AS number FROM page
)
SELECT c.last, c.number, odd.run_id, odd.destroyed_at, odd.is_gone, odd.has_stream
FROM counted AS c LEFT JOIN (
    SELECT p.*, EXISTS (
        SELECT FROM ledger.ledger_events
        WHERE originator_id = p.run_id AND originator_version = 1
    ) AS has_stream
    FROM page AS p
) AS odd ON NOT odd.has_stream OR odd.destroyed_at IS NOT NULL OR odd.is_gone
"""

# A page of execution records: the last one, and those that their line's first event does not have.
_ODD_RECORDS = f"""
WITH page AS MATERIALIZED (
    SELECT execution_id, line_id FROM ledger.execution_record
    WHERE execution_id > %s ORDER BY execution_id LIMIT {_PAGE}
), counted AS (
    SELECT max(execution_id) AS last, count(*) AS number FROM page
)
SELECT c.last, c.number, odd.execution_id FROM counted AS c LEFT JOIN (
    SELECT p.execution_id FROM page AS p
    WHERE NOT EXISTS (
        SELECT FROM ledger.ledger_events AS e
        WHERE e.originator_id = p.line_id AND e.originator_version = 1
          AND position(convert_to('"' || p.execution_id || '"', 'UTF8') IN e.state) > 0
    )
) AS odd ON true
"""

Pinned = Callable[[], AbstractContextManager[int]]


class PossibleIdentities(Protocol):
    """The identities of failed deliveries. Such an event may have one of several."""

    def note(self, recorded: Recorded) -> bool:
        """Process an event; return True if it is a failed delivery."""

    def possible(self, recorded: Recorded) -> Sequence[bytes]:
        """The digests of an event's possible identities; empty unless it is a failed delivery."""


class WrittenOnce:
    """The comparison of identities, run keys and execution records."""

    def __init__(
        self, connection: Connection, report: Report, deliveries: PossibleIdentities
    ) -> None:
        self._connection, self._report, self._deliveries = connection, report, deliveries
        self._run_keys: dict[str, str | None] = {}
        """The organization of each run that begins in this slice."""
        self._failures: list[Recorded] = []
        self._bad_records: set[str] = set()
        self._found = 0
        """The number of identities that were found."""
        self.rows = 0

    # From the events to the rows.

    def note(self, recorded: Recorded) -> None:
        """Process an event; ``compare`` looks up its rows."""
        body = recorded.body
        if isinstance(body, RunRequested | RunStarted) and body.run_id_origin is not None:
            self._run_keys[recorded.originator_id] = recorded.organization_id
        if self._deliveries.note(recorded):
            self._failures.append(recorded)

    def compare(self, made: DecisionTables) -> None:
        """Look up the rows of the events since the last call, and remove them from the fold."""
        if identities := made.pop_identities():
            self._compare_identities(identities)
        for failure in self._failures:
            self._compare_failure(failure)
        if self._run_keys:
            self._compare_run_keys()
        if made.new_records:
            self._compare_records([made.records[record] for record in made.new_records])
            made.records.clear()
            made.new_records.clear()
        self._failures.clear()
        self._run_keys.clear()

    def _compare_identities(self, identities: Sequence[tuple[bytes, int]]) -> None:
        # Two texts: psycopg takes far longer to make an array of so many values.
        digests = " ".join([digest.hex() for digest, _ in identities])
        positions = " ".join([str(position) for _, position in identities])
        self._found += len(identities)
        for digest, expected, stored in self._all(_IDENTITIES, digests, positions):
            if stored is None:
                self._found -= 1
                self._report(missing(tables.IDENTITY, (digest,)))
            else:
                self._report(differs(tables.IDENTITY, (digest,), "position", stored, expected))

    def _compare_failure(self, failure: Recorded) -> None:
        """Compare the identity of a failed delivery; the event does not contain the round."""
        possible = self._deliveries.possible(failure)
        found = self._all(_FAILURES, [digest.hex() for digest in possible])
        if any(position == failure.position for _, position in found):
            self._found += 1
        else:
            self._report(missing(tables.IDENTITY, (UUID(bytes=possible[-1]),)))

    def _compare_run_keys(self) -> None:
        runs, owners = list(self._run_keys), list(self._run_keys.values())
        for run_id, owner, exists, stored in self._all(_RUN_KEYS, runs, owners):
            if exists:
                self._report(differs(tables.RUN_KEY, (run_id,), "organization_id", stored, owner))
            else:
                self._report(missing(tables.RUN_KEY, (run_id,)))

    def _compare_records(self, records: Sequence[tables.ExecutionRecordRow]) -> None:
        found = self._all(_RECORDS, *map(list, zip(*records, strict=True)))
        for record, line, owner, exists, stored_line, stored_owner in found:
            if not exists:
                self._report(missing(tables.EXECUTION_RECORD, (record,)))
                continue
            self._bad_records.add(record)
            if stored_line != line:
                self._report(
                    differs(tables.EXECUTION_RECORD, (record,), "line_id", stored_line, line)
                )
            if stored_owner != owner:
                column = "organization_id"
                self._report(
                    differs(tables.EXECUTION_RECORD, (record,), column, stored_owner, owner)
                )

    # From the rows to the events.

    def finish(self, erased: Mapping[str, datetime], pinned: Pinned) -> None:
        """Report rows without an event. ``erased`` has all erased runs, also of the last slices."""
        self._finish_identities(pinned)
        self._finish_run_keys(erased, pinned)
        self._finish_records(pinned)

    def _finish_identities(self, pinned: Pinned) -> None:
        with pinned() as position:
            found = self._found
        counted, last, on_page = 0, UUID(int=0), _PAGE
        while on_page == _PAGE:
            with pinned():
                ((number, end, on_page),) = self._all(_COUNTED, position, last)
            counted, last = counted + number, end or last
        self.rows += counted
        if counted != found:
            self._name_identities(position, pinned)

    def _name_identities(self, position: int, pinned: Pinned) -> None:
        """Report each identity that the event at its position does not have."""
        decode, last, is_full = EnvelopeMapper().decode, UUID(int=0), True
        while is_full:
            with pinned():
                page = self._all(_NAMED, last, position)
            is_full = len(page) == 1000
            for digest, at, stream, version, topic, state in page:
                last = digest
                has = False
                # An altered event may fail in any way.
                with suppress(Exception):
                    has = self._has(decode(stream, version, topic, state, at), digest.bytes)
                if not has:
                    self._report(extra(tables.IDENTITY, (digest,)))

    def _has(self, recorded: Recorded, digest: bytes) -> bool:
        if possible := self._deliveries.possible(recorded):
            return digest in possible
        alone = DecisionTables()
        alone.activity = _AnyLine()
        alone.note(recorded)
        return digest in {row.digest for row in alone.pop_identities()}

    def _finish_run_keys(self, erased: Mapping[str, datetime], pinned: Pinned) -> None:
        for page in self._pages(_ODD_RUN_KEYS, pinned):
            for run_id, destroyed_at, is_gone, has_stream in page:
                if not has_stream:
                    self._report(extra(tables.RUN_KEY, (run_id,)))
                elif run_id not in erased:
                    if destroyed_at is not None:
                        at = destroyed_at
                        self._report(differs(tables.RUN_KEY, (run_id,), "destroyed_at", at, None))
                    if is_gone:
                        expected = "that the run was not erased"
                        self._report(differs(tables.RUN_KEY, (run_id,), "wrapped", None, expected))
        runs = list(erased)
        for at in range(0, len(runs), _PAGE):
            some = runs[at : at + _PAGE]
            found = self._all(_ERASED, some, [erased[run] for run in some])
            for run_id, expected, stored, has_key in found:
                if stored != expected:
                    self._report(
                        differs(tables.RUN_KEY, (run_id,), "destroyed_at", stored, expected)
                    )
                if has_key:
                    self._report(differs(tables.RUN_KEY, (run_id,), "wrapped", "a key", None))

    def _finish_records(self, pinned: Pinned) -> None:
        for page in self._pages(_ODD_RECORDS, pinned):
            for (record,) in page:
                # If its line was altered, the record's column was already reported.
                if record not in self._bad_records:
                    self._report(extra(tables.EXECUTION_RECORD, (record,)))

    def _pages(self, statement: str, pinned: Pinned) -> Iterator[list[Sequence[Any]]]:
        last, on_page = "", _PAGE
        while on_page == _PAGE:
            with pinned():
                rows = self._all(statement, last)
            end, on_page = rows[0][:2]
            self.rows += on_page
            last = end or last
            yield [row[2:] for row in rows if row[2] is not None]

    def _all(self, statement: str, *values: Any) -> list[Any]:
        return self._connection.execute(statement.encode(), values, binary=True).fetchall()


class _AnyLine(dict[str, tables.LineActivityRow]):
    """The activity of every line, to fold an event alone."""

    def __missing__(self, line_id: str) -> tables.LineActivityRow:
        return tables.LineActivityRow(line_id, datetime.min.replace(tzinfo=UTC), 0)
