"""Sources: who reports, and the latest report of each (contract, Watches)."""

from typing import Annotated, Any

import msgspec
from fastapi import Response

from ledger.engine.http import reading
from ledger.engine.http.lean import Router, read_route
from ledger.engine.http.lists import Order, instant, text
from ledger.engine.http.replies import PageOf
from ledger.engine.values.rendering import ViewInstant, doc, json_text, time_text
from projections.watches.source.statements import list_read

router = Router("/v1", "watches")

_ORDER = Order(
    instant("at", 6, "after"),
    text("organization", 2, "after_organization"),
    text("source", 1, "after_source"),
)


class SourcesQuery(reading.Present, reading.Page):
    """The list's parameters."""

    organization_id: reading.Identifier = None


class LastFact(msgspec.Struct):
    """A fact of a source."""

    type: str
    subject: str


class ShownSource(msgspec.Struct):
    """A CloudEvents source whose facts were recorded."""

    source: str
    reported_by: Annotated[str, doc("The credential that reported its last fact.")]
    reported_by_name: Annotated[str | None, doc("The present name of that API key.")]
    first_seen: ViewInstant
    last_seen: Annotated[ViewInstant, doc("To the minute, rounded down.")]
    last_fact: Annotated[LastFact, doc("The first fact of that minute.")]


@read_route(router, "/sources", PageOf[ShownSource], summary="List sources")
async def list_sources(request: reading.ReadRequest, query: SourcesQuery) -> Response:
    """List who reports to the credential's tenant: the sources with the latest facts first.

    The order moves while sources report. An organization has the 5,000 with the latest facts.
    """
    chosen = query.model_dump(include={"organization_id"}, exclude_none=True)
    return await _ORDER.listed(request, query, chosen, list_read, _item)


def _item(row: Any) -> str:
    _, source, _, reported_by, name, first_seen, last_seen, fact_type, subject = row
    view = ShownSource(
        source,
        reported_by,
        name,
        time_text(first_seen),
        time_text(last_seen),
        LastFact(fact_type, subject),
    )
    return json_text(view)
