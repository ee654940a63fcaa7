"""Alerts, and the names of watches, as pages of other features show them too."""

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.engine.http.problems import UNBUILT
from ledger.engine.http.reading import Query, ReadRequest, TenantQuery
from ledger.engine.http.replies import PageOf
from ledger.engine.page.pages import read_answer
from ledger.engine.values.errors import Behind
from ledger.engine.values.recorded import Actor
from ledger.features.watches.model.views import ShownWatch
from ledger.features.watches.model.watch import Severity
from ledger.features.watches.routes import alerts as api
from ledger.features.watches.routes import watches
from projections.watches.shown import ShownAlert

SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")

MOST_OF_LINE = 100
"""The alerts of a line that are read at once."""


def keepers_of(found: Sequence[ShownAlert]) -> set[Actor]:
    return {each.acknowledged.by for each in found if each.acknowledged is not None}


async def alerts_of_line(
    request: ReadRequest, line_id: str, query: Query, **more: Any
) -> list[ShownAlert]:
    """The alerts of a line, the latest due first unless ``more`` says otherwise."""
    named = {"service_line_id": line_id, "as_of": query.as_of, "limit": MOST_OF_LINE}
    filters = api.AlertsQuery.model_validate(named | more)
    return (await read_answer(api.list_alerts(request, filters), PageOf[ShownAlert])).data


async def names_of_watches(
    request: ReadRequest, organization_id: str | None = None
) -> Mapping[str, str]:
    """The names of the latest watches that the credential sees, at most 100, by id."""
    if not request.principal.may("read"):
        return {}
    query = TenantQuery.model_validate({"organization_id": organization_id, "limit": 100})
    try:
        found = await read_answer(watches.list_watches(request, query), PageOf[ShownWatch])
    except (Behind, *UNBUILT):
        return {}
    return {watch.id: watch.name for watch in found.data}
