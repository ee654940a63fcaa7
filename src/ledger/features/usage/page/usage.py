"""The page "Month": the usage of many lines, as known now or at two instants (``/ui/usage``)."""

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Query, ReadRequest
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.page.addresses import here, with_parameter
from ledger.engine.page.pages import PageRoute, export_route, go, read_answer, show
from ledger.engine.page.showing import zone_of
from ledger.engine.values.errors import Invalid, NotFound
from ledger.engine.values.values import STATES
from ledger.features.lines.routes import executions
from ledger.features.lines.routes.executions import LongLinesQuery
from ledger.features.usage.model.comparison import OF_PERIOD
from ledger.features.usage.page import month_rows, scopes
from ledger.features.usage.page.periods import Period, common_periods, period_of
from ledger.features.usage.routes import usage
from ledger.features.usage.routes.compare import CompareQuery
from ledger.features.usage.routes.scope import LineFilters
from ledger.features.usage.routes.usage import LinesUsageQuery, UsagePage
from projections.lines.shown import LineDetail, ShownLine
from projections.usage.scope import SCOPE

router = APIRouter(prefix="/ui/usage", include_in_schema=False, route_class=PageRoute)

_ROWS = 100
_NOTHING, _SECOND = timedelta(), timedelta(seconds=1)

GROUPINGS: Mapping[str, str] = {
    "workspace": "workspace",
    "service_line": "line",
    "project": "project",
    "resource": "resource",
    "day": "day",
    "month": "month",
    "model": "model",
    "product_line": "product line",
    "execution_model": "execution model",
    "workspace,service_line": "workspace and line",
    "project,service_line": "project and line",
    "service_line,resource": "line and resource",
    "service_line,day": "line and day",
    "service_line,month": "line and month",
}
"""The groupings in the page's menu. The address of the page takes every grouping of the API."""

_SORT = "^-?(?:name|change|health|" + "|".join(month_rows.HEADS) + ")$"


class MonthQuery(LinesUsageQuery):
    """The API's parameters, with the page's order and its slice of rows."""

    sort: Annotated[str | None, Field(pattern=_SORT)] = None
    limit: Annotated[int, Field(ge=1, le=200)] = _ROWS
    start: Annotated[int, Field(ge=1, le=10**6)] = 1
    """The number of the first row on the page."""


@router.get("", openapi_extra=needs("read"))
async def show_month(request: ReadRequest, query: MonthQuery) -> Response:
    """Show a period's usage as a table; with ``as_of``, as known then and as known now."""
    if elsewhere := scopes.organization_first(request, query):
        return elsewhere
    address, clock = here(request.http), request.services.clock()
    if not {"from", "to", "time_zone"} <= {*request.http.query_params}:
        return go(_whole(request, query, address))
    if "group_by" not in query.model_fields_set:
        query = query.model_copy(update={"group_by": _usual(request, query)})
    found = await _read(request, query)
    now, has_more = found.data, found.meta.has_more
    then = (await _read(request, query, query.as_of)).data if query.is_past else None
    period = period_of(query.calendar, now.from_, now.to)
    lines = await _lines(request, query) if "service_line" in query.grouping.words else {}
    table = month_rows.Rows(query, scopes.changed(address), period, lines)
    rows = [*table.paired(None if then is None else then.rows, now.rows)]
    sort = query.sort or _order(query)
    rows.sort(
        key=partial(month_rows.sort_key_of, sort),
        reverse=sort.startswith("-") == sort.endswith("name"),
    )
    total = month_rows.amounts_of(now.total if then is None else then.total, now.total)
    of_lines = {row.line_id for row in rows} - {None}
    by_day = rows if query.group_by == "day" else await _by_day(request, query, table)
    charted = "hours" if total["hours"].now or total["runs"].now is None else "runs"
    return show(
        request.http,
        "usage.html",
        query=query,
        period=period,
        common=common_periods(query.calendar, clock),
        then=then,
        rows=rows[query.start - 1 :][: query.limit],
        count=len(rows),
        counted=_counted(query, rows),
        has_more=has_more,
        total=total,
        heads={
            name: label for name, label in month_rows.HEADS.items() if total[name].now is not None
        },
        today=query.calendar.date_of(clock),
        shown=_columns(query, rows),
        sort=sort,
        groupings=GROUPINGS,
        states=STATES,
        of_lines=len(of_lines),
        not_green=sum(
            line_id in of_lines and line.health_status in ("amber", "red")
            for line_id, line in lines.items()
        ),
        **(await _differing(request, query) if query.is_past else {}),
        charted=charted,
        days=month_rows.bars_of(
            by_day, charted, [day for day, *_ in query.calendar.days(now.from_, now.to)]
        ),
        closing=now.to if then is None and now.to <= clock else None,
        is_close=_is_close(query, period, now.to),
        statement=_statement(request, query, period, now.to <= clock),
        export=partial(
            scopes.exported, "/ui/usage/export", query, "from_", "to", "as_of", "group_by"
        ),
        **await scopes.scope_of(request, query, None),
    )


def _counted(query: MonthQuery, rows: Sequence[month_rows.MonthRow]) -> str:
    """The noun for the rows that the total counts; "row" if some row has no such key."""
    is_plain = len(query.grouping.words) == 1 and all(row.keys[0].value for row in rows)
    return GROUPINGS.get(query.group_by, "row") if is_plain else "row"


def _is_close(query: MonthQuery, period: Period, end: datetime) -> bool:
    """Return True if the page compares a whole month with what was known at its end."""
    then = query.instant
    return period.months == 1 and then is not None and _NOTHING <= end - then < _SECOND


def _whole(request: ReadRequest, query: MonthQuery, address: str) -> str:
    """The address with its period and time zone, so that the link means the same to everybody."""
    if "time_zone" not in request.http.query_params:
        zone = zone_of(request.http).name
        address = with_parameter(address, "time_zone", zone)
        query = query.model_copy(update={"time_zone": zone})
    start, end = query.period(request.services.clock())
    period = period_of(query.calendar, start, end)
    for name, value, day in (
        ("from", query.from_, period.first),
        ("to", query.to, period.beyond),
    ):
        address = with_parameter(address, name, value or f"{day}")
    return address


def _statement(
    request: ReadRequest, query: MonthQuery, period: Period, is_over: bool
) -> str | None:
    """The form that issues a statement of the period and scope; None without the permission."""
    narrower = {name for name in LineFilters.model_fields if getattr(query, name) is not None}
    may_issue = request.principal.may("statements:issue")
    is_scope = narrower <= {"time_zone", "organization_id", "workspace_id"}
    if not (may_issue and is_over and is_scope) or "," in (query.workspace_id or ""):
        return None
    return scopes.changed(
        "/ui/statements/new",
        organization_id=query.organization_id,
        workspace_id=query.workspace_id,
        first_day=period.first,
        last_day=period.last,
        time_zone=query.time_zone,
    )


def _usual(request: ReadRequest, query: MonthQuery) -> str:
    """The grouping that a scope suggests: its parts."""
    if scopes.one(query.service_line_id):
        return "day"
    is_all = (query.workspace_id, query.project_tag, query.service_line_id) == (None, None, None)
    return "workspace" if is_all and request.principal.workspace_id is None else "service_line"


def _columns(query: MonthQuery, rows: Sequence[month_rows.MonthRow]) -> Sequence[str]:
    """The amounts that are columns. A comparison has only the amounts of statements."""
    is_of_one = "service_line" in query.grouping.words or scopes.one(query.service_line_id)
    left_out = {"lines"} if is_of_one else set[str]()
    left_out |= {"lines", "check_ins", "failed"} if query.is_past else set()
    return [
        name
        for name in month_rows.HEADS
        if name not in left_out and rows and rows[0].amounts[name].now is not None
    ]


def _order(query: MonthQuery) -> str:
    if query.grouping.of_time:
        return "name"
    if query.is_past:
        return "change"
    return "tokens_used" if query.grouping.within_line == "model" else "hours"


async def _read(
    request: ReadRequest, query: LinesUsageQuery, as_of: str | None = None
) -> UsagePage:
    """Read several pages of the API into one answer."""
    values = query.model_dump(
        include={*LinesUsageQuery.model_fields}, by_alias=True, exclude_none=True
    )
    values |= {"as_of": as_of, "group_by": query.group_by, "limit": scopes.PAGE}

    def page(cursor: str | None) -> Awaitable[Response]:
        wanted = usage.LinesUsagePageQuery(**values, cursor=cursor)
        return usage.show_usage_of_lines(request, wanted)

    return await scopes.of_all_pages(page, UsagePage)


async def _lines(request: ReadRequest, query: MonthQuery) -> Mapping[str, ShownLine]:
    """The present state of the lines in scope, by id. Of very many, those of the worst health."""
    if line_id := scopes.one(query.service_line_id):
        answer = executions.show_execution(request, line_id, Query())
        with suppress(NotFound):
            return {line_id: (await read_answer(answer, AnswerOf[LineDetail])).data}
        return {}
    chosen = {each.name: getattr(query, each.name) for each in SCOPE}
    wanted = LongLinesQuery.model_construct(
        **chosen, sort="health_score", cursor=None, limit=scopes.PAGE
    )
    found = await read_answer(executions.lines_page(request, wanted), PageOf[ShownLine])
    return {line.service_line_id: line for line in found.data}


async def _differing(request: ReadRequest, query: MonthQuery) -> Mapping[str, Any]:
    """The lines whose numbers of the period differ, by id; None if too many or too old."""
    names = {*CompareQuery.model_fields} & {*LinesUsageQuery.model_fields}
    values = query.model_dump(include=names, by_alias=True, exclude_none=True)
    try:
        found = (
            await scopes.all_compared(request, CompareQuery(**values | {"then": query.as_of}))
        ).data
    except Invalid:
        return {"differing": None}
    differing = {
        row.service_line_id: row
        for row in found.rows
        if any(getattr(row, name).change for name in OF_PERIOD)
    }
    return {"differing": differing, "until": found.now}


async def _by_day(
    request: ReadRequest, query: MonthQuery, table: month_rows.Rows
) -> Sequence[month_rows.MonthRow]:
    """The rows of the period by day, for the chart."""
    by_day = query.model_copy(update={"group_by": "day"})
    now = (await _read(request, by_day)).data
    then = (await _read(request, by_day, query.as_of)).data.rows if query.is_past else None
    return table._replace(query=by_day).paired(then, now.rows)


export_route(router, "/export", usage.export_usage_of_lines)
