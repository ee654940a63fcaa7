"""The statements that read usage statements and their totals (contract, Statements)."""

from collections.abc import Mapping
from functools import cache

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views import statements

_FILTERS: Mapping[str, str] = {
    **statements.tenant_conditions("s"),
    "statement_id": "s.statement_id = %(statement_id)s",
    "from": "s.end_at > %(from)s",
    "to": "s.begin_at < %(to)s",
    "after": "s.statement_key < %(after)s",
}

# The stored event, which is sealed; the view only repeats the document's hash.
_EVENT = """LEFT JOIN LATERAL ledger.stored_events(ARRAY[s.issued]) AS e
    ON e.stream = s.statement_id"""

_ISSUED = "convert_from(e.state, 'UTF8')::json #>> '{{12,document_sha256}}'"

# The total of the issued document. No text within the document can look like this key: quotation
# marks are escaped there.
_ITEM = f"""'{{{{' || s.item || ',"total":' || CASE
        WHEN encode(sha256(d.document), 'hex') = {_ISSUED}
        AND position(convert_to('"total":' || d.total || ',"rows":', 'UTF8') IN d.document) > 0
        THEN d.total ELSE 'null' END
    || ',"replaced_by":' || COALESCE('"' || s.replaced_by || '"', 'null')
    || ',"withdrawn_at":' || {statements.json_of_instant("s.withdrawn_at")} || '}}}}'"""

_LIST = f"""
SELECT p.position, s.statement_key, {_ITEM}
FROM ({{position}}) AS p
LEFT JOIN LATERAL (
    SELECT s.* FROM ledger.statement AS s
    WHERE {{where}} ORDER BY s.statement_key DESC LIMIT %(limit)s
) AS s ON true
{_EVENT}
LEFT JOIN ledger.statement_document AS d USING (document_sha256)
ORDER BY s.statement_key DESC
"""

_ONE = f"""
SELECT p.position, s.issued, '{{{{' || s.item || '}}}}', {_ISSUED}, d.document
FROM ({{position}}) AS p
LEFT JOIN LATERAL (
    SELECT s.* FROM ledger.statement AS s
    WHERE s.statement_id = %(statement_id)s AND s.issued <= p.position AND {{where}}
) AS s ON true
{_EVENT}
LEFT JOIN ledger.statement_document AS d USING (document_sha256)
"""


@cache
def list_read(filters: frozenset[str]) -> statements.Read:
    """(position, statement's key, item JSON) rows, newest first; a row of nulls if none."""
    # A page of documents is hashed.
    return statements.read_of(
        _LIST, "statement", planning=Planning.LONG, where=statements.where(filters, _FILTERS)
    )


@cache
def statement_read(tenant: frozenset[str], *, past: bool = False) -> statements.Read:
    """A single row: position, position of the event, JSON without the total, hash, document.

    The event's position is null if the statement is not visible. The hash is the event's.
    """
    return statements.read_of(
        _ONE,
        "statement",
        past=past,
        planning=Planning.LONG,
        where=statements.where_tenant(tenant, "s"),
    )
