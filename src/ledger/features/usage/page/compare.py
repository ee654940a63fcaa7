"""The page "What changed": lines at two instants, the worst change first (``/ui/compare``)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Bound, ReadRequest
from ledger.engine.http.replies import PageOf
from ledger.engine.page.addresses import here, with_parameter
from ledger.engine.page.log import WrittenInstant, WrittenRange
from ledger.engine.page.pages import PageRoute, export_route, go, read_answer, show
from ledger.engine.page.showing import Zone, zone_of
from ledger.engine.page.visits import last_visit
from ledger.engine.values.calendar import Calendar, calendar_of
from ledger.engine.values.values import format_instant
from ledger.features.usage.model.comparison import STATES
from ledger.features.usage.page import scopes
from ledger.features.usage.page.periods import Period, month_of, period_of
from ledger.features.usage.routes import compare, statements
from ledger.features.usage.routes.compare import ComparedLine, CompareQuery
from ledger.features.usage.routes.scope import MAX_DATES
from ledger.features.usage.routes.statements import ShownStatement
from projections.directory.search.words import fold

router = APIRouter(prefix="/ui/compare", include_in_schema=False, route_class=PageRoute)

_ROWS = 100
_FRIDAY = 4
_STATEMENTS = 25
"""How many of the newest statements the page searches for one in force."""

_NUMBERS = (("hours", "Hours"), ("runs", "Runs"), ("tokens_used", "Tokens"))
"""The totals' numbers that count the period: field and heading."""

Change = Literal["newly_blocked", "cleared", "still_blocked", "newly_paused", "closed", "started"]


class ChangesQuery(CompareQuery, WrittenRange):
    """The API's parameters, with the page's order, its slice of rows, and its choice of lines."""

    then: Bound = ""
    """Empty for the beginning of yesterday."""
    then_local: WrittenInstant = None
    then_exact: WrittenInstant = None
    written = ("then",)
    change: Change | None = None
    """Show only the lines with this change; None for all lines."""
    sort: Annotated[str | None, Field(pattern="^-?(?:worst|name|health|hours|tokens|events)$")] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=200)] = _ROWS
    start: Annotated[int, Field(ge=1, le=10**6)] = 1
    """The number of the first row on the page."""


@router.get("", openapi_extra=needs("read"))
async def show_changes(request: ReadRequest, query: ChangesQuery) -> Response:
    """Show the lines with an event between two instants, and the totals of the changes."""
    if elsewhere := scopes.organization_first(request, query):
        return elsewhere
    address, zone = here(request.http), zone_of(request.http)
    presets = await _presets(request, zone, address)
    if (written := query.canonical(request.http)) is not None:
        return go(written)
    if not query.then:
        return go(presets[0][1])
    if "time_zone" not in request.http.query_params:
        return go(with_parameter(address, "time_zone", zone.name))
    compared = await scopes.all_compared(request, query)
    found, has_more = compared.data, compared.meta.has_more
    assert found.total is not None, "the first page has it"
    rows = found.rows
    if query.change is not None:
        holds = STATES[query.change]
        rows = [row for row in rows if holds(row.state.then, row.state.now)]
    sort = query.sort or "worst"
    name = sort.removeprefix("-")
    rows.sort(key=_SORT_KEYS[name], reverse=sort.startswith("-") == (name in ("worst", "name")))
    start, end = found.from_, found.to
    period = period_of(query.calendar, start, end) if start and end else None
    return show(
        request.http,
        "compare.html",
        query=query,
        found=found,
        states=msgspec.structs.asdict(found.total.states),
        numbers=_NUMBERS,
        presets=presets,
        period=period,
        after_end=period is not None
        and period.months == 1
        and found.then == query.calendar.begin(period.beyond),
        rows=rows[query.start - 1 :][: query.limit],
        count=len(rows),
        has_more=has_more,
        sort=sort,
        export=partial(scopes.exported, "/ui/compare/export", query, "then", "now", "from_", "to"),
        **await scopes.scope_of(request, query, None),
    )


async def _presets(request: ReadRequest, zone: Zone, address: str) -> Sequence[tuple[str, str]]:
    """Links to this page with instants that people often choose: (words, address)."""
    now, calendar = request.services.clock(), zone.calendar
    today = calendar.date_of(now)
    friday = today - timedelta(days=(today.weekday() - _FRIDAY) % 7)
    evening = zone.instant(f"{friday}T18:00")
    if evening >= now:
        evening = zone.instant(f"{friday - timedelta(days=7)}T18:00")
    last, visit = month_of(today).moved(-1), last_visit(request.http)
    found = [
        ("since yesterday", calendar.begin(today - timedelta(days=1))),
        ("since Friday 18:00", evening),
        *([("since my last visit", visit)] if visit is not None else []),
    ]
    return [
        *(
            (label, _since(address, at, _numbers(calendar, at, now), zone.name))
            for label, at in found
        ),
        (
            f"{last.name}, after it ended",
            _since(address, calendar.begin(last.beyond), last, zone.name),
        ),
        *await _since_statement(request, address, zone),
    ]


async def _since_statement(
    request: ReadRequest, address: str, zone: Zone
) -> Sequence[tuple[str, str]]:
    """The link that compares now with the newest statement in force, for its period."""
    # Read one statement at a time, since each document is hashed whole. Mostly the first is in
    # force.
    query = statements.StatementsQuery(limit=1)
    for _ in range(_STATEMENTS):
        listed = statements.list_statements(request, query)
        page = await read_answer(listed, PageOf[ShownStatement])
        for issued in page.data:
            if issued.withdrawn_at is None and issued.replaced_by is None:
                calendar = calendar_of(issued.time_zone)
                period = period_of(calendar, issued.from_, issued.to)
                since = _since(address, issued.as_of, period, zone.name)
                return [(f"since the statement of {period.name}", since)]
        if not page.meta.has_more:
            break
        query = query.model_copy(update={"cursor": page.meta.cursor})
    return []


def _numbers(calendar: Calendar, then: datetime, now: datetime) -> Period:
    """The months between two instants. If too many days, the later instant's month."""
    later = month_of(calendar.date_of(now))
    months = Period(calendar.date_of(then).replace(day=1), later.beyond)
    return months if (months.beyond - months.first).days <= MAX_DATES else later


def _since(address: str, then: datetime, period: Period, zone: str) -> str:
    """The address of this page from another instant until now."""
    bounds = {"from": period.first, "to": period.beyond, "time_zone": zone}
    return scopes.changed(address, then=format_instant(then), now=None, **bounds)


def _worst(row: ComparedLine) -> Any:
    """Newly blocked lines first, then lost health, then the longest blocked in the period."""
    how = [name for name, holds in STATES.items() if holds(row.state.then, row.state.now)]
    blocked = (row.seconds_blocked.now or 0) if "still_blocked" in how else -1
    return (
        "newly_blocked" not in how,
        min(row.health_score.change or 0, 0),
        -blocked,
        "newly_paused" not in how,
        not how,
        -row.events.count,
    )


_SORT_KEYS: Mapping[str, Callable[[ComparedLine], Any]] = {
    "worst": _worst,
    "name": lambda row: fold(row.service_line_name or row.service_line_id),
    "health": lambda row: -(row.health_score.change or 0),
    "hours": lambda row: abs(row.hours.change or 0),
    "tokens": lambda row: abs(row.tokens_used.change or 0),
    "events": lambda row: row.events.count,
}
"""The sort key of a row in each order. Texts and the worst change ascend, amounts descend."""


export_route(router, "/export", compare.export_comparison)
