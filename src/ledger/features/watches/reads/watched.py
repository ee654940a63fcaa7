"""The statement that finds the present lines for which a watch's condition may hold.

Whether it holds, and since when, is decided by a line's fold
(``features/watches/model/stretch.py``): the statement only leaves out lines for which it cannot
hold.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import msgspec

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, read_of
from ledger.features.watches.model import watch
from ledger.features.watches.model.stretch import LineNow, OpenRun
from projections.lines.filters import where_line
from projections.lines.line import LineFold

_LINES = """
SELECT p.position, line.record_key, line.fold
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.record_key, l.fold FROM ledger.execution AS l
    WHERE {where} AND {may_hold} ORDER BY l.record_key DESC LIMIT %(limit)s
) AS line ON true
ORDER BY line.record_key DESC
"""

_HAS_RUN = """EXISTS (
    SELECT FROM ledger.run AS r WHERE r.line_key = l.line_key AND r.status IN ({statuses}))"""
_HAS_RANK = """EXISTS (
    SELECT FROM ledger.execution_rank AS r WHERE r.line_id = l.line_id AND {condition})"""

# ``latest`` is the last instant since which a condition may hold that is due now.
_MAY_HOLD: Mapping[type[watch.Condition], str] = {
    watch.InState: "l.state = ANY(%(states)s)",
    watch.BlockerOpen: "l.causes <> '{}'",
    watch.PastDue: "l.causes <> '{}' AND " + _HAS_RANK.format(condition="r.due_at <= %(latest)s"),
    watch.NoActivity: "l.state NOT IN ('closed', 'paused')",
    watch.RunOpen: _HAS_RUN.format(statuses="'pending', 'running'"),
    watch.RunsFailing: _HAS_RUN.format(statuses="'failed'"),
    watch.UsageOver: """(EXISTS (
        SELECT FROM ledger.execution_day AS d WHERE d.line_key = l.line_key AND d.day >= %(first)s)
    OR EXISTS (
        SELECT FROM ledger.run_day AS d WHERE d.line_key = l.line_key AND d.day >= %(first)s))""",
    watch.HealthBelow: _HAS_RANK.format(condition="r.health_status IN ('amber', 'red')"),
}

decode_line = msgspec.msgpack.Decoder(LineFold).decode


def line_now(fold: LineFold, runs: Sequence[OpenRun] = ()) -> LineNow:
    """The line as watches know it, with its open runs where a condition is about these."""
    assert fold.last_activity_at is not None, "a line is active from its activation on"
    return LineNow(fold.execution, fold.last_activity_at, fold.open_runs, runs, fold.failures)


@cache
def watched_read(condition: type[watch.Condition], filters: frozenset[str]) -> Read:
    """(position, record key, fold) rows, newest record id first; a row of nulls if no line is left.

    The filters are those of ``where_line``.
    """
    of_runs = condition in (watch.RunOpen, watch.RunsFailing, watch.UsageOver)
    views = ("execution", "run") if of_runs else ("execution",)
    return read_of(
        _LINES,
        *views,
        planning=Planning.BY_VALUES,
        where=where_line(filters),
        may_hold=_MAY_HOLD[condition],
    )
