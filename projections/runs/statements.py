"""The statements that read runs, present and past (contract, Reading).

A line's runs are read together with the line: ``execution`` tells whether the credential sees the
line, and its execution model. A run has a row for each of its events with payloads. An export reads
all pages at the position of its first page, so that it shows one state of the runs.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.filters import WORKSPACE, Filter, conditions
from ledger.engine.values.values import RUN_STATUSES
from ledger.engine.views.statements import Read, position_of_page, read_of, where, where_tenant
from projections.runs.shown import RunColumns


def _changed_by_start(name: str, at_first: str) -> tuple[str, str]:
    """A column now and at a position: ``at_first`` until the start, then ``name``."""
    return f"r.{name}", f"CASE WHEN r.started <= p.position THEN r.{name} ELSE r.{at_first} END"


def used_then(name: str) -> str:
    """A column of an ended run's usage, before the corrections after the position."""
    return f"""CASE WHEN r.corrected > p.position THEN (
        SELECT f.{name} FROM ledger.run_former_usage AS f
        WHERE f.run_id = r.run_id AND f.position > p.position
        ORDER BY f.position LIMIT 1) ELSE r.{name} END"""


def _used(name: str) -> tuple[str, str]:
    """A column of a run's usage: now, and at the position."""
    has_ended = "COALESCE(r.ended, r.stopped) <= p.position"
    return f"r.{name}", f"CASE WHEN {has_ended} THEN {used_then(name)} END"


# Columns of ``RunColumns`` as they are now, and as they were at the position, without later events.
_FIXED = ("run_id", "requested_at", "organization_id", "workspace_id", "line_key", "erased_at")
_VALUES: Mapping[str, tuple[str, str]] = {
    **{name: (f"r.{name}", f"r.{name}") for name in _FIXED},
    "status": (
        "r.status",
        """CASE WHEN r.ended <= p.position THEN r.status
        WHEN r.stopped <= p.position THEN CASE WHEN r.expired THEN 'failed' ELSE 'cancelled' END
        WHEN r.started <= p.position THEN 'running' ELSE 'pending' END""",
    ),
    "trigger_type": _changed_by_start("trigger_type", "requested_type"),
    "triggered_by": _changed_by_start("triggered_by", "requested_by"),
    "started_at": ("r.started_at", "CASE WHEN r.started <= p.position THEN r.started_at END"),
    "completed_at": (
        "COALESCE(r.ended_at, r.stopped_at)",
        """CASE WHEN r.ended <= p.position THEN r.ended_at
        WHEN r.stopped <= p.position THEN r.stopped_at END""",
    ),
    "duration_ms": (
        "CASE WHEN r.ended IS NULL THEN r.stopped_ms ELSE r.ended_ms END",
        """CASE WHEN r.ended <= p.position THEN r.ended_ms
        WHEN r.stopped <= p.position THEN r.stopped_ms END""",
    ),
    **{name: _used(name) for name in ("tokens_used", "token_usage", "usage_corrected_at")},
    "external_id": ("r.external_id", "CASE WHEN r.named <= p.position THEN r.external_id END"),
    "attempt": ("r.attempt", "CASE WHEN r.named <= p.position THEN r.attempt ELSE 1 END"),
    "retry_key": ("r.retry_key", "CASE WHEN r.named <= p.position THEN r.retry_key END"),
    "parent_key": (
        "r.parent_key",
        """CASE WHEN r.parent_given > p.position THEN NULL
        WHEN r.started <= p.position THEN r.parent_key ELSE r.requested_parent END""",
    ),
    "lease_seconds": _changed_by_start("lease_seconds", "requested_lease"),
}
_NOW, _THEN = ({name: pair[i] for name, pair in _VALUES.items()} for i in (0, 1))

_REPLACED_FAILURE = (
    "CASE WHEN r.expired AND r.ended IS NOT NULL THEN r.stopped END",
    "CASE WHEN r.expired AND r.ended <= p.position THEN r.stopped END",
)
"""The position of a failure by the lease that a late ending has replaced: its error is no longer
shown. Now, and at the position."""

_NAMED = "r.external_id = ANY(%(external_id)s) AND r.external_id IS NOT NULL"
_HAS_PARENT = "r.parent_key = ANY(%(parents)s) AND r.parent_key IS NOT NULL"
_HAD_PARENT = f"""({_HAS_PARENT} OR r.requested_parent = ANY(%(parents)s)
        AND r.requested_parent <> r.parent_key) AND {_THEN["parent_key"]} = ANY(%(parents)s)"""

OF_LINE = (
    Filter("status", "Status", RUN_STATUSES, then=f"{_THEN['status']} = ANY(%(status)s)"),
    Filter("triggered_by", "Triggered by", "words",
           then=f"{_THEN['triggered_by']} = ANY(%(triggered_by)s)", about="Actor ids."),
)  # fmt: skip
OF_LINES = (
    WORKSPACE,
    Filter("service_line_id", "Line", "words", "r.line_key = ANY(%(lines)s)", parameter="lines"),
)
BY_NAME = (
    Filter("external_id", "External ID", "words", _NAMED, f"{_NAMED} AND r.named <= p.position",
           "Names at the runs' sources."),
    Filter("parent_run_id", "Child of run", "words", _HAS_PARENT, _HAD_PARENT,
           parameter="parents"),
)  # fmt: skip
"""The filters of a line's runs; the others, by line and by name, are for all runs."""

_CONDITIONS = tuple(
    {
        **conditions((*OF_LINE, *OF_LINES, *BY_NAME), "r", values is _THEN),
        "not_completed": f"{values['status']} <> 'completed'",
        "from": "r.requested_at >= %(from)s",
        "to": "r.requested_at < %(to)s",
        "after": "(r.requested_at, r.run_key) < (%(after_at)s, %(after)s)",
    }
    for values in (_NOW, _THEN)
)


def _columns(values: Mapping[str, str], replaced: str) -> str:
    names = (name for name in RunColumns._fields if name != "wrapped")
    columns = ", ".join(f"{values[name]} AS {name}" for name in names)
    return f"r.run_key, {columns}, {replaced} AS taken_back FROM ledger.run AS r"


# The columns of a run's row now, and at the position; with the table.
_COLUMNS = (_columns(_NOW, _REPLACED_FAILURE[0]), _columns(_THEN, _REPLACED_FAILURE[1]))


# A run's key, and its payloads. Reads of the past show an erasure too, even before the view has
# caught up with it, because the key is already destroyed. OFFSET 0 keeps this a look-up by key.
_CONTENT = """
LEFT JOIN LATERAL (
    SELECT c.wrapped, c.destroyed_at, c.position, {columns} FROM ledger.run_content AS c
    WHERE c.run_id = page.run_id OFFSET 0
) AS content ON true
"""

_FIELDS = ("input", "output", "error")
_WHOLE = "c.input, c.output, c.error"
# A list with errors alone reads no inputs and outputs, since each may be as large as a fact.
_ERRORS = "NULL::bytea AS input, NULL::bytea AS output, c.error"

_OF_CONTENT: Mapping[str, str] = {
    "erased_at": "COALESCE(page.erased_at, content.destroyed_at)",
    "wrapped": "content.wrapped",
}
_PAYLOAD = """CASE WHEN page.erased_at IS NULL
    AND content.position IS DISTINCT FROM page.taken_back {until} THEN content.{name} END"""
_OF_NO_CONTENT: Mapping[str, str] = dict.fromkeys(("wrapped", *_FIELDS), "NULL::bytea")

# A page of a line's runs, with the line's model: null if the credential does not see the line.
_RUNS = """
SELECT p.position, line.execution_model, {shown}
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, l.line_key, l.execution_model FROM ledger.execution AS l
    WHERE l.line_id = %(line_id)s AND {line_where}
) AS line ON true
LEFT JOIN LATERAL ({runs}) AS page ON true
{content}
ORDER BY page.requested_at DESC, page.run_key DESC{by_event}
"""
_OF_LINE = """
SELECT {columns}
WHERE r.line_key = line.line_key AND {where}
ORDER BY r.requested_at DESC, r.run_key DESC LIMIT %(limit)s
"""

# A run, or a page of runs, without a line.
_ANYWHERE = """
SELECT p.position, {shown}
FROM ({position}) AS p
LEFT JOIN LATERAL ({runs}) AS page ON true
{content}
ORDER BY page.requested_at DESC, page.run_key DESC{by_event}
"""
_OF_ID = "SELECT {columns} WHERE r.run_id = %(run_id)s AND {where}"
_OF_ALL = """
SELECT {columns} WHERE {where}
ORDER BY r.requested_at DESC, r.run_key DESC LIMIT %(limit)s
"""

_IN_ORDER = frozenset(("organization", "from", "to", "after"))

# Runs known at the instant have a ``requested_at`` of at most 5 minutes after it, since a fact's
# time may be at most 5 minutes in the future.
_REQUESTED_BY_THEN = "r.requested_at <= %(as_of)s + interval '5 minutes'"


# The pending and running runs of lines, each with the begin of its status.
_OPEN = """
SELECT p.position, r.line_key, r.run_id, r.external_id, r.status, r.since, r.begun
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT r.line_key, r.run_id, r.external_id, r.status,
           COALESCE(r.started_at, r.requested_at) AS since, COALESCE(r.started, r.opened) AS begun
    FROM ledger.run AS r
    WHERE r.line_key = ANY(%(lines)s::bigint[]) AND r.status IN ('pending', 'running')
) AS r ON true
"""

OPEN_RUNS = read_of(_OPEN, "run", planning=Planning.BY_VALUES)
"""(position, line key, run, external id, status, instant, position) rows of ``lines``."""

Shows = Literal["all", "errors", "none"]


@cache
def runs_read(
    tenant: frozenset[str], filters: frozenset[str], past: bool = False, shows: Shows = "all"
) -> Read:
    """(position, model or null, run columns or nulls) rows.

    The run columns are those of ``RunColumns``, then input, output and error of an event. A run has
    a row for each of its events with payloads, in order, and at least one.
    """
    of_line, of_runs = where_tenant(tenant, "l"), where(filters, _CONDITIONS[past])
    if past:
        of_line += " AND l.activated <= p.position"
        of_runs += f" AND r.opened <= p.position AND {_REQUESTED_BY_THEN}"
    return read_of(
        _RUNS,
        "execution",
        "run",
        past=past,
        is_pure=True,
        line_where=of_line,
        runs=_OF_LINE.format(columns=_COLUMNS[past], where=of_runs),
        **_content(past, shows),
    )


@cache
def run_read(tenant: frozenset[str], past: bool = False) -> Read:
    """(position, run columns or nulls) rows, with the run columns of ``runs_read``."""
    own = where_tenant(tenant, "r")
    condition = f"{own} AND r.opened <= p.position" if past else own
    return read_of(
        _ANYWHERE,
        "run",
        past=past,
        is_pure=True,
        runs=_OF_ID.format(columns=_COLUMNS[past], where=condition),
        **_content(past),
    )


@cache
def all_runs_read(
    tenant: frozenset[str], filters: frozenset[str], past: bool = False, shows: Shows = "all"
) -> Read:
    """(position, run columns or nulls) rows of all lines, like those of ``runs_read``."""
    always = ["r.opened <= p.position", _REQUESTED_BY_THEN] if past else []
    # By the values if several indexes may serve.
    planning = Planning.SHORT if filters | tenant <= _IN_ORDER else Planning.BY_VALUES
    parts = _all_runs(tenant, filters, past, shows, *always)
    is_cached = shows != "none"
    return read_of(_ANYWHERE, "run", past=past, planning=planning, is_pure=is_cached, **parts)


@cache
def later_runs_read(tenant: frozenset[str], filters: frozenset[str]) -> Read:
    """The rows of ``all_runs_read``, without payloads, at the position ``end``."""
    parts = _all_runs(tenant, filters, True, "none", "r.opened <= p.position")
    return read_of(
        _ANYWHERE, "run", planning=Planning.SCAN, position=position_of_page("run"), **parts
    )


def _all_runs(
    tenant: frozenset[str], filters: frozenset[str], past: bool, shows: Shows, *always: str
) -> Mapping[str, Any]:
    found = where(filters, _CONDITIONS[past], where_tenant(tenant, "r"), *always)
    return {"runs": _OF_ALL.format(columns=_COLUMNS[past], where=found), **_content(past, shows)}


def _content(past: bool, shows: Shows = "all") -> Mapping[str, Any]:
    if shows == "none":
        return {"shown": _selected(_OF_NO_CONTENT), "content": "", "by_event": ""}
    until = "AND content.position <= p.position" if past else ""
    payloads = {name: _PAYLOAD.format(until=until, name=name) for name in _FIELDS}
    return {
        "shown": _selected({**_OF_CONTENT, **payloads}),
        "content": _CONTENT.format(columns=_WHOLE if shows == "all" else _ERRORS),
        "by_event": ", content.position",
    }


def _selected(more: Mapping[str, str]) -> str:
    names = (*RunColumns._fields, *_FIELDS)
    return ", ".join(f"{more.get(name, f'page.{name}')} AS {name}" for name in names)
