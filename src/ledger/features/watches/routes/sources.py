"""Sources: who reports, and when each was last heard (contract, Watches)."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from fastapi import Response

from ledger.engine.http import reading
from ledger.engine.http.lean import Router, read_route
from ledger.engine.http.problems import InvalidCursor
from ledger.engine.http.replies import PageOf
from ledger.engine.values.rendering import ShownInstant, doc, json_text, time_text
from ledger.engine.values.values import format_instant, parse_instant
from projections.watches.source.statements import list_read

router = Router("/v1", "watches")


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
    first_seen: ShownInstant
    last_seen: Annotated[ShownInstant, doc("To the minute, rounded down.")]
    last_fact: Annotated[LastFact, doc("The first fact of that minute.")]


@read_route(router, "/sources", PageOf[ShownSource], summary="List sources")
async def list_sources(asking: reading.Asking, query: SourcesQuery) -> Response:
    """List who reports to the credential's tenant: the sources that were heard last come first.

    The order moves while sources report. An organization has the 5,000 that were heard last.
    """
    chosen = query.model_dump(include={"organization_id"}, exclude_none=True)
    filters: dict[str, Any] = asking.tenant | chosen
    names = set(filters)
    if query.cursor is not None:
        filters |= _after(reading.decode_cursor(query.cursor, chosen))
        names.add("after")
    rows = await asking.rows(list_read(frozenset(names)), {**filters, "limit": query.limit + 1})

    def cursor(row: Any) -> str:
        key = {"at": format_instant(row[6]), "organization": row[2], "source": row[1]}
        return reading.encode_cursor(key, chosen)

    return reading.paged(rows, query.limit, 1, cursor, _item)


def _item(row: Any) -> str:
    _, source, _, reported_by, name, first_seen, last_seen, fact_type, subject = row
    shown = ShownSource(
        source,
        reported_by,
        name,
        time_text(first_seen),
        time_text(last_seen),
        LastFact(fact_type, subject),
    )
    return json_text(shown)


def _after(key: Mapping[str, Any]) -> dict[str, Any]:
    after = [key.get(name) for name in ("at", "organization", "source")]
    if not all(isinstance(part, str) and "\0" not in part for part in after):
        raise InvalidCursor
    try:
        at = parse_instant(str(after[0]))
    except ValueError as error:
        raise InvalidCursor from error
    return {"after": at, "after_organization": after[1], "after_source": after[2]}
