"""Alerts as pages of other features show them too."""

from collections.abc import Sequence
from typing import Any

from ledger.engine.http.reading import Asking, Query
from ledger.engine.http.replies import PageOf
from ledger.engine.page.pages import read_answer
from ledger.engine.values.recorded import Actor
from ledger.features.watches.model.watch import Severity
from ledger.features.watches.routes import alerts as api
from projections.watches.shown import ShownAlert

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")

MOST_OF_LINE = 100
"""The alerts of a line that are read at once."""


def keepers_of(found: Sequence[ShownAlert]) -> set[Actor]:
    """The actors that acknowledged these alerts."""
    return {each.acknowledged.by for each in found if each.acknowledged is not None}


async def alerts_of_line(
    asking: Asking, line_id: str, query: Query, **more: Any
) -> list[ShownAlert]:
    """The alerts of a line, the latest due first unless ``more`` says otherwise."""
    asked = api.AlertsQuery(service_line_id=line_id, as_of=query.as_of, limit=MOST_OF_LINE, **more)
    return (await read_answer(api.list_alerts(asking, asked), PageOf[ShownAlert])).data
