"""The reads and writes of the loop of watches: its mark, changed lines, lines that are due."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg.rows import TupleRow

from ledger.features.watches.kinds.base import Condition, LineNow, OpenRun
from ledger.features.watches.model.alert import Alert
from ledger.features.watches.model.watch import Watch, WatchSettings
from ledger.features.watches.reads.watched import decode_line, line_now
from projections.feed.view import EventView
from projections.lines.view import ExecutionView
from projections.runs.view import RunView
from projections.watches.source.view import SourceView
from projections.watches.view import WatchView, decode_alert, decode_watch

VIEWS = (ExecutionView, RunView, EventView, WatchView, SourceView)
"""The views that a round reads, each at the version of this code."""

_MOST_EVENTS = 10_000
"""The positions whose changes a round reads: the next one goes on."""

MOST_DUE = 1_000
"""The lines of an organization that a round takes because something is due there."""

_FEW = 100
"""With fewer lines than this among the first ``MOST_DUE``, an organization hides no other."""

_PAGE = 20_000
"""The lines that one statement of a scan reads."""

_ALL = 2**63 - 1
"""The record id of a scan that has put all lines: these are to be judged yet."""

# No row while a view is missing, or has another version: its folds do not say what watches need.
_SNAPSHOT = """
SELECT min(position), json_object_agg(name, generation),
       (SELECT position FROM ledger.watch_look WHERE organization_id = '')
FROM ledger.projection JOIN unnest(%(views)s::text[], %(versions)s::int[]) AS v (name, version)
    USING (name, version)
HAVING count(*) = cardinality(%(views)s::text[])
"""

_WATCHES = """
SELECT watch_id, fold, position FROM ledger.watch_g{watch}
WHERE position > %(after)s ORDER BY position
"""

# Lines with events in a part of the log that may begin or end something. A check-in adds to the
# sums of the organizations that watch them. Else it can only move on what is quiet, so it matters
# only where an alert is open.
_CHANGED = """
SELECT e.line_id, e.organization_id FROM ledger.event AS e
WHERE e.position > %(after)s AND e.position <= %(upto)s AND e.line_id IS NOT NULL
  AND e.organization_id = ANY(%(organizations)s)
  AND (e.type NOT IN ('execution.checked_in', 'execution.check_in_voided')
       OR e.organization_id = ANY(%(summing)s)
       OR EXISTS (SELECT FROM ledger.alert AS a
                  WHERE a.line_id = e.line_id AND a.resolved IS NULL))
GROUP BY e.line_id, e.organization_id ORDER BY min(e.position)
"""

_DUE = """
SELECT line_id, organization_id, due_at FROM ledger.watch_due
WHERE due_at <= %(now)s AND organization_id <> ALL(%(passed)s) ORDER BY due_at LIMIT %(limit)s
"""

_LINES_OF_WATCHES = """
SELECT line_id, organization_id, min(due_at) FROM ledger.alert
WHERE watch_id = ANY(%(watches)s) AND resolved IS NULL AND line_id IS NOT NULL
GROUP BY line_id, organization_id
"""

_LINES = "SELECT fold FROM ledger.execution_activity_g{execution} WHERE line_id = ANY(%(lines)s)"

_RUNS = """
SELECT o.line_id, o.run_id, o.external_id, r.status, COALESCE(r.started_at, r.requested_at),
       COALESCE(r.started, r.opened)
FROM ledger.open_run AS o JOIN ledger.run AS r USING (run_id)
WHERE o.line_id = ANY(%(lines)s) AND r.status IN ('pending', 'running')
"""

# A join, since with ANY a plan may compare each unresolved alert with each line.
_ALERTS = """
SELECT a.fold, a.opened FROM unnest(%(lines)s::text[]) AS l (line_id)
JOIN ledger.alert_g{watch} AS a USING (line_id) WHERE a.resolved IS NULL
"""

_UNRESOLVED = """
SELECT watch_id, count(*) FROM ledger.alert
WHERE watch_id = ANY(%(watches)s) AND resolved IS NULL GROUP BY watch_id
"""

# The events by whose positions evidence is named: an EVT id has the year of recording.
_RECORDED = """
SELECT notification_id, recorded_at FROM ledger.ledger_events WHERE notification_id = ANY(%(at)s)
"""

_SCANS = """
SELECT organization_id, position, begun, after_key FROM ledger.watch_look
WHERE organization_id = ANY(%(organizations)s)
"""

# Puts a page of an organization's lines, by record id, for a new revision: each line at the instant
# at which something can be due there at the earliest. So most lines need no check before the time
# of a watch has passed, and a scan costs little more than to write the instants.
_SCAN = """
WITH page AS (
    SELECT l.line_id, l.line_key, l.record_key, r.state, r.stretch_since, r.blocked_since,
           r.due_at AS blocker_due_at, r.health_status
    FROM ledger.execution AS l JOIN ledger.execution_rank AS r USING (line_id)
    WHERE l.organization_id = %(organization)s AND l.record_key > %(after)s
    ORDER BY l.record_key LIMIT %(limit)s
), found AS (
    {parts}
), put AS (
    INSERT INTO ledger.watch_due AS d (line_id, organization_id, due_at)
    SELECT line_id, %(organization)s, min(due_at) FROM found GROUP BY line_id
    ON CONFLICT (line_id) DO UPDATE SET due_at = excluded.due_at WHERE d.due_at > excluded.due_at
)
SELECT max(record_key), count(*) FROM page
"""

_PUT = """
INSERT INTO ledger.watch_due AS d (line_id, organization_id, due_at)
SELECT * FROM unnest(%(line)s::text[], %(organization)s::text[], %(due)s::timestamptz[])
ON CONFLICT (line_id) DO UPDATE SET due_at = excluded.due_at
WHERE d.due_at IS DISTINCT FROM excluded.due_at
"""
# A line that a round did not reach is taken next, unless it is due before.
_PUT_OFF = """
INSERT INTO ledger.watch_due AS d (line_id, organization_id, due_at)
SELECT * FROM unnest(%(line)s::text[], %(organization)s::text[], %(due)s::timestamptz[])
ON CONFLICT (line_id) DO UPDATE SET due_at = excluded.due_at WHERE d.due_at > excluded.due_at
"""
_DROP = "DELETE FROM ledger.watch_due WHERE line_id = ANY(%(line)s)"

# The mark moves on from where the round found it: a leader that was frozen moves it no more.
_MARK = """
UPDATE ledger.watch_look SET position = %(position)s, begun = %(position)s
WHERE organization_id = '' AND position = %(known)s
"""
_FIRST_MARK = """
INSERT INTO ledger.watch_look (organization_id, position, begun, after_key)
VALUES ('', %(position)s, %(position)s, 0) ON CONFLICT DO NOTHING
"""
_LOOKED = """
INSERT INTO ledger.watch_look (organization_id, position, begun, after_key)
VALUES (%(organization)s, %(position)s, %(begun)s, %(after)s)
ON CONFLICT (organization_id) DO UPDATE
SET position = excluded.position, begun = excluded.begun, after_key = excluded.after_key
"""

_BEGIN_ANEW = """
UPDATE ledger.watch_look
SET position = least(position, %(position)s), begun = least(position, %(position)s), after_key = 0
WHERE organization_id = %(organization)s
"""

_REPORTED_WAITING = "SELECT watch_id, waiting FROM ledger.watch_overflow"

_TELL_WAITING = """
WITH told AS (
    SELECT * FROM unnest(%(watch)s::text[], %(organization)s::text[], %(waiting)s::int[])
        AS t (watch_id, organization_id, waiting)
), dropped AS (
    DELETE FROM ledger.watch_overflow WHERE watch_id NOT IN (SELECT watch_id FROM told)
)
INSERT INTO ledger.watch_overflow AS o (watch_id, organization_id, waiting) SELECT * FROM told
ON CONFLICT (watch_id) DO UPDATE SET waiting = excluded.waiting WHERE o.waiting <> excluded.waiting
"""


class RoundSnapshot(NamedTuple):
    """Where a round begins."""

    position: int
    """The position of the views in the round's snapshot."""
    mark: int
    """The position up to which changes were read."""
    is_first: bool
    """True if nothing was ever read: there is no mark yet."""


class LineToCheck(NamedTuple):
    """A line that a round may judge."""

    line_id: str
    organization_id: str
    at: datetime
    """The earliest of an organization comes first."""


class FoundLine(NamedTuple):
    """A line that a round judges."""

    line: LineNow
    alerts: Sequence[tuple[Alert, int]]
    """Its unresolved alerts, each with the position of its opening."""

    @property
    def id(self) -> str:
        return self.line.execution.id


class BackfillScan(msgspec.Struct):
    """A scan of the lines of an organization, for the revisions of its watches."""

    organization_id: str
    position: int = 0
    """The revisions up to this one are scanned."""
    begun: int = 0
    """The current scan is for the revisions up to this one."""
    after_key: int = 0
    """The record id that it has reached."""

    @property
    def is_put(self) -> bool:
        """True if all lines are put, and some of them may not be judged yet."""
        return self.after_key == _ALL


class WatchStore:
    """Reads and writes where the loop stands, on the loop's connection."""

    def __init__(self, connection: psycopg.Connection[TupleRow]) -> None:
        self.connection = connection
        self.generations: dict[str, int] = {}
        """Of each view: folds are columns of the generations' tables alone."""

    def _rows(self, statement: str, **values: Any) -> list[TupleRow]:
        return self.connection.execute(statement.encode(), values).fetchall()

    def snapshot(self) -> RoundSnapshot | None:
        """The state at the begin of a round; None if a view is missing, or is being rebuilt."""
        views = {view.name: view.version for view in VIEWS}
        rows = self._rows(_SNAPSHOT, views=[*views], versions=[*views.values()])
        if not rows:
            return None
        ((position, self.generations, mark),) = rows
        # Without a mark each watch scans all lines, so no earlier change matters.
        return RoundSnapshot(position, position if mark is None else mark, mark is None)

    def watches(self, after: int) -> list[tuple[Watch, int]]:
        """The watches that changed after a position, deleted ones too, each with its position."""
        rows = self._rows(_WATCHES.format(**self.generations), after=after)
        return [(decode_watch(packed), position) for _, packed, position in rows]

    def changed(
        self, at: RoundSnapshot, organizations: Mapping[str, Sequence[Watch]], now: datetime
    ) -> tuple[list[LineToCheck], int]:
        """Changed lines in the order of events, due just before now, and the position reached."""
        upto = min(at.position, at.mark + _MOST_EVENTS)
        if upto <= at.mark or not organizations:
            return [], upto
        summing = [
            name
            for name, some in organizations.items()
            if any(watch.config.condition.about == "sums" for watch in some)
        ]
        values = {"organizations": [*organizations], "summing": summing}
        rows = self._rows(_CHANGED, after=at.mark, upto=upto, **values)
        first = now - timedelta(microseconds=len(rows))
        return [
            LineToCheck(line, organization, first + timedelta(microseconds=number))
            for number, (line, organization) in enumerate(rows)
        ], upto

    def due(self, now: datetime) -> tuple[list[LineToCheck], set[str]]:
        """The due lines, and the organizations with more of them, which must not hide others."""
        found, passed = list[LineToCheck](), set[str]()
        while True:
            values = {"now": now, "limit": MOST_DUE, "passed": [*passed]}
            rows = [LineToCheck(*row) for row in self._rows(_DUE, **values)]
            found += rows
            if len(rows) < MOST_DUE:
                return found, passed
            counts = Counter(row.organization_id for row in rows)
            many = {name for name, number in counts.items() if number >= min(_FEW, MOST_DUE)}
            if not many:
                return found, passed | counts.keys()
            passed |= many

    def lines_of(self, watches: Collection[str]) -> list[LineToCheck]:
        return [LineToCheck(*row) for row in self._rows(_LINES_OF_WATCHES, watches=[*watches])]

    def lines(self, ids: Collection[str], with_runs: bool) -> list[FoundLine]:
        """Lines with their unresolved alerts, and on request with their open runs."""
        rows = self._rows(_LINES.format(**self.generations), lines=[*ids])
        states = [decode_line(packed) for (packed,) in rows]
        runs = dict[str, list[OpenRun]]()
        alerts = dict[str, list[tuple[Alert, int]]]()
        if with_runs and (busy := [f.execution.id for f in states if f.open_runs]):
            for line_id, *run in self._rows(_RUNS, lines=busy):
                runs.setdefault(line_id, []).append(OpenRun(*run))
        for packed, opened in self._rows(_ALERTS.format(**self.generations), lines=[*ids]):
            alert = decode_alert(packed)
            alerts.setdefault(alert.service_line_id or "", []).append((alert, opened))
        return [
            FoundLine(
                line_now(state, runs.get(state.execution.id, ())),
                alerts.get(state.execution.id, ()),
            )
            for state in states
        ]

    def unresolved(self, watches: Collection[str]) -> dict[str, int]:
        return dict(self._rows(_UNRESOLVED, watches=[*watches]))

    def recorded_at(self, positions: Collection[int]) -> dict[int, datetime]:
        return dict(self._rows(_RECORDED, at=[*positions]))

    # Scans of all lines of an organization.

    def begin_anew(self, watch: Watch) -> None:
        """Restart the scan of all lines for a watch."""
        self.connection.execute(
            _BEGIN_ANEW.encode(),
            {"organization": watch.organization_id, "position": watch.revision - 1},
        )

    def scans(self, organizations: Collection[str]) -> dict[str, BackfillScan]:
        """The scans of organizations, also those that have not begun."""
        scans = {name: BackfillScan(name) for name in organizations}
        rows = self._rows(_SCANS, organizations=[*organizations])
        return scans | {row[0]: BackfillScan(*row) for row in rows}

    def go_on(self, scan: BackfillScan, watches: Sequence[Watch], upto: int, now: datetime) -> None:
        """Put a page of lines to be judged by the rounds that follow."""
        if scan.begun <= scan.position:
            scan.begun, scan.after_key = upto, 0
        settings = [w.config for w in watches if scan.position < w.revision <= scan.begun]
        count, last = 0, 0
        statement, values = _scan_statement(settings, now)
        if statement:
            ((last, count),) = self._rows(
                statement,
                organization=scan.organization_id,
                after=scan.after_key,
                limit=_PAGE,
                now=now,
                **values,
            )
        scan.after_key = last if count == _PAGE else _ALL
        self._keep(scan)

    def complete(self, scan: BackfillScan) -> None:
        """Note that all lines which a scan put are judged."""
        scan.position, scan.after_key = scan.begun, 0
        self._keep(scan)

    def _keep(self, scan: BackfillScan) -> None:
        self.connection.execute(
            _LOOKED.encode(),
            {
                "organization": scan.organization_id,
                "position": scan.position,
                "begun": scan.begun,
                "after": scan.after_key,
            },
        )

    # Writing.

    def write(
        self,
        at: RoundSnapshot,
        upto: int,
        due: Iterable[tuple[str, str, datetime | None]],
        put_off: Sequence[LineToCheck],
    ) -> bool:
        """Store the next checks and the mark. Return False if another leader has moved the mark."""
        rows = [*due]
        if not rows and not put_off and upto == at.mark and not at.is_first:
            return True
        put = [row for row in rows if row[2] is not None]
        moves = _FIRST_MARK if at.is_first else _MARK
        with self.connection.transaction():
            moved = self.connection.execute(
                moves.encode(), {"position": upto, "known": at.mark}
            ).rowcount
            if not moved:
                return False
            for statement, some in ((_PUT, put), (_PUT_OFF, put_off)):
                if some:
                    line, organization, instant = (list(each) for each in zip(*some, strict=True))
                    self.connection.execute(
                        statement.encode(),
                        {"line": line, "organization": organization, "due": instant},
                    )
            self.connection.execute(
                _DROP.encode(), {"line": [line for line, _, instant in rows if instant is None]}
            )
        return True

    def waiting(self) -> dict[str, int]:
        """How many alerts of each watch wait for room, as reported last."""
        return dict(self._rows(_REPORTED_WAITING))

    def tell_waiting(self, waiting: Sequence[tuple[str, str, int]]) -> None:
        """Report how many alerts of each watch wait for room: (watch, organization, number)."""
        watch, organization, number = zip(*waiting, strict=True) if waiting else ((), (), ())
        self.connection.execute(
            _TELL_WAITING.encode(),
            {"watch": [*watch], "organization": [*organization], "waiting": [*number]},
        )


def _scan_statement(watches: Sequence[WatchSettings], now: datetime) -> tuple[str, dict[str, Any]]:
    """The statement that goes through the lines for some watches, or none, with its values."""
    kinds = dict[type[Condition], list[tuple[Any, int]]]()
    for settings in watches:
        some = kinds.setdefault(type(settings.condition), [])
        some.append((settings.condition, settings.for_seconds))
    found, values = list[str](), dict[str, Any]()
    for kind, some in kinds.items():
        if kind.about != "source":
            part = kind.earliest.format(least=f"interval '{min(least for _, least in some)} s'")
            found.append(f"SELECT * FROM ({part}) AS t (line_id, due_at)")
            values |= kind.parameters(some, now)
    return _SCAN.format(parts=" UNION ALL ".join(found)) if found else "", values
