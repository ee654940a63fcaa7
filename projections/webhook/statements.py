"""The statements that read webhook endpoints and their deliveries (contract, Feeds).

The messages of an endpoint come from the view, their deliveries from the dispatcher's tables. A
message that has no delivery yet is shown as pending.
"""

from collections.abc import Mapping
from functools import cache

from ledger.views.statements import tenant_conditions, where

_POSITION = "SELECT position FROM ledger.projection WHERE name = 'webhook'"

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("w"),
    "organization_id": "w.organization_id = %(organization_id)s",
    "workspace_id": "w.workspace_id = %(workspace_id)s",
    "after": "w.endpoint_key < %(after)s",
}
"""Conditions by filter; ``organization`` and ``workspace`` are those of the credential."""

_NOT_DELETED = "NOT w.deleted"

# An instant as JSON, with up to six decimals and without trailing zeros.
_TIME = (
    """coalesce('"' || rtrim(rtrim(to_char({at} AT TIME ZONE 'UTC', """
    """'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.') || 'Z"', 'null')"""
)

# Failures before the endpoint was last enabled no longer count.
_ITEM = (
    """'{{' || w.item || ',"status":{{"sequence":' || w.sequence || ',"failing_since":' || """
    + _TIME.format(at="(CASE WHEN t.failing_since >= w.enabled_at THEN t.failing_since END)")
    + """ || '}}}}'"""
)

_LIST = f"""
SELECT p.position, page.endpoint_key, page.item
FROM ({_POSITION}) AS p
LEFT JOIN LATERAL (
    SELECT w.endpoint_key, {_ITEM} AS item
    FROM ledger.webhook AS w LEFT JOIN ledger.dispatch AS t USING (endpoint_id)
    WHERE {{where}} ORDER BY w.endpoint_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.endpoint_key DESC
"""

_ENDPOINT = f"""
SELECT p.position, w.item
FROM ({_POSITION}) AS p
LEFT JOIN LATERAL (
    SELECT {_ITEM} AS item
    FROM ledger.webhook AS w LEFT JOIN ledger.dispatch AS t USING (endpoint_id)
    WHERE w.endpoint_id = %(endpoint_id)s AND {{where}}
) AS w ON true
"""

# While the endpoint is disabled, only tests are attempted.
_DELIVERY = (
    """'{{"event_id":"EVT-' || m.number || '","type":"' || m.type"""
    """ || '","sequence":' || m.sequence || ',"status":"' || coalesce(d.status, 'pending')"""
    """ || '","attempts":['"""
    """ || coalesce(array_to_string(d.attempts, ','), '') || '],"next_attempt_at":' || """
    + _TIME.format(at="(CASE WHEN w.enabled OR m.sequence = 0 THEN d.due_at END)")
    + """ || '}}'"""
)

_DELIVERIES = f"""
SELECT p.position, w.endpoint_id, page.position, page.item
FROM ({_POSITION}) AS p
LEFT JOIN ledger.webhook AS w ON w.endpoint_id = %(endpoint_id)s AND {{where}}
LEFT JOIN ledger.dispatch AS t ON t.endpoint_id = w.endpoint_id
LEFT JOIN LATERAL (
    SELECT m.position, {_DELIVERY} AS item FROM {{rows}}
    ORDER BY m.position DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.position DESC
"""

_ALL = """
ledger.webhook_message AS m LEFT JOIN ledger.delivery AS d USING (endpoint_id, position)
WHERE m.endpoint_id = w.endpoint_id AND m.kind <> 'recovery' AND m.position < %(before)s
"""

# Deliveries with some statuses. Every status has a walk of its own, so that a few deliveries among
# many are found at once.
_CHOSEN = """
({parts}) AS chosen
JOIN ledger.webhook_message AS m
  ON m.endpoint_id = w.endpoint_id AND m.position = chosen.position
LEFT JOIN ledger.delivery AS d
  ON d.endpoint_id = w.endpoint_id AND d.position = chosen.position
"""

_BEGUN = """
(SELECT d.position FROM ledger.delivery AS d
 WHERE d.endpoint_id = w.endpoint_id AND d.status = '{status}' AND d.position < %(before)s
 ORDER BY d.position DESC LIMIT %(limit)s)
"""

# Messages that have no delivery yet are pending too.
_NOT_BEGUN = """
(SELECT m.position FROM ledger.webhook_message AS m
 WHERE m.endpoint_id = w.endpoint_id AND m.kind = '{kind}'
   AND m.position > coalesce(t.{up_to}, 0) AND m.position < %(before)s
 ORDER BY m.position DESC LIMIT %(limit)s)
"""

_PARTS: Mapping[str, tuple[str, ...]] = {
    "pending": (
        _BEGUN.format(status="pending"),
        _NOT_BEGUN.format(kind="event", up_to="planned"),
        _NOT_BEGUN.format(kind="test", up_to="heeded"),
    ),
    "delivered": (_BEGUN.format(status="delivered"),),
    "failed": (_BEGUN.format(status="failed"),),
}

STATUSES = tuple(_PARTS)


@cache
def list_statement(filters: frozenset[str]) -> str:
    """(position, endpoint's key, item JSON) rows; a row of nulls if there is no endpoint."""
    return _LIST.format(where=where(filters, _FILTERS, _NOT_DELETED))


@cache
def endpoint_statement(tenant: frozenset[str]) -> str:
    """A single (position, item JSON or null) row."""
    return _ENDPOINT.format(where=where(tenant, _FILTERS, _NOT_DELETED))


@cache
def deliveries_statement(tenant: frozenset[str], statuses: frozenset[str]) -> str:
    """(position, endpoint or null, event's position or null, item JSON) rows, at least one.

    ``statuses`` are the requested statuses; empty: all of them.
    """
    parts = [part for status in sorted(statuses) for part in _PARTS[status]]
    rows = _CHOSEN.format(parts="UNION ALL".join(parts)) if parts else _ALL
    return _DELIVERIES.format(where=where(tenant, _FILTERS, _NOT_DELETED), rows=rows)
