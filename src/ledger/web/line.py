"""The page of a line: why it stands as it does, how it got there, and the hold of the operator."""

import asyncio
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi import Query as QueryParameters
from pydantic import Field, ValidationError

from ledger.api import feed_models, models
from ledger.api.access.authentication import Authenticated
from ledger.api.lean import NoParameters, command_route, needs
from ledger.api.problems import status_of
from ledger.api.reading import Query, services_of
from ledger.api.routes import executions, runs, stories
from ledger.api.routes.executions import AnyLineId, OptionalReason, Reason
from ledger.api.routes.stories import PlaceQuery, RangeQuery
from ledger.api.writing import Sent, execute_on
from ledger.application.commands.lines import Pause, Resume
from ledger.domain.errors import Invalid, InvalidState, LedgerError, Unavailable
from ledger.domain.health import PENALTY
from ledger.domain.values import MODELS_WITH_RUNS, STATES, format_instant
from ledger.intake.envelope import pointers
from ledger.intake.principal import Principal
from ledger.web import charts
from ledger.web.charts import Label, Piece, TimeSpan
from ledger.web.history import HistoryPlace, as_known, place_of
from ledger.web.pages import (
    Form,
    PageRoute,
    go,
    here,
    idempotency_of,
    read_form,
    show,
    told,
    with_parameter,
)
from ledger.web.run import RunsChart, chart_of
from ledger.web.showing import Zone, zone_of
from ledger.web.summary import summary

router = APIRouter(prefix="/ui/lines", include_in_schema=False, route_class=PageRoute)

_MONTH = r"^(?:19[0-9]{2}|20[0-8][0-9]|209[0-8])-(?:0[1-9]|1[0-2])$"
_STRETCHES = (365, 30, 7, 1)
"""Days of a life too eventful to be drawn whole: the first of these that can be is shown."""
_LISTED = 200
"""Intervals in the table; the newest."""


class LineQuery(Query):
    """Which instant and which month are looked at; ``at`` is a place that the slider was put to."""

    at: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    month: Annotated[str | None, Field(pattern=_MONTH)] = None


class ManageForm(Form):
    """Why a line is paused or resumed; what a reason may be is the API's to say."""

    reason: str | None = None
    month: Annotated[str | None, Field(pattern=_MONTH)] = None
    """Which one the page shows, before and after."""


class Entered(NamedTuple):
    """What was sent and turned down."""

    action: str
    reason: str | None
    error: LedgerError


class Month(NamedTuple):
    """A calendar month in UTC."""

    year: int
    number: int

    @property
    def name(self) -> str:
        """As addresses have it."""
        return f"{self.year:04}-{self.number:02}"

    def plus(self, months: int) -> "Month":
        """So many months later."""
        year, month = divmod(self.year * 12 + self.number - 1 + months, 12)
        return Month(year, month + 1)


class Share(NamedTuple):
    """How long something held in all."""

    name: str
    seconds: float
    percent: float | None
    """Of the line's life until it closed; None for what came after."""


class Band(NamedTuple):
    """A line's life, drawn."""

    since: datetime
    until: datetime
    days: int | None
    """How much of it, where it is not the whole."""
    pieces: list[Piece]
    lanes: list[tuple[str, list[Piece]]]
    axis: list[Label]
    by_state: list[Share]
    by_cause: list[Share]
    listed: list[models.IntervalModel]
    """The newest first."""
    total: int


@router.get("/{line_id}", openapi_extra=needs("read"))
async def show_line(
    request: Request,
    principal: Authenticated,
    line_id: AnyLineId,
    query: Annotated[LineQuery, QueryParameters()],
) -> Response:
    """A line as it is, or as it was; a place in its history leads to the instant of it."""
    if query.at is None:
        return await _page(request, principal, line_id, query)
    asked = PlaceQuery(at=query.at)
    place = await told(
        stories.show_place(request, principal, line_id, asked), feed_models.PlaceAnswer
    )
    event = next(iter(place.data.until), place.data.first)
    is_now = query.at > place.data.last.position
    address = with_parameter(here(request), "at", None)
    return go(
        with_parameter(address, "as_of", None if is_now else format_instant(event.recorded_at))
    )


@command_route(router, "/{line_id}/pause", Pause, "service_lines:manage")
async def pause_line(
    request: Request,
    principal: Authenticated,
    line_id: AnyLineId,
    _: NoParameters,
) -> Response:
    """Put the operator's hold on."""
    return await _manage(request, principal, line_id, Pause, Reason)


@command_route(router, "/{line_id}/resume", Resume, "service_lines:manage")
async def resume_line(
    request: Request,
    principal: Authenticated,
    line_id: AnyLineId,
    _: NoParameters,
) -> Response:
    """Lift the operator's hold."""
    return await _manage(request, principal, line_id, Resume, OptionalReason)


@router.get("/{line_id}/pause", openapi_extra=needs("read"))
@router.get("/{line_id}/resume", openapi_extra=needs("read"))
async def leave_form(
    request: Request,
    principal: Authenticated,
    line_id: AnyLineId,
    query: Annotated[LineQuery, QueryParameters()],
) -> Response:
    """Who comes to the address of a form that was turned down is led to the line."""
    return go(with_parameter(request.url.path.rpartition("/")[0], "as_of", query.as_of))


async def _manage(
    request: Request,
    principal: Principal,
    line_id: str,
    command: type[Pause],
    model: type[Reason] | type[OptionalReason],
) -> Response:
    """Carry out, then show the line; where that is turned down, say why beside what was typed."""
    form = await read_form(request, ManageForm)
    # Blanks say nothing: whoever reads the history would find no reason.
    reason = (form.reason or "").replace("\r\n", "\n").strip() or None
    key = idempotency_of(request, principal, form)
    sent: Sent[Reason | OptionalReason]
    try:
        sent = Sent(model.model_validate({} if reason is None else {"reason": reason}), key, None)
    except ValidationError as error:
        sent = Sent(None, key, Invalid("The reason is not valid.", pointers(error, "")))
    try:
        await execute_on(request, principal, command, line_id, sent, reason=reason)
    except (Invalid, InvalidState, Unavailable) as error:
        action = "pause" if command is Pause else "resume"
        query = LineQuery(month=form.month)
        return await _page(request, principal, line_id, query, Entered(action, reason, error))
    return go(with_parameter(f"/ui/lines/{line_id}", "month", form.month))


async def _page(
    request: Request,
    principal: Principal,
    line_id: str,
    query: LineQuery,
    entered: Entered | None = None,
) -> Response:
    async def read(of: Query) -> models.ExecutionDetail:
        answer = executions.show_execution(request, principal, line_id, of)
        return (await told(answer, models.ExecutionAnswer)).data

    line = await as_known(read, query.as_of, "This line was not known yet at that instant.")
    seen_at = query.instant or services_of(request).clock()
    # Of an instant's local day: the last one of a month lies in the next month elsewhere.
    last_month = _month_of(zone_of(request).local(seen_at))
    month = _month(query) or last_month
    band, usage, place, runs_chart = await asyncio.gather(
        _band(request, principal, line, query, seen_at),
        _usage(request, principal, line_id, query, month),
        _place(request, principal, line_id, query),
        _runs(request, principal, line, query, seen_at),
    )
    return show(
        request,
        "line.html",
        200 if entered is None else status_of(entered.error),
        line=line,
        path=f"/ui/lines/{line_id}",
        query=query,
        penalty=PENALTY,
        lost=sum(PENALTY[signal.status] for signal in line.health.signals),
        band=band,
        usage=usage,
        month=month,
        last_month=last_month,
        place=place,
        summary=summary,
        chart=runs_chart,
        entered=entered,
        may_manage=_may_manage(principal, query, line),
        is_held=any(hold.hold == "operator" for hold in line.holds),
    )


def _may_manage(principal: Principal, query: Query, line: models.ExecutionDetail) -> bool:
    may = principal.is_admin or "service_lines:manage" in principal.permissions
    return may and query.as_of is None and line.state != "closed"


def _month(query: LineQuery) -> Month | None:
    return _month_of(date.fromisoformat(f"{query.month}-01")) if query.month else None


def _month_of(day: date) -> Month:
    return Month(day.year, day.month)


async def _usage(
    request: Request, principal: Principal, line_id: str, query: LineQuery, month: Month
) -> models.UsageModel | None:
    """The month's usage; None where that is more than is told at once."""
    bounds: Mapping[str, Any] = {"from": f"{month.name}-01", "to": f"{month.plus(1).name}-01"}
    asked = RangeQuery(as_of=query.as_of, **bounds)
    answer = stories.show_usage(request, principal, line_id, asked)
    try:
        return (await told(answer, models.UsageAnswer)).data
    except Invalid:
        return None


async def _place(
    request: Request, principal: Principal, line_id: str, query: LineQuery
) -> HistoryPlace:
    asked = PlaceQuery(as_of=query.as_of)
    answer = stories.show_place(request, principal, line_id, asked)
    return place_of((await told(answer, feed_models.PlaceAnswer)).data, query.as_of is None)


async def _runs(
    request: Request,
    principal: Principal,
    line: models.ExecutionDetail,
    query: LineQuery,
    seen_at: datetime,
) -> RunsChart | None:
    """The latest runs; None for a line that has none by its nature."""
    if line.execution_model not in MODELS_WITH_RUNS:
        return None
    asked = runs.RunsQuery(as_of=query.as_of, limit=100)
    answer = runs.bare_runs(request, principal, line.service_line_id, asked)
    return chart_of((await told(answer, models.RunList)).data, seen_at)


async def _band(
    request: Request,
    principal: Principal,
    line: models.ExecutionDetail,
    query: LineQuery,
    seen_at: datetime,
) -> Band | None:
    """The line's life; of one too eventful the end; None where even that cannot be drawn."""
    for days in (None, *_STRETCHES):
        since = None if days is None else format_instant(seen_at - timedelta(days=days))
        asked = RangeQuery(as_of=query.as_of, **{"from": since} if since else {})
        answer = stories.show_timeline(request, principal, line.service_line_id, asked)
        try:
            timeline = (await told(answer, models.TimelineAnswer)).data
        except Invalid:
            continue
        if timeline.intervals:
            return _drawn(timeline, line, seen_at, days, zone_of(request))
    return None


def _drawn(
    timeline: models.TimelineModel,
    line: models.ExecutionDetail,
    seen_at: datetime,
    days: int | None,
    zone: Zone,
) -> Band:
    since = timeline.intervals[0].from_
    until = max(seen_at, since)
    if line.closed_at is not None:
        # What came after the closing is no part of its life: a line that closed long ago would be
        # all "closed".
        until = min(until, max(since, line.closed_at) + (line.closed_at - since) / 12)
    pieces = [
        (interval, TimeSpan(interval.state, interval.from_, min(interval.to or until, until)))
        for interval in timeline.intervals
        if interval.from_ <= until
    ]
    lanes = [
        (cause, charts.lane((p for i, p in pieces if cause in i.causes), since, until))
        for cause, seconds in timeline.totals.by_cause.items()
        if seconds
    ]
    by_state = timeline.totals.by_state
    life = sum(seconds for state, seconds in by_state.items() if state != "closed")

    def shares(totals: Mapping[Any, float]) -> list[Share]:
        return [
            Share(name, seconds, None if name == "closed" or not life else 100 * seconds / life)
            for name, seconds in totals.items()
            if seconds or name == line.state
        ]

    return Band(
        since,
        until,
        days,
        charts.drawn(charts.band([piece for _, piece in pieces])),
        [(cause, charts.drawn(found)) for cause, found in lanes],
        charts.axis(zone.local(since), zone.local(until)),
        shares({state: by_state[state] for state in STATES}),
        shares(timeline.totals.by_cause),
        timeline.intervals[: -_LISTED - 1 : -1],
        len(timeline.intervals),
    )
