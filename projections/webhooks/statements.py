"""The statements that read webhook endpoints and their deliveries (contract, Feeds).

The view has the messages of an endpoint, the dispatcher's tables their deliveries. A message
without a delivery is shown as pending.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from ledger.engine.views.statements import Read, read_of, tenant_conditions, where

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("w"),
    "after": "w.endpoint_key < %(after)s",
}

# An instant as JSON: up to six decimals, no trailing zeros.
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
FROM ({{position}}) AS p
LEFT JOIN LATERAL (
    SELECT w.endpoint_key, {_ITEM} AS item
    FROM ledger.webhook AS w LEFT JOIN ledger.dispatch AS t USING (endpoint_id)
    WHERE {{where}} ORDER BY w.endpoint_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.endpoint_key DESC
"""

_ENDPOINT = f"""
SELECT p.position, w.item
FROM ({{position}}) AS p
LEFT JOIN LATERAL (
    SELECT {_ITEM} AS item
    FROM ledger.webhook AS w LEFT JOIN ledger.dispatch AS t USING (endpoint_id)
    WHERE w.endpoint_id = %(endpoint_id)s AND {{where}}
) AS w ON true
"""

# A pending delivery with failed attempts is shown as retrying. A disabled endpoint only receives
# tests.
_DELIVERY = (
    """'{{"event_id":"EVT-' || m.number || '","type":"' || m.type"""
    """ || '","sequence":' || m.sequence || ',"status":"'"""
    """ || CASE WHEN d.status = 'pending' AND d.attempts <> '{{}}' THEN 'retrying'"""
    """ ELSE coalesce(d.status, 'pending') END"""
    """ || '","attempts":['"""
    """ || coalesce(array_to_string(d.attempts, ','), '') || '],"next_attempt_at":' || """
    + _TIME.format(at="(CASE WHEN w.enabled OR m.sequence = 0 THEN d.due_at END)")
    + """ || '}}'"""
)

# The stored event renders the body of the latest request; the view has a test's envelope. One call
# looks up all events in the log.
_DELIVERIES = f"""
WITH found AS MATERIALIZED (
    SELECT p.position AS reached, w.endpoint_id, page.*
    FROM ({{position}}) AS p
    LEFT JOIN ledger.webhook AS w ON w.endpoint_id = %(endpoint_id)s AND {{where}}
    LEFT JOIN ledger.dispatch AS t ON t.endpoint_id = w.endpoint_id
    LEFT JOIN LATERAL (
        SELECT m.position, {_DELIVERY} AS item, m.number, m.sequence, d.url,
            d.attempts[cardinality(d.attempts)] AS last, m.item AS test, w.format, w.details
        FROM {{rows}}
        ORDER BY m.position DESC LIMIT %(limit)s
    ) AS page ON true
)
SELECT found.*, e.type, e.state_before, e.state_after, s.stream, s.version, s.topic, s.state
FROM found LEFT JOIN ledger.event AS e USING (position)
LEFT JOIN ledger.stored_events(ARRAY(
    SELECT position FROM found WHERE url IS NOT NULL AND test IS NULL
)) AS s USING (position)
ORDER BY found.position DESC
"""

# The deliveries that a recovery since an instant resends: the dispatcher's condition.
_RECOVERY = """
SELECT p.position, (SELECT count(*) FROM (
    SELECT FROM ledger.webhook AS w JOIN ledger.delivery AS d USING (endpoint_id)
    WHERE w.endpoint_id = %(endpoint_id)s AND {where}
      AND d.status IN ('failed', 'pending') AND d.sequence > 0
      AND d.position >= (SELECT ledger.position_from(%(since)s))
    LIMIT %(limit)s
) AS found)
FROM ({position}) AS p
"""

# A message that becomes a delivery, or has become one.
_MESSAGE = """
SELECT p.position, m.position
FROM ({position}) AS p
LEFT JOIN ledger.webhook AS w ON w.endpoint_id = %(endpoint_id)s AND {where}
LEFT JOIN ledger.webhook_message AS m
  ON m.endpoint_id = w.endpoint_id AND m.kind <> 'recovery' AND m.number = %(number)s
 AND m.position = %(at)s
"""

_ALL = """
ledger.webhook_message AS m LEFT JOIN ledger.delivery AS d USING (endpoint_id, position)
WHERE m.endpoint_id = w.endpoint_id AND m.kind <> 'recovery' AND m.position < %(before)s
"""

# Deliveries by status. A scan per status finds a few deliveries among many at once.
_CHOSEN = """
({parts}) AS chosen
JOIN ledger.webhook_message AS m
  ON m.endpoint_id = w.endpoint_id AND m.position = chosen.position
LEFT JOIN ledger.delivery AS d
  ON d.endpoint_id = w.endpoint_id AND d.position = chosen.position
"""

_BEGUN = """
(SELECT d.position FROM ledger.delivery AS d
 WHERE d.endpoint_id = w.endpoint_id AND {status} AND d.position < %(before)s
 ORDER BY d.position DESC LIMIT %(limit)s)
"""

# Messages without a delivery are pending too.
_NOT_BEGUN = """
(SELECT m.position FROM ledger.webhook_message AS m
 WHERE m.endpoint_id = w.endpoint_id AND m.kind = '{kind}'
   AND m.position > coalesce(t.{up_to}, 0) AND m.position < %(before)s
 ORDER BY m.position DESC LIMIT %(limit)s)
"""

_PARTS: Mapping[str, tuple[str, ...]] = {
    "pending": (
        _BEGUN.format(status="d.status = 'pending' AND d.attempts = '{}'"),
        _NOT_BEGUN.format(kind="event", up_to="planned"),
        _NOT_BEGUN.format(kind="test", up_to="heeded"),
    ),
    "retrying": (_BEGUN.format(status="d.status = 'pending' AND d.attempts <> '{}'"),),
    "delivered": (_BEGUN.format(status="d.status = 'delivered'"),),
    "failed": (_BEGUN.format(status="d.status = 'failed'"),),
    "skipped": (_BEGUN.format(status="d.status = 'skipped'"),),
}

STATUSES = tuple(_PARTS)


@cache
def list_read(filters: frozenset[str]) -> Read:
    """(position, endpoint's key, item JSON) rows; a row of nulls if there is no endpoint."""
    return _read_of(_LIST, filters)


@cache
def endpoint_read(tenant: frozenset[str]) -> Read:
    """A single (position, item JSON or null) row."""
    return _read_of(_ENDPOINT, tenant)


@cache
def deliveries_read(tenant: frozenset[str], statuses: frozenset[str]) -> Read:
    """(position, endpoint or null, event's position or null, item JSON, …) rows, at least one.

    The further columns are the request of the latest attempt
    (``ledger.features.webhooks.delivery.signing``). ``statuses`` are the requested ones; empty
    means all.
    """
    parts = [part for status in sorted(statuses) for part in _PARTS[status]]
    rows = _CHOSEN.format(parts="UNION ALL".join(parts)) if parts else _ALL
    return _read_of(_DELIVERIES, tenant, "event", rows=rows)


@cache
def recovery_read(tenant: frozenset[str]) -> Read:
    """A single (position, number of deliveries, at most ``limit``) row."""
    return _read_of(_RECOVERY, tenant)


@cache
def message_read(tenant: frozenset[str]) -> Read:
    """A single (position, position of the endpoint's event or test, or null) row."""
    return _read_of(_MESSAGE, tenant)


def _read_of(statement: str, filters: frozenset[str], *more: str, **parts: Any) -> Read:
    condition = where(filters, _FILTERS, "NOT w.deleted")
    return read_of(statement, *more, "webhook", where=condition, **parts)
