"""The board: lines that need a human first, and the worst of each state first (GET ``/ui``)."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ledger.engine.http.lean import needs, parse_query
from ledger.engine.http.reading import ReadRequest
from ledger.engine.http.replies import AnswerOf
from ledger.engine.page.addresses import here, with_parameter
from ledger.engine.page.pages import PageRoute, export_route, go, read_answer, show
from ledger.engine.page.showing import COLUMNS, columns_of
from ledger.engine.reads.filters import in_order
from ledger.engine.values.values import CAUSES, MODELS_WITH_RUNS
from ledger.features.directory.entries import kinds_for, names_of_resources
from ledger.features.directory.names import names_for
from ledger.features.feed.names import names_of_actors
from ledger.features.feed.routes import streams
from ledger.features.lines.kept_views import saved_in
from ledger.features.lines.page.board_pages import BOARD_ORDER, CURSOR, MOST, BoardPage, read_page
from ledger.features.lines.page.views import tabs_of
from ledger.features.lines.routes import executions
from ledger.features.lines.routes.executions import Filters, LineCounts
from ledger.features.lines.words import chips_of, title_of
from projections.lines.rank import NEVER_DUE
from projections.lines.shown import LineDetail, ReportedBlocker

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

_ROWS = 50
_BLOCKERS = 4
"""Blockers in a line's details on the board; the line's page shows more."""

Order = Literal["state_since", "health_score", "due_at", "record"]

ORDERS: Mapping[Order, str] = {
    "state_since": "time in state",
    "health_score": "health",
    "due_at": "due time",
    "record": "newest record",
}
"""The orders of lines within their states, and their labels."""


class BoardQuery(Filters):
    """The API's filters, with the page's own orders, cursors and limit."""

    sort: Order | None = None
    limit: Annotated[int, Field(ge=1, le=MOST)] = _ROWS
    cursor: str | None = Field(default=None, pattern=CURSOR)
    before: str | None = Field(default=None, pattern=CURSOR)
    """The page ends before this cursor; with ``cursor``, it begins after it."""
    start: Annotated[int, Field(ge=1, le=10**9)] = 1
    """The number of the page's first line in the whole list, as of the click on the link."""


def query_of(address: str) -> BoardQuery:
    """The parameters of a board's address. Raises Invalid."""
    query = address.partition("?")[2]
    found = parse_query(query.encode("ascii", "replace"), BoardQuery)
    assert isinstance(found, BoardQuery)
    return found


@router.get("", openapi_extra=needs("read"))
async def show_board(request: ReadRequest, query: BoardQuery) -> Response:
    """Counts by state and cause, then lines: blocked, paused, and the rest, page by page."""
    tabs = () if query.is_past else await tabs_of(request, here(request.http))
    filters = _filters(query)
    orders = {
        name: label for name, label in ORDERS.items() if name != "due_at" or not query.is_past
    }
    order: Order = query.sort if query.sort in orders else "state_since"
    matching = await _summary(request, filters)
    page = await read_page(
        request,
        filters,
        BoardPage(order, query.limit, query.cursor, query.before, query.start),
        matching,
    )
    if page is None:
        return go(with_parameter(with_parameter(here(request.http), "before", None), "start", None))
    # A count is the number of lines behind its link: all filters apply except state and cause.
    others = filters.model_copy(update={"state": None, "blocked_cause": None})
    counts = await _summary(request, others)
    everything = await _summary(request, Filters(as_of=query.as_of))
    lines = [line for group in page.groups for line in group.lines]
    marks = (query.workspace_id, query.project_tag)
    chosen_ids = [word for words in marks if words for word in words.split(",")]
    names = {
        **await names_for(request, lines, chosen_ids),
        **await names_of_resources(request, (query.resource_id or "").split(",")),
    }
    workspace = _only(query.workspace_id)
    chips = chips_of(query, names)
    address = partial(_address, request.http)
    return show(
        request.http,
        "board.html",
        names=names,
        key_names=await names_of_actors(request, {h.by for line in lines for h in line.holds}),
        query=query,
        # The instant is not a filter: it does not select lines.
        chosen={name: getattr(query, name) for name in _NAMES},
        chips=chips,
        title=title_of(chips),
        address=address,
        cleared=address(**dict.fromkeys(_NAMES)),
        in_order=in_order,
        order=order,
        orders=orders,
        counts=counts,
        everything=everything.total,
        page=page,
        given_limit="" if query.limit == _ROWS else query.limit,
        states=BOARD_ORDER,
        most_blockers=_BLOCKERS,
        in_turn=partial(_in_order, query),
        only_workspace=names.get(workspace or "") or workspace,
        columns=COLUMNS,
        extras=[
            *(["organization"] if request.principal.is_admin and not query.organization_id else []),
            *columns_of(request.http),
        ],
        stream=with_parameter("/ui/stream", "workspace_id", workspace),
        causes=CAUSES,
        models_with_runs=MODELS_WITH_RUNS,
        exported=partial(_exported, query, order),
        pickers=kinds_for(request, is_past=query.is_past),
        tabs=tabs,
        me=saved_in(request.http).me,
        may_manage=request.principal.may("service_lines:manage") and not query.is_past,
    )


_NAMES = tuple(each.name for each in Filters.filters)


def _address(request: Request, **changes: Any) -> str:
    """The first page of this board with other filters or another order."""
    found = here(request)
    for name in ("cursor", "before", "start"):
        changes.setdefault(name, None)
    for name, value in changes.items():
        found = with_parameter(found, name, None if value is None else str(value))
    return found


def _exported(query: BoardQuery, order: Order, format: str) -> str:
    sort = None if order == "record" else order
    address = "/ui/export"
    for name, value in {**_filters(query).values(), "sort": sort, "format": format}.items():
        address = with_parameter(address, name, value)
    return address


def _in_order(query: BoardQuery, line: LineDetail, nobody: str | None) -> list[ReportedBlocker]:
    """The blockers of a line; its row shows the first one.

    Blockers that match a filter of causes or assignees come first, then by due time; blockers
    without a due time are in order of opening.
    """
    causes, assignees = (
        set((words or "").split(",")) for words in (query.blocked_cause, query.assignee)
    )

    def rank(blocker: ReportedBlocker) -> tuple[bool, bool, datetime]:
        if query.assignee is None:
            is_of_others = bool(nobody and blocker.assignee)
        else:
            is_of_others = blocker.assignee not in assignees
        return blocker.cause not in causes, is_of_others, blocker.due_at or NEVER_DUE

    return sorted(line.blockers, key=rank)


def _only(words: str | None) -> str | None:
    """A filter's value if it is a single one: the stream accepts no lists."""
    return words if words is not None and "," not in words else None


def _filters(query: BoardQuery) -> Filters:
    """The filters that apply: a board of the past ignores those of the present, and says so."""
    of_now = {each.name: None for each in Filters.filters if each.then is None}
    return Filters.model_construct(**query.values() | (of_now if query.is_past else {}))


async def _summary(request: ReadRequest, filters: Filters) -> LineCounts:
    answer = executions.summarize_executions(request, filters)
    return (await read_answer(answer, AnswerOf[LineCounts])).data


export_route(router, "/export", executions.export_executions)


@router.get("/stream", openapi_extra=needs("read"))
async def follow(request: ReadRequest, query: streams.StreamQuery) -> Response:
    """The API's event stream, for the page's script."""
    return await streams.stream_events(request.http, request.principal, query)
