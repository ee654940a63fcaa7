"""The feed: every published event in log order, pulled page by page (contract, Feeds)."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from fastapi import Response
from pydantic import BaseModel, Field

from ledger.engine.http import exports, reading
from ledger.engine.http.lean import Router, needs, read_route
from ledger.engine.http.lists import Order, number
from ledger.engine.http.problems import FEED_ERRORS
from ledger.engine.http.replies import AnswerOf, PageOf, Reply, answer, page
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.errors import NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import EARLIEST, EVENT_ID, LATEST, micros_of
from ledger.features.facts.report import MAX_AHEAD
from ledger.features.feed.envelopes import Envelope
from ledger.features.feed.published import TYPES
from projections.feed import feeds, items

router = Router("/v1/events", "feeds")

_FEED = exports.Exported("events", items.feed_envelope, exports.cut_of(Envelope))

_ORDER = Order(number("position", 1, "before"))

BEYOND = 2**63 - 1

SCAN_SECONDS = 2.0
"""How long a page searches for events that occurred in a period: some 250,000 events."""

AfterEvent = Annotated[
    str | None,
    Field(
        pattern=EVENT_ID, description="An EVT id: the events after it.", examples=["EVT-26-000123"]
    ),
]


class EventFilters(BaseModel):
    """The filters of events."""

    organization_id: reading.Identifier = None
    workspace_id: reading.Identifier = None
    service_line_id: reading.Identifier = None
    type: Annotated[str | None, reading.some_of(tuple(TYPES))] = None
    after: AfterEvent = None

    def chosen(self) -> dict[str, Any]:
        """The requested filters, without ``after``."""
        chosen = {
            "organization_id": self.organization_id,
            "workspace_id": self.workspace_id,
            "service_line_id": self.service_line_id,
            "type": reading.split_words(self.type),
        }
        return {name: value for name, value in chosen.items() if value is not None}


class Occurred(NamedTuple):
    """A period in which events occurred, in microseconds since 1970-01-01 UTC.

    No index has the time of events, which would cost bytes with each fact. So a scan by position
    checks every event that its other filters allow.
    """

    start: int
    end: int
    """Exclusive."""

    def filter(self, rows: Sequence[Any]) -> list[Any]:
        return [row for row in rows if self.start <= items.occurred_at(row) < self.end]

    async def filter_pages(
        self, pages: AsyncIterator[Sequence[Any]]
    ) -> AsyncIterator[Sequence[Any]]:
        async for rows in pages:
            yield self.filter(rows)


class OccurredParameters(reading.Present):
    """The period in which events occurred."""

    occurred_from: Annotated[
        reading.Bound | None, Field(description="The earliest `occurred_at`, included.")
    ] = None
    occurred_to: Annotated[
        reading.Bound | None, Field(description="The latest `occurred_at`, excluded.")
    ] = None

    def occurred(self) -> tuple[datetime | None, datetime | None]:
        """Return start and end. Raises Invalid if the start is after the end."""
        return reading.bounds_of(
            self.calendar, self.occurred_from, self.occurred_to, "occurred_from", "occurred_to"
        )


class EventsExportQuery(reading.Zoned, EventFilters, reading.RangeParameters, OccurredParameters):
    """The parameters of an export of the feed."""

    format: exports.Format = "jsonl"


class FeedQuery(EventFilters, reading.RangeParameters, reading.Page):
    """The parameters of a page of events."""


class FollowQuery(FeedQuery, OccurredParameters):
    """The feed's parameters."""


def position_in(identifier: str | None) -> int:
    """The position in an EVT or AUD id; without an id 0, before the first event."""
    return 0 if identifier is None else int(identifier.rsplit("-", 1)[1])


@router.get(
    "/export",
    summary="Export events",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=exports.answers(
        "The events of the feed, one on each line, in JSON as an `Event`. A CSV has the payload as"
        " JSON in its last column. `after` continues an export: a CSV then has no header line."
    ),
)
async def export_events(request: reading.ReadRequest, query: EventsExportQuery) -> Response:
    """Export the feed as one file up to `Ledger-Position`; `after` resumes an export."""
    slot = exports.begin_export(request)
    scan = _scan_of(query, request.principal)
    question = events_question(request.principal, scan, None, exports.PAGE).walked()
    first = await request.ask(question)
    pages, goes_on = exports.log_pages(request, question, first), query.after is not None
    if scan.occurred is not None:
        pages = scan.occurred.filter_pages(pages)
    return _FEED.file(slot, query.format, pages, first.position, goes_on=goes_on)


@read_route(router, "", PageOf[Envelope], summary="Follow events")
async def list_events(request: reading.ReadRequest, query: FollowQuery) -> Response:
    """List published events in log order. `from` and `to` are compared with `recorded_at`.

    `cursor` continues after a page; an empty page without more repeats the cursor that was sent.
    A page by `occurred_at` may have fewer events than `limit`, or none, and yet `has_more`.
    """
    return await followed_page(request, query)


async def followed_page(
    request: reading.ReadRequest, query: FollowQuery, is_backwards: bool = False
) -> Reply:
    """A page of the feed, also by ``occurred_at``; backwards like ``events_page``."""
    scan = _scan_of(query, request.principal, is_backwards)
    if scan.occurred is None:
        return await events_page(request, query, is_backwards)
    return await _page_by_scan(request, query, scan, scan.occurred)


def _scan_of(
    query: FollowQuery | EventsExportQuery, principal: Principal, is_backwards: bool = False
) -> "Scan":
    """The requested scan of the feed. Raises Invalid."""
    filters, (start, end) = feed_filters(query, query, principal), query.occurred()
    if start is None and end is None:
        return Scan(filters, position_in(query.after), is_backwards)
    if start is not None:
        # No event is recorded earlier: the scan begins there.
        filters["from"] = max(start - MAX_AHEAD, filters.get("from", EARLIEST))
    occurred = Occurred(micros_of(start or EARLIEST), micros_of(end or LATEST))
    return Scan(filters, position_in(query.after), is_backwards, occurred)


async def _page_by_scan(
    request: reading.ReadRequest, query: FollowQuery, scan: "Scan", occurred: Occurred
) -> Reply:
    """A page of the events that occurred in a period: scan until the page is full.

    When the time for a page is over, the page ends after the scanned events. The request uses the
    database as much as an export, and so counts as one. Raises RateLimited.
    """
    request.http.state.share.count(request.services.shares.exports)
    clock = asyncio.get_running_loop().time
    until, found, cursor, size = clock() + SCAN_SECONDS, list[Any](), query.cursor, query.limit + 1
    while True:
        rows = await request.ask(events_question(request.principal, scan, cursor, size).walked())
        looked_at = [row for row in rows if row[1] is not None]
        found += occurred.filter(looked_at)
        is_full, has_more = len(found) > query.limit, len(looked_at) == size
        if looked_at:
            cursor = scan.cursor_after(looked_at[-1])
        if is_full or not has_more or clock() >= until:
            break
        size = min(4 * size, exports.PAGE)
    rows_of_page = found[: query.limit]
    if is_full:
        cursor = scan.cursor_after(rows_of_page[-1])
    elif not rows_of_page and not has_more:
        cursor = query.cursor
    texts = [items.feed_item(row[1:]) for row in rows_of_page]
    return page(texts, cursor, is_full or has_more, rows.position)


async def events_page(
    request: reading.ReadRequest, query: FeedQuery, is_backwards: bool = False
) -> Reply:
    """A page of the feed; backwards, for people, the newest event comes first."""
    filters = feed_filters(query, query, request.principal)
    scan = Scan(filters, position_in(query.after), is_backwards)
    rows = await request.ask(
        events_question(request.principal, scan, query.cursor, query.limit + 1)
    )
    return scan.page(rows, query, items.feed_item)


async def events_counted(request: reading.ReadRequest, query: FeedQuery, most: int) -> int:
    """The number of events on all pages, up to ``most``. Only the web pages use this."""
    scan = Scan(feed_filters(query, query, request.principal), position_in(query.after), True)
    ((_, count),) = await request.ask(
        events_question(request.principal, scan, None, most).counted()
    )
    return int(count)


def events_question(principal: Principal, scan: "Scan", cursor: str | None, limit: int) -> Question:
    read = feeds.feed_read(frozenset(scan.filters), scan.is_backwards)
    return Question(principal.tenant, read, scan.parameters(cursor, limit))


def feed_filters(
    chosen: EventFilters, period: reading.RangeParameters, principal: Principal
) -> dict[str, Any]:
    return reading.tenant_filters(principal) | chosen.chosen() | time_filters(period)


def time_filters(query: reading.RangeParameters) -> dict[str, Any]:
    start, end = query.bounds()
    return {name: at for name, at in (("from", start), ("to", end)) if at is not None}


class Scan(NamedTuple):
    """A scan of rows by position: forwards from ``after``, or backwards, newest first."""

    filters: dict[str, Any]
    after: int
    is_backwards: bool = False
    occurred: Occurred | None = None
    """The period of the events; no statement compares it."""

    @property
    def bound_to(self) -> dict[str, Any]:
        """The filters that a cursor is bound to, with its direction."""
        bound_to = {**self.filters, "after": self.after}
        if self.occurred is not None:
            bound_to["occurred"] = (*self.occurred,)
        return bound_to | {"backwards": True} if self.is_backwards else bound_to

    def cursor_after(self, row: Sequence[Any]) -> str:
        return _ORDER.cursor(row, self.bound_to)

    def parameters(self, cursor: str | None, limit: int) -> dict[str, Any]:
        """The parameters of a statement, for ``limit`` rows. Raises InvalidCursor."""
        at = _ORDER.after(cursor, self.bound_to)
        begin = {"after": self.after}
        if self.is_backwards:
            begin |= {"before": BEYOND} | at
        elif at:
            begin["after"] = max(self.after, at["before"])
        return {**self.filters, **begin, "limit": limit}

    def page(
        self, rows: Answer, query: reading.Page, item: Callable[[Sequence[Any]], str]
    ) -> Reply:
        """The reply of a page, with an ``item`` for each row's event.

        An empty page repeats the cursor of its request.
        """
        return _ORDER.page(
            rows, query.limit, self.bound_to, lambda row: item(row[1:]), cursor=query.cursor
        )


@read_route(router, "/{event_id}", AnswerOf[Envelope], FEED_ERRORS, summary="Show an event")
async def show_event(
    request: reading.ReadRequest,
    event_id: Annotated[str, reading.path_id("An EVT id.", "EVT-26-000123", EVENT_ID)],
    query: reading.Present,
) -> Response:
    """Show an event of the feed."""
    if not re.fullmatch(EVENT_ID, event_id):
        raise NotFound("No such event.")
    tenant = request.tenant
    parameters = {**tenant, "at": position_in(event_id)}
    rows = await request.rows(feeds.event_read(frozenset(tenant)), parameters)
    found = rows[0][1:]
    envelope = None if found[0] is None else items.feed_envelope(found)
    # The statement searches the position; an id with another year is no event's id.
    if envelope is None or envelope.id != event_id:
        raise reading.read_at(rows, NotFound("No such event."))
    return answer(json_text({"data": envelope}), rows.position)
