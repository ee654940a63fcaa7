"""The gauge of alerts (contract, Health)."""

from typing import get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from ledger.engine.http.gauges import MOST_COUNTED, Gauges
from ledger.engine.postgres.exchange import Rows
from ledger.features.watches.model.watch import Severity

# The unresolved alerts by severity.
_ALERTS = f"""
SELECT asked.severity, (SELECT count(*) FROM (
    SELECT FROM ledger.alert AS a
    WHERE a.resolved IS NULL AND a.severity = asked.severity LIMIT {MOST_COUNTED}) AS a)
FROM unnest(%(severities)s::text[]) AS asked (severity)
"""


def _metrics_of(rows: Rows) -> list[Metric]:
    unresolved = GaugeMetricFamily(
        "ledger_alerts_open", "Alerts that are not resolved.", labels=["severity"]
    )
    for severity, number in rows:
        unresolved.add_metric([severity], number)
    return [unresolved]


GAUGES = Gauges(_ALERTS, {"severities": [*get_args(Severity)]}, _metrics_of)
