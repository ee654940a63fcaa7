"""A line's story: its history, its timeline and its usage (contract, Reading)."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import Response
from pydantic import Field

from ledger.engine.http import reading
from ledger.engine.http.lean import Router, read_route
from ledger.engine.http.lists import Order, number
from ledger.engine.http.problems import STORY_ERRORS
from ledger.engine.http.replies import AnswerOf, PageOf, answer, keyed
from ledger.engine.reads.question import Answer
from ledger.engine.values.errors import Invalid
from ledger.engine.values.rendering import ViewInstant, doc, json_text, time_text
from ledger.engine.values.timeline import (
    Amounts,
    StateInterval,
    StateSpans,
    TurningPoint,
    intervals,
    totals,
)
from ledger.engine.values.values import EARLIEST, LATEST, Cause, RunStatus, State, format_instant
from ledger.features.feed.envelopes import HistoryItem
from ledger.features.lines.routes.executions import AnyLineId
from projections.feed.items import history_item
from projections.feed.statements import history_read
from projections.lines.statements import timeline_read
from projections.runs.usage import usage_read

router = Router("/v1/execution", "execution")

_ORDER = Order(number("position", 2, "after"))

MAX_INTERVALS = 10_000
MAX_DAYS = 400
MAX_PAIRS = 10_000
"""The most pairs of a day and a resource in an answer about usage."""

_DEFAULT_DAYS = 30
_DAYS_AT_ONCE = 31
"""Past dates in an answer about usage that does not wait for the slot of heavy reads."""

_COUNTED = ("running", "completed", "failed", "cancelled")
"""The statuses of runs that count, in the order of the statement's numbers."""

_decode_hours = msgspec.json.Decoder(list[tuple[str | None, int, int]]).decode
_decode_runs = msgspec.json.Decoder(tuple[int, int, int, int, int]).decode
_decode_models = msgspec.json.Decoder(list[tuple[str, int, int, int, int, int]]).decode


class RangeQuery(reading.Query, reading.RangeParameters):
    """The parameters of a line's story within a range of time."""


class UsageQuery(reading.Zoned, RangeQuery):
    """The parameters of a line's usage."""


class HistoryQuery(reading.PageQuery):
    """The parameters of a line's history."""

    recorded_after: Annotated[
        reading.Bound | None,
        Field(description="Only events that were recorded after this instant."),
    ] = None
    recorded_until: Annotated[
        reading.Bound | None, Field(description="Only events that were recorded by this instant.")
    ] = None

    @property
    def instant(self) -> datetime | None:
        """The instant by which the events were recorded: the earlier of the two ends."""
        ends = [at for name, at in self.instants().items() if name != "recorded_after"]
        return min(ends, default=None)

    def instants(self) -> dict[str, datetime]:
        """The requested instants. Raises Invalid."""
        names = ("recorded_after", "recorded_until")
        bounds = reading.bounds_of(self.calendar, self.recorded_after, self.recorded_until, *names)
        named = {"as_of": super().instant, **dict(zip(names, bounds, strict=True))}
        return {name: at for name, at in named.items() if at is not None}


class ShownInterval(msgspec.Struct):
    """An interval in one state with the same open causes; ``to`` is null while it lasts."""

    state: State
    causes: Sequence[Cause]
    from_: ViewInstant = msgspec.field(name="from")
    to: ViewInstant | None
    seconds: Annotated[float, msgspec.Meta(ge=0)]


class TimelineTotals(msgspec.Struct):
    """Seconds, zero-filled; an interval counts for every cause that is open in it."""

    by_state: Annotated[dict[State, float], keyed(State)]
    by_cause: Annotated[dict[Cause, float], keyed(Cause)]


class ShownTimeline(msgspec.Struct):
    """A line's states over time."""

    intervals: list[ShownInterval]
    totals: TimelineTotals


class ResourceHours(msgspec.Struct):
    """The hours of a resource; its id is null for check-ins that name no resource."""

    resource_id: str | None
    hours: float


class TokensByModel(msgspec.Struct):
    """The tokens of a model; under null, last, those of runs that do not name their models."""

    model: str | None
    tokens_used: int
    input: int | None
    output: int | None
    cache_read: Annotated[int | None, doc("A part of `input`, as is `cache_write`.")]
    cache_write: int | None
    reasoning: Annotated[int | None, doc("A part of `output`.")]


class UsageTotals(msgspec.Struct):
    """The check-ins, hours, runs and tokens that were used."""

    hours: float
    hours_by_resource: list[ResourceHours]
    check_ins: int
    runs: Annotated[dict[RunStatus, int], keyed(RunStatus)]
    tokens_used: int
    tokens_by_model: Annotated[list[TokensByModel], doc("Most tokens first.")]


class UsageDay(UsageTotals):
    """The usage on one day."""

    date: date


class ShownUsage(msgspec.Struct):
    """The usage of a line, in total and by day."""

    from_: ViewInstant = msgspec.field(name="from")
    to: ViewInstant
    total: UsageTotals
    by_day: list[UsageDay]


@read_route(
    router, "/{line_id}/history", PageOf[HistoryItem], STORY_ERRORS, summary="Show a line's history"
)
async def show_history(
    request: reading.ReadRequest, line_id: AnyLineId, query: HistoryQuery
) -> Response:
    """List the events of a line and of its runs in log order.

    Each event is shown with the line's state before and after it.
    """
    reading.require_id("service_line", line_id)
    recorded = query.instants()
    for name, at in recorded.items():
        await request.require_past(name, at)
    recorded_by = recorded.pop("as_of", LATEST)
    of_line = {"line": line_id, **recorded}
    after = {"after": 0} | _ORDER.after(query.cursor, of_line)
    tenant = request.tenant
    read = history_read(frozenset(tenant), query.is_past, frozenset(recorded))
    parameters = {
        **tenant,
        **recorded,
        "known_by": recorded_by,
        "line_id": line_id,
        **after,
        "limit": query.limit + 1,
    }
    rows = await request.rows(read, parameters, query)
    require_line(rows)
    return _ORDER.page(rows, query.limit, of_line, lambda row: history_item(row[2:]), key=2)


@read_route(
    router,
    "/{line_id}/timeline",
    AnswerOf[ShownTimeline],
    STORY_ERRORS,
    summary="Show a line's timeline",
)
async def show_timeline(
    request: reading.ReadRequest, line_id: AnyLineId, query: RangeQuery
) -> Response:
    """Show how long the line was in each state, and how long each cause blocked it."""
    reading.require_id("service_line", line_id)
    start, end = query.bounds()
    tenant = request.tenant
    # Read more turning points than intervals: those without length are no intervals.
    limit = 2 * MAX_INTERVALS
    read = timeline_read(frozenset(tenant), query.is_past)
    parameters = {
        **tenant,
        "from": start or EARLIEST,
        "to": end or LATEST,
        "line_id": line_id,
        "limit": limit,
    }
    now = request.instant(query)
    rows = await request.rows(read, parameters, query)
    require_line(rows)
    too_many = Invalid.at("/from", f"the range has more than {MAX_INTERVALS} intervals: narrow it")
    if len(rows) == limit:
        raise too_many
    points = [TurningPoint(row[2], row[3], frozenset(row[4])) for row in rows if row[2] is not None]
    found = intervals(points, start, end, now)
    if len(found) > MAX_INTERVALS:
        raise too_many
    timeline = ShownTimeline(
        [_interval(interval) for interval in found], TimelineTotals(*map(_seconds, totals(found)))
    )
    return answer(json_text(AnswerOf(timeline)), rows.position)


def _interval(interval: StateInterval) -> ShownInterval:
    since, until = time_text(interval.since), time_text(interval.until)
    length = interval.length.total_seconds()
    return ShownInterval(interval.state, interval.causes, since, until, length)


def _seconds(lengths: dict[Any, timedelta]) -> dict[Any, float]:
    return {name: length.total_seconds() for name, length in lengths.items()}


@read_route(
    router, "/{line_id}/usage", AnswerOf[ShownUsage], STORY_ERRORS, summary="Show a line's usage"
)
async def show_usage(
    request: reading.ReadRequest, line_id: AnyLineId, query: UsageQuery
) -> Response:
    """Show hours by resource, runs by status and tokens, in total and by day.

    Without `from` and `to` the answer covers the last 30 days.
    """
    reading.require_id("service_line", line_id)
    start, end = _wanted(query, request.instant(query))
    if (end - start).days > MAX_DAYS or len(days := query.calendar.days(start, end)) > MAX_DAYS:
        raise Invalid.at("/from", f"the range has more than {MAX_DAYS} days: narrow it")
    tenant = request.tenant
    read = usage_read(frozenset(tenant), query.is_past)
    spans = StateSpans([*(begin for _, begin, _ in days), end] if days else [start, end])
    parameters = {**tenant, "line_id": line_id, **spans.parameters, "limit": MAX_PAIRS}
    heavy = request.services.heavy
    is_long = query.is_past and len(days) > _DAYS_AT_ONCE
    async with heavy.slot(request.principal.tenant_key) if is_long else nullcontext():
        rows = await request.rows(read, parameters, query)
    require_line(rows)
    if rows[0][2] is not None and rows[0][4] is None:
        too_many = f"the range has more than {MAX_PAIRS} pairs of a day and a resource: narrow it"
        raise Invalid.at("/from", too_many)
    by_day, total = [Amounts() for _ in days], Amounts()
    for _, _, kind, span, amounts in rows:
        if kind is not None:
            _add(by_day[span - 1], kind, amounts)
    for used in by_day:
        total.add(used)
    data = {
        "from": format_instant(start),
        "to": format_instant(end),
        "total": total.rendered(),
        "by_day": [
            {"date": day.isoformat(), **used.rendered()}
            for (day, *_), used in zip(days, by_day, strict=True)
        ],
    }
    return answer(json_text({"data": data}), rows.position)


def _wanted(query: UsageQuery, now: datetime) -> tuple[datetime, datetime]:
    """The requested range; without ``to`` the last day is today."""
    calendar, (start, end) = query.calendar, query.bounds()
    if end is None:
        end = calendar.begin(calendar.date_of(now) + timedelta(days=1))
        if start is not None:
            end = max(start, end)
    if start is None:
        last = calendar.date_of(end)
        first = calendar.begin(last - timedelta(days=_DEFAULT_DAYS))
        start = first + (end - calendar.begin(last))
    return start, end


def _add(amounts: Amounts, kind: str, text: str) -> None:
    if kind == "hours":
        amounts.add_hours(_decode_hours(text))
    elif kind == "models":
        amounts.add_models((model, numbers) for model, *numbers in _decode_models(text))
    else:
        *runs, tokens = _decode_runs(text)
        amounts.add_runs(dict(zip(_COUNTED, runs, strict=True)))
        amounts.tokens += tokens


def require_line(rows: Answer) -> None:
    if rows[0][1] is None:
        raise reading.unknown("service_line", rows)
