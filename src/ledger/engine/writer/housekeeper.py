"""The housekeeper: records counts of refusals, and drops expired rows outside the log."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.values.errors import NotFound
from ledger.engine.values.principal import HOUSEKEEPER
from ledger.engine.values.refusals import STREAM_PREFIX, Refusals, RefusalsOmitted, stream_of
from ledger.engine.writer.command import SubjectCommand
from ledger.engine.writer.group import RETENTION, Group
from ledger.engine.writer.periodic import LeaderSession, Periodic, assert_decided
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer

_EVERY_SECONDS = 15.0

_TELL_AFTER = timedelta(minutes=1)
"""How long refusals are counted before an event records the count: so a flood of refusals costs one
event a minute for each credential."""

_CREDENTIALS = 500
_OUTCOMES = 5000
"""Rows of each kind in one round, so that no statement takes long."""

# The credentials whose counts have waited long enough to become events.
_DUE_OMITTED = "SELECT credential FROM ledger.refusals_omitted WHERE since <= %s LIMIT %s"

# Delete outcomes older than their 24 hours. An append may be replacing such a row right now. Then
# this DELETE waits for its commit and evaluates the outer condition again, on the new row (READ
# COMMITTED); the new row is young and stays.
DROP_EXPIRED = """
DELETE FROM ledger.idempotency WHERE recorded_at <= %(until)s AND (credential, path, key) IN (
    SELECT credential, path, key FROM ledger.idempotency
    WHERE recorded_at <= %(until)s ORDER BY recorded_at LIMIT %(limit)s)
"""


class TellOmitted(SubjectCommand):
    """Record how many refusals of a credential were only counted."""

    def __init__(self, credential: str) -> None:
        super().__init__(stream_of(credential), HOUSEKEEPER)
        self._credential = credential

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound if nothing was counted, or if another process was faster."""
        found = group.memory.find(self.subject_id)
        omitted = group.append.pop_omitted(self._credential)
        if not isinstance(found, Refusals) or omitted is None:
            raise NotFound("No refusals were omitted.")
        body = RefusalsOmitted(count=omitted.count, since=omitted.since)
        tenant = (omitted.organization_id, omitted.workspace_id, None)
        recorded = group.record(found, body, group.now, self, tenant=tenant)
        return Receipt(
            found.id.removeprefix(STREAM_PREFIX), (recorded.event_id,), recorded.position
        )


class Round(NamedTuple):
    """A round of the housekeeper."""

    connection: psycopg.Connection[TupleRow]
    now: datetime

    def drop(self, statement: str, limit: int, **values: Any) -> tuple[int, bool]:
        """Drop at most ``limit`` rows; return how many, and True if there may be more."""
        values |= {"limit": limit}
        dropped = self.connection.execute(statement.encode(), values).rowcount
        return dropped, dropped == limit


Chore = Callable[[Round], tuple[int, bool]]
"""A feature's part of each round: returns how many rows it dropped, and True if there are more."""


class Housekeeper(Periodic):
    """Records how many refusals were only counted, drops expired outcomes, and does ``chores``.

    ``run_once`` returns the number of counts recorded and of rows dropped.
    """

    def __init__(
        self,
        session: LeaderSession,
        writer: Writer,
        clock: Callable[[], datetime],
        chores: Iterable[Chore],
    ) -> None:
        super().__init__(session, "housekeeper", _EVERY_SECONDS)
        self._writer, self._clock = writer, clock
        self._chores = (_drop_outcomes, *chores)

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        now = self._clock()
        due = connection.execute(_DUE_OMITTED, (now - _TELL_AFTER, _CREDENTIALS)).fetchall()
        assert_decided(self._writer.submit([TellOmitted(row[0]) for row in due]).result())
        done = [(len(due), len(due) == _CREDENTIALS)]
        done += [chore(Round(connection, now)) for chore in self._chores]
        return sum(number for number, _ in done), any(has_more for _, has_more in done)


def _drop_outcomes(round: Round) -> tuple[int, bool]:
    return round.drop(DROP_EXPIRED, _OUTCOMES, until=round.now - RETENTION)
