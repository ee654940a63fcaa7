"""The statements that read statements, with the totals of their documents (contract)."""

from collections.abc import Mapping
from functools import cache

from ledger.postgres.scope import Planning
from ledger.views.statements import (
    Read,
    json_of_instant,
    read_of,
    tenant_conditions,
    where,
    where_tenant,
)

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("s"),
    "organization_id": "s.organization_id = %(organization_id)s",
    "workspace_id": "s.workspace_id = %(workspace_id)s",
    "statement_id": "s.statement_id = %(statement_id)s",
    "from": "s.end_at > %(from)s",
    "to": "s.begin_at < %(to)s",
    "after": "s.statement_key < %(after)s",
}
"""Conditions by filter; ``organization`` and ``workspace`` are those of the credential."""

_ITEM = f"""'{{{{' || s.item || ',"total":' || COALESCE(d.total, 'null')
    || ',"replaced_by":' || COALESCE('"' || s.replaced_by || '"', 'null')
    || ',"withdrawn_at":' || {json_of_instant("s.withdrawn_at")} || '}}}}'"""

_LIST = f"""
SELECT p.position, page.statement_key, page.item
FROM ({{position}}) AS p
LEFT JOIN LATERAL (
    SELECT s.statement_key, {_ITEM} AS item
    FROM ledger.statement AS s
    LEFT JOIN ledger.statement_document AS d USING (document_sha256)
    WHERE {{where}} ORDER BY s.statement_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.statement_key DESC
"""

_ONE = """
SELECT p.position, s.issued, '{{' || s.item || '}}', {document}
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT s.issued, s.item, s.document_sha256 FROM ledger.statement AS s
    WHERE s.statement_id = %(statement_id)s AND s.issued <= p.position AND {where}
) AS s ON true
LEFT JOIN ledger.statement_document AS d USING (document_sha256)
"""


@cache
def list_read(filters: frozenset[str]) -> Read:
    """(position, statement's key, item JSON) rows, newest first; a row of nulls if none."""
    return read_of(_LIST, "statement", where=where(filters, _FILTERS))


@cache
def statement_read(tenant: frozenset[str], *, past: bool = False, whole: bool = True) -> Read:
    """A single row: position, position of the event or null, JSON without the total, document.

    Without the document if not ``whole``.
    """
    return read_of(
        _ONE,
        "statement",
        past=past,
        planning=Planning.LONG,
        document="d.document" if whole else "NULL",
        where=where_tenant(tenant, "s"),
    )
