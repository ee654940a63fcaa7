"""The board: lines that need a human first, then all others (GET ``/ui``)."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi import Query as QueryParameters
from pydantic import Field

from ledger.api import models
from ledger.api.access.authentication import Authenticated
from ledger.api.lean import needs
from ledger.api.problems import InvalidCursor
from ledger.api.reading import split_words
from ledger.api.routes import executions, streams
from ledger.api.routes.executions import Filters, LinesQuery
from ledger.domain.values import CAUSES, EXECUTION_MODELS, PRODUCT_LINES, State
from ledger.intake.principal import Principal
from ledger.web.names import names_for
from ledger.web.pages import PageRoute, read_answer, show, with_parameter

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

BOARD_ORDER: tuple[State, ...] = ("blocked", "paused", "running", "idle", "closed")
"""The order of the board: lines that need a human come first."""

_PAGE = 50
_MOST = 1000
_BLOCKERS = 4
"""Blockers shown for a line on the board, the oldest ones; the line's page shows more."""


class BoardQuery(LinesQuery):
    """The API's filters, with a higher limit."""

    limit: Annotated[int, Field(ge=1, le=_MOST)] = _PAGE
    cursor: str | None = Field(default=None, pattern=r"^(?:" + "|".join(BOARD_ORDER) + r")~")


class Group(NamedTuple):
    """The lines of one state on a page."""

    state: str
    lines: Sequence[models.ExecutionDetail]


class _Lines(models.Model):
    """A page of lines with all their fields."""

    data: list[models.ExecutionDetail]
    meta: models.Meta


@router.get("", openapi_extra=needs("read"))
async def show_board(
    request: Request,
    principal: Authenticated,
    query: Annotated[BoardQuery, QueryParameters()],
) -> Response:
    """Counts by state and cause, then lines: blocked, paused, and the rest, page by page."""
    # A count shows how many lines its link leads to: all filters apply except state and cause.
    others = Filters(**_filters(query) | {"state": None, "blocked_cause": None})
    counts = await read_answer(
        executions.summarize_executions(request, principal, others), models.SummaryAnswer
    )
    groups, cursor = await _walk(request, principal, query, counts.data)
    shown = [line for group in groups for line in group.lines]
    return show(
        request,
        "board.html",
        names=await names_for(request, principal, shown),
        query=query,
        # The instant is no filter: it selects no lines among others.
        chosen={name: value for name, value in _filters(query).items() if name != "as_of"},
        counts=counts.data,
        groups=groups,
        given_limit="" if query.limit == _PAGE else query.limit,
        cursor=cursor,
        states=BOARD_ORDER,
        most_blockers=_BLOCKERS,
        stream=with_parameter("/ui/stream", "workspace_id", _only(query.workspace_id)),
        causes=CAUSES,
        models=EXECUTION_MODELS,
        product_lines=PRODUCT_LINES,
    )


def _only(words: str | None) -> str | None:
    """The value of a filter if it is a single one: the stream accepts no lists."""
    return words if words is not None and "," not in words else None


def _filters(query: Filters) -> dict[str, Any]:
    return {name: getattr(query, name) for name in Filters.model_fields}


async def _walk(
    request: Request, principal: Principal, query: BoardQuery, counts: models.SummaryModel
) -> tuple[list[Group], str | None]:
    """The groups of a page, and the cursor of the next page if there is one.

    The board's cursor is a state and the API's cursor among the lines of that state.
    """
    asked = split_words(query.state) or BOARD_ORDER
    wanted = [state for state in BOARD_ORDER if state in asked and counts.by_state[state]]
    after: str | None = None
    if query.cursor is not None:
        begin, _, after = query.cursor.partition("~")
        if begin not in asked:
            raise InvalidCursor("The cursor is not valid for these filters.")
        # The cursor's own state is always read: the API then validates the rest of the cursor.
        beyond = BOARD_ORDER[BOARD_ORDER.index(begin) :]
        wanted = [state for state in beyond if state == begin or state in wanted]
    groups: list[Group] = []
    left = query.limit
    for state in wanted:
        if left == 0:
            return groups, f"{state}~"
        part = query.model_copy(update={"state": state, "cursor": after or None, "limit": left})
        page = await read_answer(executions.whole_lines(request, principal, part), _Lines)
        after = None
        if page.data:
            groups.append(Group(state, page.data))
        if page.meta.has_more:
            return groups, f"{state}~{page.meta.cursor}"
        left -= len(page.data)
    return groups, None


@router.get("/stream", openapi_extra=needs("read"))
async def follow(
    request: Request,
    principal: Authenticated,
    query: Annotated[streams.StreamQuery, QueryParameters()],
) -> Response:
    """The API's event stream, for the page's script."""
    return await streams.stream_events(request, principal, query)
