"""When the condition of an alert ended, by what was recorded since it began.

The present state does not tell: since the last round a line may have left a state, and come back.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.values import sort_key
from ledger.features.lines.model import execution_events as lines
from ledger.features.lines.model import health
from ledger.features.lines.model.execution import Execution
from ledger.features.watches.loops.sums import under_again
from ledger.features.watches.model import watch
from ledger.features.watches.model.alert import AlertOpened

# The changes of a line after a position, each with its event.
_CHANGES = """
SELECT i.since, i.state, i.health_score, e.originator_id, e.originator_version, e.topic, e.state,
       i.opened
FROM ledger.execution_interval AS i
JOIN ledger.ledger_events AS e ON e.notification_id = i.opened
WHERE i.line_key = %(line_key)s AND i.opened > %(after)s ORDER BY i.opened
"""

# The ends of a line's runs between two positions.
_RUN_ENDS = """
SELECT s.originator_id, s.originator_version, s.topic, s.state, s.notification_id
FROM ledger.event AS e JOIN ledger.ledger_events AS s ON s.notification_id = e.position
WHERE e.line_id = %(line_id)s AND hashtextextended(e.line_id, 0) = hashtextextended(%(line_id)s, 0)
  AND e.position > %(after)s AND e.position < %(before)s
  AND e.type IN ('run.completed', 'run.failed')
ORDER BY e.position
"""

# When a run was pending no more, if its request began the stretch, or was no longer running.
_RUN = """
SELECT CASE WHEN started <> %(began)s THEN started_at END, stopped_at, ended_at
FROM ledger.run WHERE run_id = %(run_id)s
"""

# When the first event between two positions was recorded that moved a line's last activity, opened
# a run, paused the line or changed it otherwise. Going idle and waking up are no such changes.
_MOVED = """
SELECT recorded_at FROM ledger.ledger_events WHERE notification_id = least(
    (SELECT min(position) FROM ledger.execution_step
     WHERE line_key = %(line_key)s AND position > %(after)s AND position < %(before)s
       AND (last_activity_at > %(since)s OR open_runs > 0)),
    (SELECT min(i.opened) FROM ledger.execution_interval AS i
     JOIN ledger.ledger_events AS e ON e.notification_id = i.opened
     WHERE i.line_key = %(line_key)s AND i.opened > %(after)s AND i.opened < %(before)s
       AND (i.since > %(since)s AND i.state <> 'idle' OR i.state = 'paused')
       AND e.topic NOT LIKE 'execution.active/%%'))
"""

# When the first change was recorded by which a line had none of some projects.
_LEFT = """
SELECT e.recorded_at FROM ledger.execution_interval AS i
JOIN ledger.ledger_events AS e ON e.notification_id = i.opened
WHERE i.line_key = %(line_key)s AND i.opened > %(after)s
  AND NOT i.project_tags && %(tags)s::text[]
ORDER BY i.opened LIMIT 1
"""


_NEVER = 2**63 - 1
"""A position after all others."""


class Flip(NamedTuple):
    """From here on the condition holds, or no longer does."""

    at: datetime
    holds: bool


def follow(flips: Iterable[Flip], keep: timedelta) -> datetime | None:
    """When the alert of a stretch is over, after which these flips came; None: it lasts.

    The watch keeps the alert for so long after the end of the stretch. A stretch that begins
    before then joins it.
    """
    ended: datetime | None = None
    for flip in flips:
        if flip.holds and ended is not None and keep and flip.at < ended + keep:
            ended = None
        elif flip.holds and ended is not None:
            break
        elif not flip.holds and ended is None:
            ended = flip.at
    return None if ended is None else ended + keep


class Histories:
    """Reads what was recorded since alerts began, by the views at the round's snapshot."""

    def __init__(self, connection: psycopg.Connection[TupleRow], mapper: EnvelopeMapper) -> None:
        self._connection, self._mapper = connection, mapper

    def end_of(
        self, line: Execution, body: AlertOpened, opened: int, keep: timedelta
    ) -> datetime | None:
        """When an alert that was opened at a position is over, with ``keep``; None: it lasts.

        Events that were recorded after a line's closing do not count.
        """
        line_id, closed = line.id, line.stretches.get("closed")
        before = _NEVER if closed is None else closed.position
        after = int(body.began_by) if body.began_by.isdigit() else opened
        match body.condition:
            case watch.NoActivity():
                return follow(self._moved(line_id, body.since, opened, before), keep)
            case watch.RunOpen():
                return follow(self._run(body.subject.id, after), keep)
            case watch.RunsFailing(count):
                return follow(self._failing(line_id, after, before, count), keep)
            case watch.InState(states):
                return follow(_of_states(self._changes(line_id, after), states), keep)
            case watch.HealthBelow(status):
                return follow(_of_health(self._changes(line_id, after), status, body.since), keep)
            case watch.UsageOver():
                return under_again(self._connection, line_id, body, before)
            case watch.SourceSilent():
                return None  # of no line: ``sources.py``
            case watch.BlockerOpen() | watch.PastDue() as condition:
                causes = condition.causes if isinstance(condition, watch.BlockerOpen) else None
                changes = self._changes(line_id, after)
                return follow(_of_blocker(changes, body.subject.id, causes), keep)

    def left_at(self, line_id: str, opened: int, lines: watch.LineChoice) -> datetime | None:
        """When it was recorded that a line left the lines of a watch, after a position."""
        values = {
            "line_key": sort_key(line_id),
            "after": opened,
            "tags": list(lines.project_tag or ()),
        }
        rows = self._rows(_LEFT, **values)
        return rows[0][0] if rows else None

    def _rows(self, statement: str, **values: Any) -> list[TupleRow]:
        return self._connection.execute(statement.encode(), values).fetchall()

    def _changes(self, line_id: str, after: int) -> list[tuple[Any, ...]]:
        """(since, state, health score, event) of each change of a line after a position."""
        rows = self._rows(_CHANGES, line_key=sort_key(line_id), after=after)
        return [(*row[:3], self._mapper.decode(*row[3:])) for row in rows]

    def _moved(self, line_id: str, since: datetime, after: int, before: int) -> Iterator[Flip]:
        bounds = {"after": after, "before": before, "since": since}
        for (at,) in self._rows(_MOVED, line_key=sort_key(line_id), **bounds):
            yield Flip(at, False)

    def _run(self, run_id: str, began: int) -> Iterator[Flip]:
        for at in self._rows(_RUN, run_id=run_id, began=began):
            yield from (Flip(each, False) for each in at if each is not None)

    def _failing(self, line_id: str, after: int, before: int, count: int) -> Iterator[Flip]:
        failures = count
        for row in self._rows(_RUN_ENDS, line_id=line_id, after=after, before=before):
            event = self._mapper.decode(*row)
            if event.body.TOPIC.startswith("run.completed"):
                if failures >= count:
                    yield Flip(event.occurred_at, False)
                failures = 0
            elif not getattr(event.body, "late", False):
                failures += 1
                if failures == count:
                    yield Flip(event.occurred_at, True)


def _of_states(changes: Sequence[tuple[Any, ...]], states: Sequence[str]) -> Iterator[Flip]:
    holds = True
    for index, (since, state, _, _) in enumerate(changes):
        lasts = index + 1 == len(changes) or changes[index + 1][0] > since
        if (state in states) != holds and lasts:
            holds = not holds
            yield Flip(since, holds)


def _of_health(
    changes: Sequence[tuple[Any, ...]], status: health.HealthLevel, since: datetime
) -> Iterator[Flip]:
    holds, at = True, since
    for _, _, score, event in changes:
        if health.is_below(score, status) != holds:
            holds, at = not holds, max(at, event.occurred_at)
            yield Flip(at, holds)


def _of_blocker(
    changes: Sequence[tuple[Any, ...]], blocker_id: str, causes: Collection[str] | None
) -> Iterator[Flip]:
    for since, _, _, event in changes:
        match event.body:
            case lines.Closed():
                yield Flip(since, False)
            case lines.Unblocked(blocker_id=about) if about == blocker_id:
                yield Flip(since, False)
            case lines.Blocked(blocker_id=about, cause=cause) if about == blocker_id:
                yield Flip(since, causes is None or cause in causes)
