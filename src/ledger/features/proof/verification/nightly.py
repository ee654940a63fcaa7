"""The nightly verification: compares stored data with the log without a request.

Each night four parts are compared: the new events with their leaves, a seventh of the older events,
the derived tables, and the definitions of the schema. The loop works for a quarter of the time, in
slices of some milliseconds, so that the service stays as fast as ever. ``ledger.verification``
stores the last finding of each part. So a finished part is not repeated after a restart in the same
night, and the next start makes up for a missed night.

A part with differences is compared again at each start of the service and each night, until it has
none. While a part differs, the service is degraded (contract, Health).
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, time, timedelta
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from ledger.engine.log.nodes import runs_other_version
from ledger.engine.log.vault import Vault
from ledger.engine.views.contract import Projection
from ledger.engine.views.definitions import compare as compare_definitions
from ledger.engine.writer.periodic import LeaderSession, Periodic
from ledger.features.proof.sealing.note import BadNote
from ledger.features.proof.sealing.shelf import Connection
from ledger.features.proof.tables import (
    NAMED,
    NEW,
    OLD,
    SCHEMA,
    TABLES,
    Difference,
    Finding,
    Progress,
    Report,
    as_named,
    findings,
    keep,
)
from ledger.features.proof.verification.check import Scope, check
from ledger.features.proof.verification.derived import Compared

_EVERY_SECONDS = 30.0
"""The interval of checks of the clock."""

_REST = 3.0
"""The rest after a slice, as a multiple of the time that the slice took."""

_TOGETHER = 16
"""Adjacent tiles that belong to the same seventh: 4,096 events, which are read in order."""

# A ledger that was never verified waits for its first night.
_SINCE = "SELECT applied_at FROM ledger.migration WHERE name = '0001_ledger.sql'"

_TILE = """
SELECT coalesce(max(number), 0) FROM ledger.tile WHERE level = 0 AND first_position <= %s
"""

_logger = logging.getLogger(__name__)


Compare = Callable[[str, Report, Progress, Callable[[], None]], Compared]
"""The comparison of the derived tables (``derived.py``)."""


class Nightly(NamedTuple):
    """When the nightly verification begins."""

    at: time | None
    """The time of day in UTC; None for never."""


class _Stopping(Exception):
    """The service stops: the next start repeats the present part."""


def parts_of(night: datetime) -> frozenset[str]:
    return frozenset((NEW, OLD[night.toordinal() % len(OLD)], TABLES, SCHEMA))


def next_night(part: str, at: time, now: datetime) -> datetime | None:
    """When a part is compared next; None if never."""
    today = datetime.combine(now.date(), at, now.tzinfo)
    nights = (today + timedelta(days=days) for days in range(len(OLD) + 1))
    return next((night for night in nights if night > now and part in parts_of(night)), None)


class NightlyVerification(Periodic):
    """Compares the parts that are due; ``run_once`` returns how many."""

    def __init__(
        self,
        session: LeaderSession,
        vault: Vault,
        folder: Path,
        at: time | None,
        clock: Callable[[], datetime],
        compare: Compare,
        views: Sequence[Projection],
    ) -> None:
        """``at`` is the time of day in UTC; None for never. ``folder`` has the last checkpoint."""
        super().__init__(session, "verification", _EVERY_SECONDS)
        self._conninfo = session.conninfo
        self._vault, self._folder, self._at, self._clock = vault, folder, at, clock
        self._compare_tables, self._views = compare, views
        self._is_first = True
        """True in the first round since the start."""
        self._began = 0.0

    def work(self, connection: Connection) -> tuple[int, bool]:
        if self._at is None:
            return 0, False
        stored = findings(connection)
        due = self._due(connection, self._at, stored)
        for number, part in enumerate(due):
            try:
                finding = self._compare(connection, part, stored.get(part))
            except _Stopping:
                return number, False
            keep(connection, finding)
            if finding.differences:
                _logger.error(
                    "stored data differ from the log, %d times (%s): ledger verify names them",
                    finding.differences,
                    part,
                )
        self._is_first = False
        return len(due), False

    def _due(self, connection: Connection, at: time, stored: dict[str, Finding]) -> list[str]:
        """The parts that were not compared since the last time of day ``at``."""
        now = self._clock()
        parts = [NEW, *OLD, TABLES]
        # In a rolling upgrade the newer node may have changed the schema already.
        if not runs_other_version(connection):
            parts.append(SCHEMA)
        night = datetime.combine(now.date(), at, now.tzinfo)
        if night > now:
            night -= timedelta(days=1)
        ((since,),) = connection.execute(_SINCE)
        tonight = parts_of(night)
        due = []
        for part in parts:
            found = stored.get(part)
            differs = found is not None and found.differences > 0
            is_old = night > since if found is None else night > found.started_at
            if (is_old and (part in tonight or differs)) or (self._is_first and differs):
                due.append(part)
        return due

    def _compare(self, connection: Connection, part: str, before: Finding | None) -> Finding:
        started_at, self._began = self._clock(), monotonic()
        found = _Found()
        if part == TABLES:
            tables = self._compare_tables(self._conninfo, found.add, lambda *_: None, self._breathe)
            covered = (min(tables.position, 1), tables.position, tables.rows)
        elif part == SCHEMA:
            schema = compare_definitions(connection, self._views)
            for each in schema.differing:
                found.add(Difference.of_object(each))
            covered = (0, 0, schema.objects)
        else:
            covered = self._compare_log(connection, part, before, found)
        return Finding(
            part, started_at, self._clock(), *covered, found.number, as_named(found.first)
        )

    def _compare_log(
        self, connection: Connection, part: str, before: Finding | None, found: "_Found"
    ) -> tuple[int, int, int]:
        """Compare sealed events; return the first and last position, and the number of events."""
        scope, since = _scope_of(part), 0
        if part == NEW:
            # New events that differ stay new until they do not differ any more.
            if before is not None:
                since = before.first if before.differences else before.last
            ((tile,),) = connection.execute(_TILE, (since,))
            scope = Scope(lambda number: number >= tile, True)
        try:
            checked = check(
                self._conninfo,
                self._folder,
                found.add,
                lambda *_: None,
                scope,
                self._breathe,
                vault=self._vault,
            )
        except BadNote as error:
            says = f"its column vkey: {error}"
            found.add(Difference("signer", "is_only=true", "vkey", says))
            return since, since, 0
        return checked.first, checked.last or since, checked.events

    def _breathe(self) -> None:
        """Rest after a slice. Raises ``_Stopping`` if the service stops meanwhile.

        Raises psycopg.OperationalError if another process leads now.
        """
        if self._stopping.wait(_REST * (monotonic() - self._began)):
            raise _Stopping
        self.session.assert_leads()
        self._began = monotonic()


def _scope_of(part: str) -> Scope:
    """The tiles of leaves that belong to a seventh; the assignment never changes."""
    share = OLD.index(part) if part in OLD else 0
    return Scope(lambda number: number // _TOGETHER % len(OLD) == share, False)


class _Found:
    """The first differences of a part, and the number of all."""

    def __init__(self) -> None:
        self.first: list[Difference] = []
        self.number = 0

    def add(self, difference: Difference) -> None:
        self.number += 1
        if self.number <= NAMED:
            self.first.append(difference)
