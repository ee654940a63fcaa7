"""The gauges of webhooks (contract, Health)."""

from prometheus_client.core import GaugeMetricFamily, Metric

from ledger.engine.http.gauges import MOST_COUNTED, Gauges
from ledger.engine.postgres.exchange import Rows

# The deliveries that wait: begun ones, and events that are no deliveries yet. The latter's sequence
# numbers follow the last delivery's. The oldest delivery is the one due the longest: a begun
# delivery since it is due, an event since it was recorded. OFFSET 0 keeps the look-up by key.
_WEBHOOKS = f"""
WITH begun AS (
    SELECT count(*) AS number, min(d.due_at) AS since
    FROM (SELECT endpoint_id, due_at FROM ledger.delivery
          WHERE status = 'pending' LIMIT {MOST_COUNTED}) AS d
    JOIN ledger.webhook AS w USING (endpoint_id)
    WHERE w.enabled AND NOT w.deleted
), fresh AS (
    SELECT sum(w.sequence - coalesce(last.sequence, 0))::bigint AS number,
           min(ledger.recorded_at(next.position)) AS since
    FROM ledger.webhook AS w LEFT JOIN ledger.dispatch AS t USING (endpoint_id)
    LEFT JOIN LATERAL (
        SELECT m.sequence FROM ledger.webhook_message AS m
        WHERE m.endpoint_id = w.endpoint_id AND m.position = t.planned OFFSET 0
    ) AS last ON true
    CROSS JOIN LATERAL (
        SELECT m.position FROM ledger.webhook_message AS m
        WHERE m.endpoint_id = w.endpoint_id AND m.kind = 'event'
          AND m.position > coalesce(t.planned, 0)
        ORDER BY m.position LIMIT 1
    ) AS next
    WHERE w.enabled AND NOT w.deleted AND w.latest > coalesce(t.planned, 0)
)
SELECT begun.number + coalesce(fresh.number, 0),
    coalesce(greatest(0, extract(epoch FROM clock_timestamp()
        - least(begun.since, fresh.since))), 0)::float8,
    (SELECT count(*) FROM ledger.webhook AS w WHERE NOT w.enabled AND NOT w.deleted)
FROM begun, fresh
"""


def _metrics_of(rows: Rows) -> list[Metric]:
    ((backlog, oldest, disabled),) = rows
    return [
        GaugeMetricFamily("ledger_webhook_backlog", "Deliveries that wait.", value=backlog),
        GaugeMetricFamily(
            "ledger_webhook_oldest_seconds",
            "Seconds for which the oldest delivery has been due.",
            value=oldest,
        ),
        GaugeMetricFamily(
            "ledger_endpoints_disabled", "Webhook endpoints that are disabled.", value=disabled
        ),
    ]


GAUGES = Gauges(_WEBHOOKS, {}, _metrics_of)
