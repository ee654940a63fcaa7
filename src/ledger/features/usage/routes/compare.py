"""Two instants side by side, page by page and as an export (contract, Usage)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
from fastapi import Response
from pydantic import Field

from ledger.engine.http import reading
from ledger.engine.http.as_of import PINNED, as_of_instant, pin, resolve_as_of
from ledger.engine.http.exports import Cells, Cut, Exported, Format, answers, begin_export, harmless
from ledger.engine.http.lean import Router, needs, read_route
from ledger.engine.http.lists import Order, number
from ledger.engine.http.replies import Meta, answer
from ledger.engine.reads.as_of import AsOf
from ledger.engine.values.errors import Invalid
from ledger.engine.values.rendering import ViewInstant, doc, json_text
from ledger.engine.values.values import EARLIEST, State, format_id, format_instant
from ledger.features.lines.model.health import SignalStatus
from ledger.features.usage.model.comparison import (
    NUMBERS,
    OF_PERIOD,
    OF_RUNS,
    BothSides,
    ChangeTotals,
    pair,
)
from ledger.features.usage.model.usage import LineInScope
from ledger.features.usage.reads.comparison import Comparing
from ledger.features.usage.reads.usage import Summing, UsageScope
from ledger.features.usage.routes.rows import TOTAL
from ledger.features.usage.routes.scope import LineFilters, LongPage, names_of, require_dates
from ledger.features.usage.routes.usage import EXPORT_LINES, whole

T = TypeVar("T")

router = Router("/v1/compare", "usage")

MAX_DAYS = 400
MAX_LINES = 20_000

_OF_NOW = tuple(name for name in NUMBERS if name not in OF_PERIOD)


class CompareQuery(LineFilters, reading.RangeParameters):
    """The parameters of a comparison. Its lines are those of the later instant."""

    then: Annotated[
        reading.Bound,
        Field(
            description="The earlier instant. For example `then=2026-04-01&now=2026-05-01`.",
            examples=[],
        ),
    ]
    now: Annotated[
        reading.Bound | None, Field(description="The later instant; by default now.", examples=[])
    ] = None

    async def instants(self, request: reading.ReadRequest) -> tuple[datetime, datetime | None]:
        """Both instants. Raises Invalid."""
        then, now = reading.bounds_of(self.calendar, self.then, self.now, "then", "now")
        assert then is not None, "it is required"
        await request.require_past("then", then)
        if now is not None:
            await request.require_past("now", now)
        if (now or request.services.clock()) - then > timedelta(days=MAX_DAYS):
            raise Invalid.at("/then", f"lies more than {MAX_DAYS} days before now")
        return then, now

    def period(self) -> tuple[datetime, datetime] | None:
        """The period whose sums are compared. Raises Invalid."""
        start, end = self.bounds()
        if (start is None) != (end is None):
            raise Invalid.at("/to" if end is None else "/from", "from and to go together")
        if start is None or end is None:
            return None
        require_dates(self.calendar, start, end)
        return start, end


class ComparePageQuery(CompareQuery, LongPage):
    """The parameters of a page of a comparison."""


class CompareExportQuery(CompareQuery):
    """The parameters of an export of a comparison."""

    format: Format = "jsonl"


class Pair(msgspec.Struct, Generic[T]):
    """A word then and now; ``then`` is null where the line was not known."""

    then: T | None
    now: T | None


class NumberPair(msgspec.Struct):
    """A number then and now, with its change; a number that is not known or not asked is null."""

    then: float | None
    now: float | None
    change: float | None


class EventsOfLine(msgspec.Struct):
    """The events of a line that were recorded between both instants."""

    count: Annotated[int, doc("Exact up to 1,000, which means at least so many.")]
    first: str
    last: str


class ComparedNumbers(msgspec.Struct, kw_only=True):
    """The numbers that are compared. The last six count the period, and are null without one."""

    open_blockers: NumberPair
    open_runs: NumberPair
    hours: NumberPair
    check_ins: NumberPair
    runs: Annotated[NumberPair, doc("Runs that started in the period.")]
    runs_failed: NumberPair
    tokens_used: NumberPair
    seconds_blocked: NumberPair


class ComparedLine(ComparedNumbers, kw_only=True):
    """A line then and now."""

    service_line_id: str
    service_line_name: str | None
    workspace_id: str
    workspace_name: str | None
    state: Pair[State]
    health_status: Pair[SignalStatus]
    health_score: NumberPair
    events: EventsOfLine


class LinesByChange(msgspec.Struct):
    """Lines by their states then and now."""

    newly_blocked: int
    cleared: Annotated[int, doc("Blocked then, and not now.")]
    still_blocked: int
    newly_paused: int
    closed: int
    started: Annotated[int, doc("Not known then.")]


class ComparedTotal(ComparedNumbers, kw_only=True):
    """All lines then and now; a line that was not known then counts as 0."""

    lines: int
    lines_changed: Annotated[int, doc("Lines of which anything differs.")]
    events: int
    states: LinesByChange


class ComparedLines(msgspec.Struct):
    """Both instants, what changed in total, and the lines of a page."""

    then: ViewInstant
    now: ViewInstant
    from_: ViewInstant | None = msgspec.field(name="from")
    to: ViewInstant | None
    total: Annotated[ComparedTotal | None, doc("Of all lines; on the first page alone.")]
    rows: list[ComparedLine]


class ComparePage(msgspec.Struct):
    """A page of a comparison."""

    data: ComparedLines
    meta: Meta


class BoundComparison(NamedTuple):
    """A comparison with both positions and clocks."""

    query: CompareQuery
    scope: UsageScope
    then: AsOf
    now: AsOf
    period: tuple[datetime, datetime] | None
    unknown: frozenset[str]
    """The numbers that are null."""
    names: Summing
    comparison: Comparing

    def numbers(self, line: BothSides) -> Mapping[str, tuple[Any, Any]]:
        return {
            name: (None, None) if name in self.unknown else sides
            for name, sides in line.numbers.items()
        }

    async def rendered(
        self,
        request: reading.ReadRequest,
        lines: Sequence[LineInScope],
        changed: Sequence[BothSides],
    ) -> list[dict[str, Any]]:
        """Lines as the API returns them."""
        names = await self.names.names([line.id for line in lines])
        organization = request.tenant.get("organization", self.query.organization_id)
        workspaces = await names_of(
            request, organization, {line.workspace_id for line in lines}, self.now
        )
        positions = {at for line in changed for at in (line.events.first, line.events.last)}
        years = await self.comparison.years(sorted(positions))
        rows = list[dict[str, Any]]()
        for line, found in zip(lines, changed, strict=True):
            events = found.events
            numbers = {name: pair(*sides) for name, sides in self.numbers(found).items()}
            rows.append(
                {
                    "service_line_id": line.id,
                    "service_line_name": names.get(line.id),
                    "workspace_id": line.workspace_id,
                    "workspace_name": workspaces.get(line.workspace_id),
                    **{
                        name: {"then": then, "now": now}
                        for name, (then, now) in found.words.items()
                    },
                    **{name: numbers.pop(name) for name in _OF_NOW},
                    "events": {
                        "count": events.number,
                        "first": format_id("EVT", years[events.first], events.first),
                        "last": format_id("EVT", years[events.last], events.last),
                    },
                    **numbers,
                }
            )
        return rows


async def compared(
    request: reading.ReadRequest, query: CompareQuery, pinned: Mapping[str, Any] | None = None
) -> BoundComparison:
    """The comparison with both its positions and clocks."""
    then, now = await query.instants(request)
    period, scope = query.period(), query.scope(request)
    later = await resolve_as_of(request, _VIEWS, now, pinned)
    earlier = await as_of_instant(request, _VIEWS, then)
    fetch = request.services.pool.fetch
    start, end = period or (later.clock, later.clock)
    sums = Summing(fetch, scope, earlier, start, end), Summing(fetch, scope, later, start, end)
    comparison = Comparing(fetch, scope.tenant, earlier, later, sums if period else None)
    if period is None:
        unknown = OF_PERIOD
    else:
        unknown = OF_RUNS if scope.resources is not None else frozenset()
    return BoundComparison(query, scope, earlier, later, period, unknown, sums[1], comparison)


_VIEWS = ("execution", "run", "event")
_ORDER = Order(number("key", 0, "key"), *PINNED)


async def lines_of(
    request: reading.ReadRequest, bound: BoundComparison, most: int | None = None
) -> list[LineInScope]:
    """The lines with events between the positions, by id. Raises Invalid for more than ``most``."""
    principal, scope = request.principal, bound.scope
    organization = principal.organization_id or bound.query.organization_id
    assert organization is not None, "an administrator names an organization"
    ids = await bound.comparison.lines(organization, principal.workspace_id)
    if (words := scope.filters.get("service_line_id")) is not None:
        chosen = frozenset(words)
        ids = [line for line in ids if line in chosen]
    found = list[LineInScope]()
    for at in range(0, len(ids), EXPORT_LINES):
        filters = {**scope.filters, "service_line_id": ids[at : at + EXPORT_LINES]}
        async for page in bound.names.of_scope(scope._replace(filters=filters)).lines(EARLIEST):
            found += page
        if most is not None and len(found) > most:
            raise Invalid.at("/then", f"leads to more than {most:,} lines: narrow it, or export")
    return found


@router.get(
    "/export",
    summary="Export a comparison",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=answers(
        "All lines of a comparison by id, as JSON or in a table, and last the total. A row of a"
        " table has columns for `then`, `now` and `change`."
    ),
)
async def export_comparison(request: reading.ReadRequest, query: CompareExportQuery) -> Response:
    """Export all lines of a comparison as one file."""
    slot, heavy = begin_export(request), request.services.heavy
    async with heavy.slot(request.principal.tenant_key):
        bound = await compared(request, query)
        pages = _exported(request, bound)
        first = await anext(pages)
    found = whole(request, first, pages)
    return _FILE.file(slot, query.format, found, bound.now.position, goes_on=False)


async def _exported(
    request: reading.ReadRequest, bound: BoundComparison
) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
    lines, totals = await lines_of(request, bound), ChangeTotals()
    for at in range(0, len(lines), EXPORT_LINES):
        some = lines[at : at + EXPORT_LINES]
        changed = await bound.comparison.changed(some)
        for line in changed:
            totals.add(line, bound.numbers(line))
        yield await bound.rendered(request, some, changed)
    yield [{"total": totals.rendered(bound.unknown)}]


@read_route(router, "", ComparePage, summary="Compare two instants")
async def show_comparison(request: reading.ReadRequest, query: ComparePageQuery) -> Response:
    """Show what changed between two instants in what the ledger knew.

    The lines are those with an event of their history recorded after `then`, up to `now`. The sums
    of the period `from` to `to` are shown as known then and now.
    """
    bound_to = query.bound_to
    pinned = _ORDER.after(query.cursor, bound_to)
    async with request.services.heavy.slot(request.principal.tenant_key):
        bound = await compared(request, query, pinned)
        lines, total = await lines_of(request, bound, MAX_LINES), None
        changed = list[BothSides]()
        if not pinned:
            totals = ChangeTotals()
            changed = await bound.comparison.changed(lines)
            for line in changed:
                totals.add(line, bound.numbers(line))
            total = totals.rendered(bound.unknown)
        else:
            lines = [line for line in lines if line.key > pinned["key"]]
        page = lines[: query.limit]
        rows = await bound.rendered(
            request, page, changed[: query.limit] or await bound.comparison.changed(page)
        )
    cursor = query.cursor
    if page:
        cursor = _ORDER.cursor((page[-1].key, *pin(bound.now)), bound_to)
    period = bound.period
    data = {
        "then": format_instant(bound.then.clock),
        "now": format_instant(bound.now.clock),
        "from": None if period is None else format_instant(period[0]),
        "to": None if period is None else format_instant(period[1]),
        "total": total,
        "rows": rows,
    }
    meta = {"cursor": cursor, "has_more": len(lines) > len(page)}
    return answer(json_text({"data": data, "meta": meta}), bound.now.position)


_IDS = ("service_line_id", "service_line_name", "workspace_id", "workspace_name")
_WORDS, _SIDES = ("state", "health_status"), ("then", "now")
_COLUMNS = (
    *_IDS,
    *(f"{name}_{side}" for name in _WORDS for side in _SIDES),
    *(f"{name}_{side}" for name in NUMBERS for side in (*_SIDES, "change")),
    "events_count",
    "events_first",
    "events_last",
)


def _cells(row: Mapping[str, Any]) -> Cells:
    total = row.get("total")
    if total is not None:
        found: list[Any] = [TOTAL, *[None] * (len(_IDS) - 1 + len(_WORDS) * len(_SIDES))]
        row = {"health_score": dict.fromkeys((*_SIDES, "change")), **total}
        events: Mapping[str, Any] = {"count": total["events"]}
    else:
        found = [harmless(row[name]) for name in _IDS]
        found += [row[name][side] for name in _WORDS for side in _SIDES]
        events = row["events"]
    found += [row[name][side] for name in NUMBERS for side in (*_SIDES, "change")]
    return [*found, *(events.get(name) for name in ("count", "first", "last"))]


_FILE = Exported("comparison", itemgetter(0), Cut(_COLUMNS, _cells))
