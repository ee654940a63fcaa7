"""The pages of all runs, of a line's runs, and of one run."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import Field

from ledger.engine.http import reading
from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Identifier, Query, ReadRequest, services_of, unknown
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.page import pages
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.log import COUNTED, PAGE_ROWS, WrittenRange, listed
from ledger.engine.page.showing import summary
from ledger.engine.reads.filters import ORGANIZATION, in_order
from ledger.features.feed.envelopes import HistoryItem
from ledger.features.feed.names import names_of_actors
from ledger.features.lines.names import name_of_line, named_lines, names_of_lines
from ledger.features.lines.routes.executions import AnyLineId
from ledger.features.runs import routes as runs
from ledger.features.runs.chart import chart_of, timed_of
from projections.feed.items import history_item
from projections.feed.statements import run_events_read
from projections.runs.shown import ShownRun
from projections.runs.statements import BY_NAME

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=pages.PageRoute)

_BARS = 100
_NAMES = tuple(each.name for each in BY_NAME)
_CHILDREN = 25
"""The most child runs on a run's page; a link leads to all of them."""
_EVENTS = 10


@reading.filtered_by(*BY_NAME)
class LineRunsQuery(runs.RunsQuery, WrittenRange):
    """The API's filters; a page has as many runs as the chart has bars by default."""

    limit: Annotated[int, Field(ge=1, le=100)] = _BARS


class AllRunsPageQuery(runs.AllRunsQuery, WrittenRange):
    """The API's filters of the runs of all lines."""

    limit: Annotated[int, Field(ge=1, le=100)] = PAGE_ROWS
    organization_id: Identifier = None


class RunsExportPageQuery(runs.RunsExportQuery):
    """The parameters of the API's export, of one organization."""

    organization_id: Identifier = None


@router.get("/lines/{line_id}/runs", openapi_extra=needs("read"))
async def show_line_runs(
    request: ReadRequest, line_id: AnyLineId, query: LineRunsQuery
) -> Response:
    """A line's runs, newest request first. Raises RunsNotSupported."""
    if (address := query.canonical(request.http)) is not None:
        return pages.go(address)

    async def read(of: Query) -> PageOf[ShownRun]:
        runs_query = query.model_copy(update={"as_of": of.as_of})
        if all(getattr(query, name) is None for name in _NAMES):
            answer = runs.runs_with_errors(request, line_id, runs_query)
        else:
            # The API's list of one line's runs lacks these filters; its list of all runs has them.
            fields = runs_query.model_dump(
                by_alias=True, include=set(runs.AllRunsQuery.model_fields)
            )
            of_line = runs.AllRunsQuery(**fields | {"service_line_id": line_id})
            answer = runs.all_runs_with_errors(request, of_line)
        return await pages.read_answer(answer, PageOf[ShownRun])

    page = await pages.read_as_of(read, query.as_of, "This line was not known yet at that time.")
    line_name = await name_of_line(request, line_id, query.as_of)
    return _runs_page(
        request.http,
        query,
        page,
        line_id=line_id,
        line_name=line_name,
        line_names={},
        organizations={},
        total=None,
    )


@router.get("/runs", openapi_extra=needs("read"))
async def show_all_runs(request: ReadRequest, query: AllRunsPageQuery) -> Response:
    """The runs of all lines, newest request first."""
    if (address := query.canonical(request.http)) is not None:
        return pages.go(address)
    request = pages.of_organization(request, query.organization_id)
    answer = runs.all_runs_with_errors(request, query)
    page = await pages.read_answer(answer, PageOf[ShownRun])
    lines = await named_lines(request, (r.service_line_id for r in page.data), query)
    return _runs_page(
        request.http,
        query,
        page,
        line_id=None,
        total=await runs.all_runs_counted(request, query, COUNTED),
        line_name=None,
        line_names={line: found.name for line, found in lines.items()},
        organizations={line: found.organization_id for line, found in lines.items()}
        if request.principal.is_admin
        else {},
    )


def _runs_page(
    request: Request,
    query: LineRunsQuery | AllRunsPageQuery,
    page: PageOf[ShownRun],
    line_id: str | None,
    **named: Any,
) -> Response:
    filters = in_order(query.filters, "status", "triggered_by", *_NAMES, "service_line_id")
    filters += [ORGANIZATION] if isinstance(query, AllRunsPageQuery) else []
    chosen = {each.name: getattr(query, each.name) for each in filters}
    chosen |= {"from": query.from_, "to": query.to}
    set_filters = {name: value for name, value in chosen.items() if value is not None}
    usual = PAGE_ROWS if line_id is None else _BARS
    return pages.show(
        request,
        "runs.html",
        line_id=line_id,
        path="/ui/runs" if line_id is None else f"/ui/lines/{line_id}/runs",
        query=query,
        chosen=chosen,
        **listed(request, page, set_filters),
        given_limit="" if query.limit == usual else query.limit,
        usual_limit=usual,
        chart=chart_of(page.data, query.instant or services_of(request).clock()),
        stream=_stream(line_id or chosen.get("service_line_id"), chosen.get("workspace_id")),
        filters=filters,
        **named,
    )


def _stream(line_id: str | None, workspace_id: str | None) -> str:
    """The stream of new events of these runs; each of its filters has a single value."""
    address = "/ui/stream"
    for name, value in (("service_line_id", line_id), ("workspace_id", workspace_id)):
        address = with_parameter(address, name, None if value and "," in value else value)
    return address


@router.get("/runs/export", openapi_extra=needs("read"))
async def export_runs(request: ReadRequest, query: RunsExportPageQuery) -> Response:
    """The API's export, authenticated by the session."""
    return await pages.as_file(
        runs.export_runs(pages.of_organization(request, query.organization_id), query)
    )


@router.get("/runs/{run_id}", openapi_extra=needs("read"))
async def show_run(request: ReadRequest, run_id: str, query: Query) -> Response:
    """A run with its input, its output and its events."""

    async def read(of: Query) -> ShownRun:
        answer = runs.show_run(request, run_id, of)
        return (await pages.read_answer(answer, AnswerOf[ShownRun])).data

    run = await pages.read_as_of(read, query.as_of, "This run was not known yet at that time.")
    events = await _events(request, run_id, query)
    children_query = runs.AllRunsQuery.model_validate(
        {"as_of": query.as_of, "parent_run_id": run.id, "limit": _CHILDREN}
    )
    answer = runs.all_runs_with_errors(request, children_query)
    children = await pages.read_answer(answer, PageOf[ShownRun])
    others = (child.service_line_id for child in children.data)
    now = query.instant or request.services.clock()
    timed = timed_of(run, now)
    waited = (run.started_at or run.completed_at or now) - run.requested_at
    return pages.show(
        request.http,
        "run.html",
        run=run,
        line_name=await name_of_line(request, run.service_line_id, query.as_of),
        line_names=await names_of_lines(request, others, query),
        timed=timed,
        children=[timed_of(child, now) for child in children.data],
        has_more_children=children.meta.has_more,
        waited=max(0.0, waited.total_seconds()),
        events=events,
        key_names=await names_of_actors(
            request, (event.actor for event in events), (event.reported_by for event in events)
        ),
        summary=summary,
    )


async def _events(request: ReadRequest, run_id: str, query: Query) -> list[HistoryItem]:
    tenant = request.tenant
    read = run_events_read(frozenset(tenant), query.is_past)
    parameters = {**tenant, "run_id": run_id, "limit": _EVENTS}
    rows = await request.rows(read, parameters, query)
    if rows[0][1] is None:
        raise unknown("run", rows)
    found = ",".join(history_item(row[2:]) for row in rows if row[2] is not None)
    return msgspec.json.decode(f"[{found}]", type=list[HistoryItem])
