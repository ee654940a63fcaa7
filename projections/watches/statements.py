"""The statements that read watches and their alerts, present and past (contract, Watches)."""

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, Literal, get_args

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.filters import ORGANIZATION, WORKSPACE, Filter, conditions
from ledger.engine.values.event_table import EVERY_TYPE
from ledger.engine.views import statements
from ledger.features.feed.published import TYPES
from ledger.features.watches.model.watch import Severity
from projections.watches.shown import AlertStatus

# Watches.

_OF_WATCH: Mapping[str, str] = {
    **statements.tenant_conditions("w"),
    "watch_id": "w.watch_id = %(watch_id)s",
    "after": "w.watch_key < %(after)s",
}

_TELLING = ", ".join(
    f"'{type_}'" for type_ in (EVERY_TYPE, *TYPES) if type_.startswith((EVERY_TYPE, "alert."))
)

# The enabled endpoints that receive alerts, and the watches that they receive.
_ENDPOINTS = f"""
SELECT e.organization_id, e.workspace_id, i.shown ->> 'watch_ids' AS watch_ids,
    i.shown ->> 'min_severity' AS min_severity
FROM ledger.webhook AS e CROSS JOIN LATERAL (
    SELECT ('{{{{' || e.item || '}}}}')::json AS shown) AS i
WHERE e.enabled AND NOT e.deleted AND {{endpoint_tenant}} AND EXISTS (
    SELECT FROM json_array_elements_text(i.shown -> 'event_types') AS t
    WHERE t IN ({_TELLING}))
"""

_SEVERITIES = f"'{' '.join(get_args(Severity))}'"
"""All severities in one text, in ascending order."""


def _endpoint_count(organization_id: str, workspace_id: str, watch_id: str, severity: str) -> str:
    """SQL: the number of endpoints that receive the alerts of a watch of this tenant.

    A watch of an organization opens alerts in each workspace.
    """
    return f"""(
        SELECT count(*) FROM endpoint AS e WHERE e.organization_id = {organization_id}
          AND (e.workspace_id IS NULL OR {workspace_id} IS NULL OR e.workspace_id = {workspace_id})
          AND (e.watch_ids IS NULL OR strpos(e.watch_ids, '"' || {watch_id} || '"') > 0)
          AND strpos({_SEVERITIES}, e.min_severity) <= strpos({_SEVERITIES}, {severity}))
    """


_OF_STORED = _endpoint_count(
    "w.organization_id",
    "w.workspace_id",
    "w.watch_id",
    "(('{{' || w.item || '}}')::json ->> 'severity')",
)
_OF_NEW = _endpoint_count(
    "%(organization_id)s::text", "%(workspace_id)s::text", "NULL::text", "%(severity)s::text"
)

# A watch is looking until the loop of watches has checked all lines for its revision.
_ITEM = f"""
'{{{{' || w.item
|| ',"looking":' || (w.enabled AND w.revision > COALESCE(k.position, 0))::text
|| ',"open_alerts":' || (
    SELECT count(*) FROM ledger.alert AS a
    WHERE a.watch_id = w.watch_id AND a.resolved IS NULL AND {{alert_tenant}})
|| ',"overflow":' || COALESCE(o.waiting, 0)
|| ',"endpoints":' || {_OF_STORED} || '}}}}'
"""

_WATCHES = f"""
WITH endpoint AS MATERIALIZED ({_ENDPOINTS})
SELECT p.position, page.watch_key, page.item
FROM ({{position}}) AS p
LEFT JOIN LATERAL (
    SELECT w.watch_key, {_ITEM} AS item
    FROM ledger.watch AS w
    LEFT JOIN ledger.watch_look AS k ON k.organization_id = w.organization_id
    LEFT JOIN ledger.watch_overflow AS o ON o.watch_id = w.watch_id
    WHERE {{where}} ORDER BY w.watch_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.watch_key DESC
"""

_TELLS = f"""
WITH endpoint AS MATERIALIZED ({_ENDPOINTS})
SELECT p.position, {_OF_NEW}
FROM ({{position}}) AS p
"""


@cache
def watches_read(filters: frozenset[str]) -> statements.Read:
    """(position, watch's key, item JSON) rows, newest first; a row of nulls if none."""
    tenant = filters & {"organization", "workspace"}
    return statements.read_of(
        _WATCHES,
        "watch",
        "webhook",
        where=statements.where(filters, _OF_WATCH, "NOT w.deleted"),
        alert_tenant=statements.where_tenant(tenant, "a"),
        endpoint_tenant=statements.where_tenant(tenant, "e"),
    )


@cache
def endpoints_read(tenant: frozenset[str]) -> statements.Read:
    """A single (position, number) row: the endpoints that a tenant's new watch would notify."""
    return statements.read_of(
        _TELLS, "webhook", endpoint_tenant=statements.where_tenant(tenant, "e")
    )


# Alerts.

AlertSort = Literal["severity"]
"""The order of alerts besides the one by due time."""

_ALERTS = """
SELECT p.position, page.alert_key, page.due_at, page.rank, page.item, {name}, page.status,
       page.acknowledged, page.resolved
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT a.alert_key, a.due_at, a.rank, a.line_id, a.item, {status} AS status,
           k.item AS acknowledged, {resolved_item} AS resolved
    FROM ledger.alert AS a
    LEFT JOIN LATERAL (
        SELECT k.item, k.assignee, k.until FROM ledger.alert_acknowledgement AS k
        WHERE k.alert_id = a.alert_id AND {acknowledged_by_then}
        ORDER BY k.position DESC LIMIT 1
    ) AS k ON true
    WHERE {where} ORDER BY {order} LIMIT %(limit)s
) AS page ON true
ORDER BY {page_order}
"""

_HAS_ASSIGNEE = """k.assignee = ANY(%(assignee)s) AND EXISTS (
        SELECT FROM ledger.alert_acknowledgement AS o
        WHERE o.alert_id = a.alert_id AND o.assignee = ANY(%(assignee)s))"""

# The condition of statuses is replaced by ``_of_statuses``.
ALERTS = (
    Filter("status", "Status", get_args(AlertStatus),
           about="After its `until` an acknowledged alert is `open` again."),
    Filter("severity", "Severity", get_args(Severity)),
    Filter("watch_id", "Watch", "words"),
    Filter("service_line_id", "Line", "words", "a.line_id = ANY(%(service_line_id)s)"),
    WORKSPACE,
    ORGANIZATION,
    Filter("assignee", "Taken care of by", "words", _HAS_ASSIGNEE,
           about="Of the latest acknowledgement."),
)  # fmt: skip
"""The filters of alerts, in the order of their parameters."""

_OF_ALERT: Mapping[str, str] = {
    **conditions(ALERTS, "a"),
    "alert_id": "a.alert_id = %(alert_id)s",
    "from": "a.due_at >= %(from)s",
    "to": "a.due_at < %(to)s",
}

_ORDERS: Mapping[AlertSort | None, str] = {
    None: "{row}.due_at DESC, {row}.alert_key",
    "severity": "{row}.rank DESC, {row}.due_at DESC, {row}.alert_key",
}

# The condition after an alert. Its first part is the index's.
_AFTER: Mapping[AlertSort | None, str] = {
    None: """a.due_at <= %(after_due)s
        AND (a.due_at < %(after_due)s OR a.alert_key > %(after)s)""",
    "severity": """(a.rank, a.due_at) <= (%(after_rank)s::int, %(after_due)s)
        AND ((a.rank, a.due_at) < (%(after_rank)s::int, %(after_due)s)
             OR a.alert_key > %(after)s)""",
}

_UNRESOLVED = "a.resolved IS NULL", "(a.resolved IS NULL OR a.resolved > p.position)"
_RESOLVED = "a.resolved IS NOT NULL", "a.resolved <= p.position"
"""Now, and as of the position."""

# ``clock`` is the instant of the answer.
_IS_ACKNOWLEDGED = "(k.item IS NOT NULL AND (k.until IS NULL OR k.until > %(clock)s))"
_IS_NOT_ACKNOWLEDGED = "(k.item IS NULL OR k.until <= %(clock)s)"

_NAME = """(
    SELECT ('{' || l.head || '}')::json ->> 'name' FROM ledger.execution AS l
    WHERE l.line_id = page.line_id)"""
_NAME_THEN = """(
    SELECT ('{' || v.head || '}')::json ->> 'name'
    FROM ledger.execution AS l JOIN ledger.execution_version AS v ON v.line_key = l.line_key
    WHERE l.line_id = page.line_id AND v.position <= p.position
    ORDER BY v.position DESC LIMIT 1)"""

_IN_ORDER = frozenset(("organization", "workspace", "after", "after_due", "after_rank"))
"""The parameters of lists that scan an index, whatever their values."""


@cache
def alerts_read(
    filters: frozenset[str],
    statuses: frozenset[AlertStatus] = frozenset(),
    sort: AlertSort | None = None,
    past: bool = False,
    *,
    goes_on: bool = False,
) -> statements.Read:
    """(position, alert's key, due time, rank, ``AlertColumns``) rows in the order; nulls if none.

    ``statuses`` are the requested ones; empty means all. A page of an export that ``goes_on`` has
    the position ``end``. The filters are the names of the parameters.
    """
    is_of_then = past or goes_on
    is_in_order = "organization" in filters and filters <= _IN_ORDER and "resolved" not in statuses
    parts = dict[str, Any]()
    if goes_on:
        parts["position"] = statements.position_of_page("watch", "execution")
    return statements.read_of(
        _ALERTS,
        "watch",
        "execution",
        past=past,
        planning=Planning.SHORT if is_in_order else Planning.BY_VALUES,
        name=_NAME_THEN if is_of_then else _NAME,
        status=f"""CASE WHEN {_RESOLVED[is_of_then]} THEN 'resolved'
            WHEN {_IS_ACKNOWLEDGED} THEN 'acknowledged' ELSE 'open' END""",
        resolved_item=f"CASE WHEN {_RESOLVED[is_of_then]} THEN a.resolved_item END",
        acknowledged_by_then="k.position <= p.position" if is_of_then else "true",
        where=" AND ".join(_conditions(filters, statuses, sort, is_of_then)),
        order=_ORDERS[sort].format(row="a"),
        page_order=_ORDERS[sort].format(row="page"),
        **parts,
    )


def _conditions(
    filters: frozenset[str],
    statuses: Collection[AlertStatus],
    sort: AlertSort | None,
    is_of_then: bool,
) -> list[str]:
    found = [statements.where(filters & _OF_ALERT.keys(), _OF_ALERT)]
    if is_of_then:
        found.append("a.opened <= p.position")
    if "after" in filters:
        found.append(_AFTER[sort])
    if statuses:
        found.append(_of_statuses(statuses, is_of_then))
    return found


def _of_statuses(statuses: Collection[AlertStatus], is_of_then: bool) -> str:
    """The condition of some statuses: with AND where possible, for the index of the unresolved."""
    acknowledged = {
        (True, True): "true",
        (True, False): _IS_NOT_ACKNOWLEDGED,
        (False, True): _IS_ACKNOWLEDGED,
        (False, False): "false",
    }["open" in statuses, "acknowledged" in statuses]
    if "resolved" in statuses:
        return f"({_RESOLVED[is_of_then]} OR {acknowledged})"
    return f"{_UNRESOLVED[is_of_then]} AND {acknowledged}"
