"""When the condition of an alert ended, by what was recorded since it began.

The present state does not tell: since the last round a line may have left a state, and come back.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.values import sort_key
from ledger.features.lines.model.execution import Execution
from ledger.features.watches.kinds.base import LineChange, Transition
from ledger.features.watches.loops.sums import under_again
from ledger.features.watches.model.alert import AlertOpened
from ledger.features.watches.model.watch import LineChoice

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


def follow(transitions: Iterable[Transition], keep: timedelta) -> datetime | None:
    """When the alert of an episode is over, after which these transitions came; None: it lasts.

    The watch keeps the alert for so long after the end of the episode. An episode that begins
    before then joins it.
    """
    ended: datetime | None = None
    for each in transitions:
        if each.holds and ended is not None and keep and each.at < ended + keep:
            ended = None
        elif each.holds and ended is not None:
            break
        elif not each.holds and ended is None:
            ended = each.at
    return None if ended is None else ended + keep


class Histories:
    """Reads what was recorded since alerts began, by the views at the round's snapshot."""

    def __init__(self, connection: psycopg.Connection[TupleRow], mapper: EnvelopeMapper) -> None:
        self._connection, self._mapper = connection, mapper

    def end_of(
        self, line: Execution, body: AlertOpened, opened: int, keep: timedelta
    ) -> datetime | None:
        """When the alert is over; None: it lasts. Events after the line's closing do not count."""
        closed = line.spans.get("closed")
        before = _NEVER if closed is None else closed.position
        if body.condition.about == "sums":
            return under_again(self._connection, line.id, body, before)
        values = {
            "line_id": line.id,
            "line_key": sort_key(line.id),
            "subject": body.subject.id,
            "since": body.since,
            "after": int(body.began_by) if body.began_by.isdigit() else opened,
            "before": before,
        }
        found = self._connection.execute(body.condition.recorded.encode(), values).fetchall()
        changes = [self._change(*row) for row in found]
        own = (None, body.subject)
        transitions = body.condition.transitions(changes, body.since)
        return follow((each for each in transitions if each.subject in own), keep)

    def _change(self, opened: int, since: datetime, *more: Any) -> LineChange:
        state, score, *event = more or (None, None)
        recorded = self._mapper.decode(*event) if event else None
        return LineChange(opened, since, state, score, recorded)

    def left_at(self, line_id: str, opened: int, lines: LineChoice) -> datetime | None:
        """When it was recorded that a line left the lines of a watch, after a position."""
        values = {
            "line_key": sort_key(line_id),
            "after": opened,
            "tags": list(lines.project_tag or ()),
        }
        row = self._connection.execute(_LEFT.encode(), values).fetchone()
        return None if row is None else row[0]
