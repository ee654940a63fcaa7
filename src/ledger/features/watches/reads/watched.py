"""The statements of a preview: the lines for which a condition may hold, and their past.

The statements only leave out lines for which the condition cannot hold. A line's fold, or its
changes, decide if it holds, and since when.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.question import Answer
from ledger.engine.views.statements import Read, read_of
from ledger.features.watches.kinds.base import Condition, LineNow, OpenRun
from projections.lines.filters import where_line
from projections.lines.line import LineFold

_LINES = """
SELECT p.position, line.record_key, line.fold
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.record_key, (
        SELECT c.fold FROM ledger.execution_activity AS c WHERE c.line_id = l.line_id) AS fold
    FROM ledger.execution AS l
    WHERE {where} AND {may_hold} ORDER BY l.record_key DESC LIMIT %(limit)s
) AS line ON true
ORDER BY line.record_key DESC
"""

# The changes of a page of lines from the last one by ``from`` before which nothing held. A line
# without any has one row, of nulls. Blockers come with the events that open and clear them.
_CHANGES = """
WITH found AS MATERIALIZED (
    SELECT p.position AS reached, l.record_key, l.line_id, l.name, i.opened, i.since, i.state
    FROM ({position}) AS p
    LEFT JOIN LATERAL (
        SELECT l.record_key, l.line_id, l.line_key,
               ('{{' || l.head || '}}')::json ->> 'name' AS name
        FROM ledger.execution AS l
        WHERE {where} ORDER BY l.record_key DESC LIMIT %(limit)s
    ) AS l ON true
    LEFT JOIN LATERAL (
        SELECT i.opened, i.since, i.state FROM ledger.execution_interval AS i
        WHERE i.line_key = l.line_key AND i.opened <= p.position AND i.since < %(to)s AND {counts}
          AND i.opened >= COALESCE((
              SELECT b.opened FROM ledger.execution_interval AS b
              WHERE b.line_key = l.line_key AND b.opened <= p.position AND b.since <= %(from)s
                AND {is_over}
              ORDER BY b.opened DESC LIMIT 1), 0)
    ) AS i ON true
)
SELECT found.*, s.stream, s.version, s.topic, s.state
FROM found
LEFT JOIN ledger.stored_events(ARRAY(SELECT opened FROM found WHERE {is_told})) AS s
    ON s.position = found.opened
ORDER BY found.record_key DESC, found.opened
"""

Ask = Callable[[Read, Mapping[str, Any]], Awaitable[Answer]]

decode_line = msgspec.msgpack.Decoder(LineFold).decode


def line_now(state: LineFold, runs: Sequence[OpenRun] = ()) -> LineNow:
    """The line as watches know it, with its open runs where a condition is about these."""
    assert state.last_activity_at is not None, "a line is active from its activation on"
    return LineNow(state.execution, state.last_activity_at, state.open_runs, runs, state.failures)


@cache
def watched_read(kind: type[Condition], filters: frozenset[str]) -> Read:
    """(position, record key, fold) rows, newest first; a row of nulls if no line is left."""
    views = ("execution",) if kind.about == "line" else ("execution", "run")
    return read_of(
        _LINES,
        *views,
        planning=Planning.BY_VALUES,
        where=where_line(filters),
        may_hold=kind.may_hold,
    )


@cache
def past_read(kind: type[Condition], filters: frozenset[str]) -> Read:
    """(position, record key, line, its name, position of a change, its time, state, event) rows.

    Times are effective times as known now: a late fact counts when it happened.
    """
    assert kind.past is not None, "the kind has a past"
    return read_of(
        _CHANGES,
        "execution",
        planning=Planning.LONG,
        where=where_line(filters),
        **kind.past._asdict(),
    )
