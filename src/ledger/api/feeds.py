"""The feed: every published event in log order, pulled page by page (contract 5)."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi import Query as QueryParameters
from pydantic import BaseModel, Field

from ledger.api import feed_models
from ledger.api.authentication import Authenticated
from ledger.api.documentation import FEED_ERRORS, READ_ERRORS
from ledger.api.lean import LeanRoute, MinPosition, needs
from ledger.api.problems import InvalidCursor
from ledger.api.reading import (
    OR,
    Page,
    Present,
    RangeParameters,
    Read,
    any_of,
    decode_cursor,
    encode_cursor,
    position_of,
    read_at,
    split,
    tenant_filters,
)
from ledger.api.replies import answer, page
from ledger.application.principal import Principal
from ledger.domain.errors import NotFound
from ledger.domain.values import EVENT_ID
from projections import feeds
from projections.published import TYPES

router = APIRouter(prefix="/v1/events", tags=["feeds"], route_class=LeanRoute)

_VIEW = frozenset({"event"})

BEYOND = 2**63 - 1
"""Past every position."""

Statement = Callable[[frozenset[str], bool], str]
"""A walk's statement by its filters, and whether it goes backwards."""

Identifier = Annotated[
    str | None, Field(min_length=1, max_length=200, description="One id, not several.")
]
AfterEvent = Annotated[
    str | None,
    Field(
        pattern=EVENT_ID,
        description="An EVT id: what comes after it.",
        examples=["EVT-26-000123"],
    ),
]


class EventFilters(BaseModel):
    """Which events."""

    organization_id: Identifier = None
    workspace_id: Identifier = None
    service_line_id: Identifier = None
    type: Annotated[str | None, Field(pattern=any_of(tuple(TYPES)), description=OR)] = None
    after: AfterEvent = None

    def chosen(self) -> dict[str, Any]:
        """The filters that were given, but for where to begin."""
        chosen = {
            "organization_id": self.organization_id,
            "workspace_id": self.workspace_id,
            "service_line_id": self.service_line_id,
            "type": split(self.type),
        }
        return {name: value for name, value in chosen.items() if value is not None}


class FeedQuery(Present, EventFilters, RangeParameters, Page):
    """The feed's parameters."""


def position_in(identifier: str | None) -> int:
    """The position that an EVT or AUD id names; 0, before the very first, where none is given."""
    return 0 if identifier is None else int(identifier.rsplit("-", 1)[1])


@router.get(
    "",
    summary="Follow events",
    openapi_extra=needs("read"),
    responses={200: {"model": feed_models.EventPage}, **READ_ERRORS},
)
async def list_events(
    request: Request,
    principal: Authenticated,
    query: Annotated[FeedQuery, QueryParameters()],
    min_position: MinPosition = None,
) -> Response:
    """Published events in log order, `from` and `to` by `recorded_at`.

    Go on with `cursor`; an empty page repeats the one sent.
    """
    return await events_page(request, principal, query, min_position)


async def events_page(
    request: Request,
    principal: Principal,
    query: FeedQuery,
    min_position: int | None = None,
    backwards: bool = False,
) -> Response:
    """A page of the feed; ``backwards`` the newest first, for people."""
    return await feed_page(
        Read(request, principal, query, min_position, _VIEW, behind_all=True, by_values=True),
        feeds.feed_statement,
        feed_filters(query, query, principal),
        query,
        position_in(query.after),
        backwards,
    )


def feed_filters(
    chosen: EventFilters, stretch: RangeParameters, principal: Principal
) -> dict[str, Any]:
    """All filters of a statement, the credential's own among them."""
    return tenant_filters(principal) | chosen.chosen() | time_filters(stretch)


def time_filters(query: RangeParameters) -> dict[str, Any]:
    """The bounds in time that were given."""
    start, end = query.bounds()
    return {name: at for name, at in (("from", start), ("to", end)) if at is not None}


async def feed_page(
    read: Read,
    statement: Statement,
    filters: dict[str, Any],
    query: Page,
    after: int,
    backwards: bool = False,
) -> Response:
    """A page of rows that are walked by position, ascending; ``backwards`` the newest first."""
    bound_to = {**filters, "after": after}
    if backwards:
        # A cursor goes on in its own direction only.
        bound_to["backwards"] = True
        before = BEYOND
        if query.cursor is not None:
            before = event_position(decode_cursor(query.cursor, bound_to))
        begin = {"after": after, "before": before}
    else:
        begin = {"after": walk_from(filters, after, query.cursor)}
    rows = await read.rows(
        lambda _: statement(frozenset(filters), backwards),
        {**filters, **begin, "limit": query.limit + 1},
    )
    found = [row for row in rows if row[1] is not None]
    shown = found[: query.limit]
    cursor = query.cursor
    if shown:
        cursor = encode_cursor({"position": shown[-1][1]}, bound_to)
    return page([row[2] for row in shown], cursor, len(found) > len(shown), position_of(rows))


def walk_from(filters: dict[str, Any], after: int, cursor: str | None) -> int:
    """The position after which a page begins. Raises InvalidCursor."""
    if cursor is None:
        return after
    return max(after, event_position(decode_cursor(cursor, {**filters, "after": after})))


def event_position(key: dict[str, Any]) -> int:
    """The position inside a cursor. Raises InvalidCursor."""
    position = key.get("position")
    if type(position) is not int or not 0 <= position < 2**63:
        raise InvalidCursor("The cursor is not valid for this request.")
    return position


@router.get(
    "/{event_id}",
    summary="Show an event",
    openapi_extra=needs("read"),
    responses={200: {"model": feed_models.EventAnswer}, **FEED_ERRORS},
)
async def show_event(
    request: Request,
    principal: Authenticated,
    event_id: Annotated[str, Path(description="An EVT id.", examples=["EVT-26-000123"])],
    query: Annotated[Present, QueryParameters()],
    min_position: MinPosition = None,
) -> Response:
    """One event of the feed."""
    if not re.fullmatch(EVENT_ID, event_id):
        raise NotFound("No such event.")
    tenant = tenant_filters(principal)
    rows = await Read(request, principal, query, min_position, _VIEW).rows(
        lambda _: feeds.event_statement(frozenset(tenant)),
        {**tenant, "at": position_in(event_id), "number": event_id.removeprefix("EVT-")},
    )
    if rows[0][1] is None:
        raise read_at(rows, NotFound("No such event."))
    return answer('{"data":' + rows[0][1] + "}", position_of(rows))
