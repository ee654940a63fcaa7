"""The statements that read sources (contract, Watches)."""

from collections.abc import Mapping
from functools import cache

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, read_of, tenant_conditions, where

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("s"),
    "sources": "s.source = ANY(%(sources)s)",
    "after": """(s.last_seen, s.organization_id, s.source)
        < (%(after)s, %(after_organization)s, %(after_source)s)""",
}

# A source that reports about several workspaces is shown once, with its latest report.
_LIST = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT s.source, s.organization_id, s.reported_by, k.name, s.first_seen, s.last_seen,
           s.fact_type, s.subject
    FROM (
        SELECT DISTINCT ON (s.organization_id, s.source) s.source, s.organization_id,
               s.reported_by, min(s.first_seen) OVER (PARTITION BY s.organization_id, s.source)
                   AS first_seen, s.last_seen, s.fact_type, s.subject
        FROM ledger.source AS s WHERE {tenant}
        ORDER BY s.organization_id, s.source, s.position DESC
    ) AS s
    LEFT JOIN ledger.api_key AS k
        ON k.key_id = s.reported_by AND k.organization_id = s.organization_id
    WHERE {after}
    ORDER BY s.last_seen DESC, s.organization_id DESC, s.source DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.last_seen DESC, page.organization_id DESC, page.source DESC
"""


@cache
def list_read(filters: frozenset[str]) -> Read:
    """(position, source, organization, credential, its name, first seen, last seen, type, subject)
    rows, the latest report first; a row of nulls if there is none."""
    return read_of(
        _LIST,
        "source",
        planning=Planning.LONG,
        tenant=where(filters - {"after"}, _FILTERS),
        after=where(filters & {"after"}, _FILTERS),
    )


_LAST_REPORTS = """
SELECT p.position, s.source, s.last_seen
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT s.source, max(s.last_seen) AS last_seen FROM ledger.source AS s
    WHERE {where} GROUP BY s.source
) AS s ON true
"""


@cache
def last_reports_read(tenant: frozenset[str]) -> Read:
    """(position, source, minute) rows for the ``sources`` that have reported; nulls if none has."""
    return read_of(
        _LAST_REPORTS, "source", planning=Planning.LONG, where=where(tenant | {"sources"}, _FILTERS)
    )
