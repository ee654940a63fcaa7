"""The page of a line: the reasons of its state, its history, and the operator's hold."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Response
from pydantic import Field

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.models import OptionalReason, Pausing
from ledger.engine.http.problems import UNBUILT, status_of
from ledger.engine.http.reading import Query, ReadRequest
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.http.writing import checked, execute_on
from ledger.engine.page import pages
from ledger.engine.page.addresses import HOME, here, sender, with_parameter
from ledger.engine.page.lag import MOST, lag_of
from ledger.engine.page.showing import summary, zone_of
from ledger.engine.values.errors import Behind, Invalid, InvalidState, LedgerError, Unavailable
from ledger.engine.values.principal import Principal
from ledger.engine.values.values import LATEST, MODELS_WITH_RUNS, format_id, format_instant
from ledger.features.directory.names import names_for
from ledger.features.feed.envelopes import Envelope, HistoryItem
from ledger.features.feed.names import names_of_actors
from ledger.features.feed.routes import feeds, stories
from ledger.features.feed.routes.stories import ShownUsage, UsageQuery
from ledger.features.lines.commands.lines import Pause, Resume
from ledger.features.lines.model import execution_events as events
from ledger.features.lines.model.health import PENALTY
from ledger.features.lines.names import name_of_line
from ledger.features.lines.page import history
from ledger.features.lines.page.board import query_of
from ledger.features.lines.page.board_pages import CURSOR, AdjacentPages, neighbours
from ledger.features.lines.page.standing import contrast, says
from ledger.features.lines.page.timeline import band_of, life_of
from ledger.features.lines.routes import executions
from ledger.features.lines.routes.executions import AnyLineId, Filters
from ledger.features.runs import routes as runs
from ledger.features.runs.chart import RunsChart, chart_of
from ledger.features.watches.alerts import alerts_of_line, keepers_of
from projections.lines.shown import LineDetail
from projections.runs.shown import ShownRun
from projections.watches.shown import ShownAlert

router = APIRouter(prefix="/ui/lines", include_in_schema=False, route_class=pages.PageRoute)

_LAST = history.milliseconds_of(LATEST)
_MONTH = r"^(?:19[0-9]{2}|20[0-8][0-9]|209[0-8])-(?:0[1-9]|1[0-2])$"
_From = Annotated[str | None, Field(alias="from", max_length=8000)]
_Cursor = Annotated[str | None, Field(pattern=CURSOR)]


# The latest pause or resume of a line after a position, if the reader's tenant has the line.
_HOLD = f"""
SELECT s.position, ledger.recorded_at(s.position), s.topic
FROM ledger.stored_events(ARRAY(
    SELECT generate_series(%(shown)s + 1, least(%(shown)s + {MOST}, ledger.log_end()))
)) AS s
WHERE s.stream = %(line_id)s AND s.topic = ANY(%(topics)s) ORDER BY s.position DESC LIMIT 1
"""


class LineQuery(Query):
    """The instant and month to show, and the slider's value if it was moved."""

    at: Annotated[int | None, Field(ge=0, lt=_LAST)] = None
    end: Annotated[int | None, Field(ge=0, lt=_LAST)] = None
    """The slider's right end, which means now; without script, a form sends it too."""
    month: Annotated[str | None, Field(pattern=_MONTH)] = None
    from_: _From = None
    """The board that the reader came from; without it, the page with the link."""
    place: _Cursor = None
    """The line's cursor on that board before it was paused or resumed."""


class ManageForm(pages.Form):
    """A pause or resume, whose reason the API's model validates, and the page's own parameters."""

    reason: str | None = None
    until: str | None = Field(default=None, max_length=40)
    exact: str | None = Field(default=None, max_length=40)
    month: Annotated[str | None, Field(pattern=_MONTH)] = None
    from_: _From = None
    place: _Cursor = None

    @property
    def parameters(self) -> dict[str, str | None]:
        """The parameters of the page to keep after the form is sent."""
        return {"month": self.month, "from": self.from_, "place": self.place}


class Entered(NamedTuple):
    """A form that was refused."""

    action: str
    form: ManageForm
    error: LedgerError


class UnshownHold(NamedTuple):
    """The event that last paused or resumed a line, and that the page does not show yet."""

    event_id: str
    type: str


class Month(NamedTuple):
    """A calendar month in UTC."""

    year: int
    number: int

    @property
    def name(self) -> str:
        """The month as in an address, ``2026-11``."""
        return f"{self.year:04}-{self.number:02}"

    def plus(self, months: int) -> "Month":
        year, month = divmod(self.year * 12 + self.number - 1 + months, 12)
        return Month(year, month + 1)


@router.get("/{line_id}", openapi_extra=needs("read"))
async def show_line(request: ReadRequest, line_id: AnyLineId, query: LineQuery) -> Response:
    """A line as it is or was. A place of the slider redirects to the page as of its instant."""
    if query.at is None:
        return await _page(request, line_id, query)
    point = await history.point_in(request, line_id, Query())
    # Before the first event the line was unknown.
    instant = max(history.instant_at(query.at), point.first.recorded_at)
    is_now = query.end is not None and query.at >= query.end
    is_now = is_now or instant > request.services.clock()
    address = with_parameter(with_parameter(here(request.http), "at", None), "end", None)
    return pages.go(with_parameter(address, "as_of", None if is_now else format_instant(instant)))


@command_route(router, "/{line_id}/pause", Pause, "service_lines:manage")
async def pause_line(request: ReadRequest, line_id: AnyLineId, form: ManageForm) -> Response:
    """Pause the line: put the operator's hold on."""
    return await _manage(request, line_id, form, "pause")


@command_route(router, "/{line_id}/change", Pause, "service_lines:manage")
async def change_pause(request: ReadRequest, line_id: AnyLineId, form: ManageForm) -> Response:
    """Give the operator's hold another reason and another end."""
    return await _manage(request, line_id, form, "change")


@command_route(router, "/{line_id}/resume", Resume, "service_lines:manage")
async def resume_line(request: ReadRequest, line_id: AnyLineId, form: ManageForm) -> Response:
    """Resume the line: lift the operator's hold."""
    return await _manage(request, line_id, form, "resume")


@router.get("/{line_id}/pause", openapi_extra=needs("read"))
@router.get("/{line_id}/resume", openapi_extra=needs("read"))
@router.get("/{line_id}/change", openapi_extra=needs("read"))
async def leave_form(request: ReadRequest, line_id: AnyLineId, query: LineQuery) -> Response:
    """Redirect the address of a refused form, opened as a page, to the line."""
    return pages.go(with_parameter(request.http.url.path.rpartition("/")[0], "as_of", query.as_of))


@router.get("/{line_id}/history", openapi_extra=needs("read"))
async def show_line_history(
    request: ReadRequest, line_id: AnyLineId, query: stories.HistoryQuery
) -> Response:
    """The events of a line and its runs in log order, also those between two instants."""
    found = await pages.read_answer(
        stories.show_history(request, line_id, query), PageOf[HistoryItem]
    )
    bounds = {"recorded_after": query.recorded_after, "recorded_until": query.recorded_until}
    return pages.show(
        request.http,
        "history.html",
        line_id=line_id,
        line_name=await name_of_line(request, line_id, None),
        events=found.data,
        bounds={name: query.calendar.instant(at) for name, at in bounds.items() if at},
        following=with_parameter(here(request.http), "cursor", found.meta.cursor)
        if found.meta.has_more
        else None,
        key_names=await names_of_actors(
            request, (each.actor for each in found.data), (each.reported_by for each in found.data)
        ),
        summary=summary,
    )


async def _manage(request: ReadRequest, line_id: str, form: ManageForm, action: str) -> Response:
    """Execute the command, then show the line; show a refusal at the form with its values."""
    command, model = (Resume, OptionalReason) if action == "resume" else (Pause, Pausing)
    form.reason = reason = pages.reason_of(form.reason)
    values: dict[str, Any] = {} if reason is None else {"reason": reason}
    try:
        if action != "resume":
            values["replace"] = action == "change"
            if form.until is not None:
                values["until"] = zone_of(request.http).meant("until", form.until, form.exact)
        sent = checked(values, model, pages.idempotency_of(request, form))
        fields = {"reason": reason} if sent.body is None else sent.body.model_dump()
        await execute_on(request, command, line_id, sent, **fields)
    except (Invalid, InvalidState, Unavailable) as error:
        query = LineQuery.model_validate(form.parameters)
        return await _page(request, line_id, query, Entered(action, form, error))
    address = f"/ui/lines/{line_id}"
    for name, value in form.parameters.items():
        address = with_parameter(address, name, value)
    return pages.go(address)


async def _page(
    request: ReadRequest, line_id: str, query: LineQuery, entered: Entered | None = None
) -> Response:
    async def read(of: Query) -> LineDetail:
        answer = executions.show_execution(request, line_id, of)
        return (await pages.read_answer(answer, AnswerOf[LineDetail])).data

    line = await pages.read_as_of(read, query.as_of, "This line was not known yet at that time.")
    now, zone = request.services.clock(), zone_of(request.http)
    instant = query.instant or now
    # The month in the chosen zone: in UTC, the next month may have begun already.
    last_month = _month_of(zone.local(instant))
    month = _month(query) or last_month
    present = line if query.as_of is None else await read(Query())
    board = _board(request, query)
    parameters = {"month": query.month, "from_": board}
    life, usage, point, runs_chart, names, openers = await asyncio.gather(
        life_of(request, line, query, instant),
        _usage(request, line_id, query, month),
        history.point_in(request, line_id, query),
        _runs(request, line, query, instant),
        names_for(request, [line]),
        _openers(request, line, query),
    )
    unshown, adjacent, alerts = await asyncio.gather(
        _unshown_hold(request, line_id, entered),
        _neighbours(request, line, query, board),
        _alerts(request, line_id, query),
    )
    events = (*point.until, *openers.values())
    ringing = [alert for alert in alerts if alert.status != "resolved"]
    actors = {hold.by for hold in line.holds} | {event.actor for event in events}
    actors |= keepers_of(ringing)
    reporters = {event.reported_by for event in events}
    reporters |= {blocker.reported_by for blocker in line.blockers}
    scale = history.scale_of(present, point, now)
    return pages.show(
        request.http,
        "line.html",
        200 if entered is None else status_of(entered.error),
        with_parameter(here(request.http), "from", board),
        line=line,
        names=names,
        key_names=await names_of_actors(request, actors, reporters),
        resource_names={resource.id: resource.name for resource in line.resources},
        openers=openers,
        ringing=ringing,
        contrast=contrast(line),
        says=says,
        path=f"/ui/lines/{line_id}",
        board=with_parameter(board or HOME, "as_of", query.as_of),
        beside=adjacent,
        kept=parameters,
        present=partial(_present, f"/ui/lines/{line_id}", board),
        query=query,
        penalty=PENALTY,
        lost=sum(PENALTY[signal.status] for signal in line.health.signals),
        band=None if life is None else band_of(life, line, alerts, instant, scale, zone),
        usage=usage,
        month=month,
        last_month=last_month,
        place=history.slider_of(point, scale, query.instant, zone),
        summary=summary,
        chart=runs_chart,
        entered=entered,
        unshown=unshown,
        may_manage=_may_manage(request.principal, query, line),
        may_acknowledge=request.principal.may("service_lines:manage") and not query.is_past,
        held=next((hold for hold in line.holds if hold.hold == "operator"), None),
    )


def _board(request: ReadRequest, query: LineQuery) -> str | None:
    came_from = query.from_ or sender(request.http) or ""
    address = came_from.partition("#")[0]
    return address if address.partition("?")[0] == HOME else None


async def _neighbours(
    request: ReadRequest, line: LineDetail, query: LineQuery, board: str | None
) -> AdjacentPages | None:
    """The line's neighbours on the board; None for the past and in a refresh."""
    is_refresh = request.http.headers.get("hx-target") == "view"
    if board is None or query.is_past or is_refresh:
        return None
    try:
        board_query = query_of(board)
    except Invalid:
        return None
    filters = Filters.model_construct(**board_query.values() | {"as_of": None})
    return await neighbours(request, filters, board_query.sort or "state_since", line, query.place)


def _present(path: str, board: str | None, month: str | None) -> str:
    return with_parameter(with_parameter(path, "month", month), "from", board)


def _may_manage(principal: Principal, query: Query, line: LineDetail) -> bool:
    return principal.may("service_lines:manage") and query.as_of is None and line.state != "closed"


def _month(query: LineQuery) -> Month | None:
    return _month_of(date.fromisoformat(f"{query.month}-01")) if query.month else None


def _month_of(day: date) -> Month:
    return Month(day.year, day.month)


async def _openers(request: ReadRequest, line: LineDetail, query: Query) -> Mapping[str, Envelope]:
    """The events that opened the line's blockers, by blocker, unless they are too old.

    The line has the credential that reported a blocker; the event also has the person.
    """
    if not line.blockers:
        return {}
    feed_query = feeds.FeedQuery(
        service_line_id=line.service_line_id, type="execution.blocked", limit=100
    )
    if query.instant is not None:
        beyond = format_instant(query.instant + timedelta(microseconds=1))
        feed_query = feed_query.model_copy(update={"to": beyond})
    answer = feeds.events_page(request, feed_query, is_backwards=True)
    found = (await pages.read_answer(answer, PageOf[Envelope])).data
    return {event.payload["blocker_id"]: event for event in reversed(found)}


async def _usage(
    request: ReadRequest, line_id: str, query: LineQuery, month: Month
) -> ShownUsage | None:
    """The month's usage; None if it has more rows than the API returns at once."""
    bounds: Mapping[str, Any] = {"from": f"{month.name}-01", "to": f"{month.plus(1).name}-01"}
    usage_query = UsageQuery(as_of=query.as_of, **bounds)
    answer = stories.show_usage(request, line_id, usage_query)
    try:
        return (await pages.read_answer(answer, AnswerOf[ShownUsage])).data
    except Invalid:
        return None


async def _alerts(request: ReadRequest, line_id: str, query: Query) -> Sequence[ShownAlert]:
    """The alerts of the line: all unresolved ones, the worst first, then the latest others.

    None while the view of alerts is missing: a new version builds it first.
    """
    try:
        unresolved, resolved = await asyncio.gather(
            alerts_of_line(request, line_id, query, status="open,acknowledged", sort="severity"),
            alerts_of_line(request, line_id, query, status="resolved"),
        )
    except (Behind, *UNBUILT):
        return ()
    return [*unresolved, *resolved]


async def _runs(
    request: ReadRequest, line: LineDetail, query: LineQuery, instant: datetime
) -> RunsChart | None:
    """The latest runs; None for a line whose execution model has no runs."""
    if line.execution_model not in MODELS_WITH_RUNS:
        return None
    runs_query = runs.RunsQuery(as_of=query.as_of, limit=100)
    answer = runs.runs_with_errors(request, line.service_line_id, runs_query)
    return chart_of((await pages.read_answer(answer, PageOf[ShownRun])).data, instant)


async def _unshown_hold(
    request: ReadRequest, line_id: str, entered: Entered | None
) -> UnshownHold | None:
    """The pause or resume that caused the refusal, if the page does not show it yet."""
    if entered is None or entered.error.code != InvalidState.code:
        return None
    topics = [events.Paused.TOPIC, events.Resumed.TOPIC]
    values = {"shown": lag_of(request.http).position or 0, "line_id": line_id, "topics": topics}
    for position, recorded_at, topic in await request.fetch(_HOLD, values):
        return UnshownHold(format_id("EVT", recorded_at.year, position), topic.partition("/")[0])
    return None
