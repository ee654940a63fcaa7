"""The pages of a line's runs, and of one run."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi import Query as QueryParameters
from pydantic import Field

from ledger.api import feed_models, models
from ledger.api.access.authentication import Authenticated
from ledger.api.lean import needs
from ledger.api.reading import Query, services_of
from ledger.api.routes import runs, stories
from ledger.api.routes.executions import AnyLineId
from ledger.domain.values import ENDED, RUN_STATUSES
from ledger.web import charts
from ledger.web.charts import Bar, Level
from ledger.web.history import as_known
from ledger.web.names import name_of_line
from ledger.web.pages import PageRoute, read_answer, show
from ledger.web.summary import summary

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

_HEIGHT = 180


class RunsPageQuery(runs.RunsQuery):
    """The API's filters; by default a page has as many runs as the chart has bars."""

    limit: Annotated[int, Field(ge=1, le=100)] = 100


class Timed(NamedTuple):
    """A run with its duration, so far if it is open; None if it never started."""

    run: models.RunModel
    seconds: float | None
    is_open: bool


class RunsChart(NamedTuple):
    """Runs as bars, oldest first."""

    runs: list[Timed]
    """Newest first, as in lists."""
    bars: list[tuple[Timed, Bar]]
    grid: list[Level]
    labels: list[tuple[Timed, Bar]]
    height: int
    counts: dict[str, int]
    """By status, without zeros."""


@router.get("/lines/{line_id}/runs", openapi_extra=needs("read"))
async def show_runs(
    request: Request,
    principal: Authenticated,
    line_id: AnyLineId,
    query: Annotated[RunsPageQuery, QueryParameters()],
) -> Response:
    """A line's runs, newest request first. Raises RunsNotSupported."""

    async def read(of: Query) -> models.RunList:
        asked = query.model_copy(update={"as_of": of.as_of})
        answer = runs.bare_runs(request, principal, line_id, asked)
        return await read_answer(answer, models.RunList)

    page = await as_known(read, query.as_of, "This line was not known yet at that time.")
    seen_at = query.instant or services_of(request).clock()
    chosen = {
        "status": query.status,
        "triggered_by": query.triggered_by,
        "from": query.from_,
        "to": query.to,
    }
    return show(
        request,
        "runs.html",
        line_id=line_id,
        line_name=await name_of_line(request, principal, line_id, query.as_of),
        query=query,
        chosen=chosen,
        given_limit="" if query.limit == 100 else query.limit,
        chart=chart_of(page.data, seen_at),
        cursor=page.meta.cursor if page.meta.has_more else None,
        statuses=RUN_STATUSES,
    )


@router.get("/runs/{run_id}", openapi_extra=needs("read"))
async def show_run(
    request: Request,
    principal: Authenticated,
    run_id: str,
    query: Annotated[Query, QueryParameters()],
) -> Response:
    """A run with its input, its output and its events."""

    async def read(of: Query) -> models.RunModel:
        answer = runs.show_run(request, principal, run_id, of)
        return (await read_answer(answer, models.RunAnswer)).data

    run = await as_known(read, query.as_of, "This run was not known yet at that time.")
    events = await read_answer(
        stories.show_run_events(request, principal, run_id, query), feed_models.HistoryPage
    )
    seen_at = query.instant or services_of(request).clock()
    timed = timed_of(run, seen_at)
    waited = (run.started_at or run.completed_at or seen_at) - run.requested_at
    return show(
        request,
        "run.html",
        run=run,
        line_name=await name_of_line(request, principal, run.service_line_id, query.as_of),
        timed=timed,
        waited=max(0.0, waited.total_seconds()),
        events=events.data,
        summary=summary,
    )


def timed_of(run: models.RunModel, seen_at: datetime) -> Timed:
    """A run with its duration, at ``seen_at`` if it is still open."""
    is_open = run.status not in ENDED
    if run.duration_ms is not None:
        return Timed(run, run.duration_ms / 1000, is_open)
    if is_open and run.started_at is not None:
        return Timed(run, max(0.0, (seen_at - run.started_at).total_seconds()), is_open)
    return Timed(run, None, is_open)


def chart_of(found: Sequence[models.RunModel], seen_at: datetime) -> RunsChart:
    """Runs, newest first, as bars on a logarithmic scale: a run may last milliseconds or weeks."""
    timed = [timed_of(run, seen_at) for run in found]
    rising = timed[::-1]
    grid = charts.levels((run.seconds or 0 for run in timed), _HEIGHT)
    bars = charts.bars([run.seconds for run in rising], grid, _HEIGHT)
    drawn = list(zip(rising, bars, strict=True))
    counts = {status: sum(run.status == status for run in found) for status in RUN_STATUSES}
    return RunsChart(
        timed,
        drawn,
        grid,
        [drawn[number] for number in charts.labelled(bars)],
        _HEIGHT,
        {status: count for status, count in counts.items() if count},
    )
