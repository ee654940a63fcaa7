"""The statements that read runs, present and past (contract, Reading).

A line's runs are read together with the line: the table ``execution`` tells whether the credential
sees the line, and the line's execution model.
"""

from collections.abc import Mapping
from functools import cache

from ledger.views.statements import position_of, where, where_tenant

_FILTERS: Mapping[str, str] = {
    "status": "{changing}.status = ANY(%(status)s)",
    "not_completed": "{changing}.status <> 'completed'",
    "triggered_by": "{changing}.triggered_by = ANY(%(triggered_by)s)",
    "from": "r.requested_at >= %(from)s",
    "to": "r.requested_at < %(to)s",
    "after": "(r.requested_at, r.run_key) < (%(after_at)s, %(after)s)",
}

# Input, output and error: of each, the value of the latest event that has one.
_PAYLOADS = """
LEFT JOIN LATERAL (
    SELECT (array_agg(b.input ORDER BY b.position DESC) FILTER (WHERE b.input IS NOT NULL))[1],
        (array_agg(b.output ORDER BY b.position DESC) FILTER (WHERE b.output IS NOT NULL))[1],
        (array_agg(b.error ORDER BY b.position DESC) FILTER (WHERE b.error IS NOT NULL))[1]
    FROM ledger.run_version AS b WHERE b.run_id = r.run_id {until}
) AS b (input, output, error) ON true
LEFT JOIN ledger.run_key AS k ON k.run_id = r.run_id
"""

# A list without payloads does not read the payloads, since each may be as large as a fact.
_NO_PAYLOADS = """
CROSS JOIN (SELECT NULL::bytea, NULL::bytea, NULL::bytea) AS b (input, output, error)
CROSS JOIN (SELECT NULL::bytea, NULL::timestamptz) AS k (wrapped, destroyed_at)
"""

# An erasure is shown in reads of the past too, and even before the view has caught up with it,
# because the key is already destroyed.
_COLUMNS = """
r.run_id, r.run_key, r.requested_at, r.organization_id, {changing}.head, {changing}.tail,
COALESCE(r.erased_at, k.destroyed_at), b.input, b.output, b.error, k.wrapped
"""

# A run's latest version at or before the position.
_VERSION = """
CROSS JOIN LATERAL (
    SELECT status, triggered_by, head, tail FROM ledger.run_version AS v
    WHERE v.run_id = r.run_id AND v.position <= p.position ORDER BY v.position DESC LIMIT 1
) AS v
"""

# A page of a line's runs. The model of the line comes with the page: null if the credential does
# not see the line.
_RUNS = """
SELECT p.position, line.execution_model, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, l.execution_model FROM ledger.execution AS l
    WHERE l.line_id = %(line_id)s AND {line_where}
) AS line ON true
LEFT JOIN LATERAL (
    SELECT {columns} FROM ledger.run AS r {version} {payloads}
    WHERE r.line_id = line.line_id AND {where}
    ORDER BY r.requested_at DESC, r.run_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.requested_at DESC, page.run_key DESC
"""

_RUN = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT {columns} FROM ledger.run AS r {version} {payloads}
    WHERE r.run_id = %(run_id)s AND {where}
) AS page ON true
"""

# Runs that were known at the instant have a ``requested_at`` of at most 5 minutes after the
# instant, since the time of a fact may lie at most 5 minutes in the future.
_REQUESTED_BY_THEN = "r.requested_at <= %(as_of)s + interval '5 minutes'"


@cache
def runs_statement(
    tenant: frozenset[str], filters: frozenset[str], past: bool = False, bare: bool = False
) -> str:
    """(position, model or null, run columns or nulls) rows; without payloads if ``bare``."""
    changing = "v" if past else "r"
    conditions = {name: text.format(changing=changing) for name, text in _FILTERS.items()}
    of_line, of_runs = where_tenant(tenant, "l"), where(filters, conditions)
    if past:
        of_line += " AND l.activated <= p.position"
        of_runs += f" AND r.opened <= p.position AND {_REQUESTED_BY_THEN}"
    return _RUNS.format(
        position=position_of(past, "execution", "run"),
        line_where=of_line,
        where=of_runs,
        **_parts(past, bare),
    )


@cache
def run_statement(tenant: frozenset[str], past: bool = False) -> str:
    """A single (position, run columns or nulls) row."""
    position, own = position_of(past, "run"), where_tenant(tenant, "r")
    return _RUN.format(position=position, where=own, **_parts(past))


def _parts(past: bool, bare: bool = False) -> dict[str, str]:
    payloads = _PAYLOADS.format(until="AND b.position <= p.position" if past else "")
    return {
        "columns": _COLUMNS.format(changing="v" if past else "r"),
        "version": _VERSION if past else "",
        "payloads": _NO_PAYLOADS if bare else payloads,
    }
