"""Views of the board: filters and an order under a name, shown as tabs with their counts.

Some belong to everybody. A browser's cookie keeps a person's own views and name.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.lean import needs, parse_query
from ledger.engine.http.reading import ReadRequest
from ledger.engine.http.replies import AnswerOf
from ledger.engine.page.addresses import HOME, own_page, with_parameter
from ledger.engine.page.pages import PageRoute, go, read_answer
from ledger.engine.values.errors import Invalid
from ledger.features.lines.kept_views import COOKIE, SavedView, saved_in
from ledger.features.lines.routes import executions
from ledger.features.lines.routes.executions import Filters, LineCounts

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

_YEAR = 365 * 86_400

_MOST_BYTES = 3000
"""The limit of the saved views before encoding: a browser allows a cookie 4 KB."""

_PAGE_PARAMETERS = frozenset({"cursor", "before", "start", "limit", "done"})
"""A board's parameters that do not belong to a view."""

EVERYBODYS = (
    ("Needs a human", f"{HOME}?state=blocked"),
    ("Overdue", f"{HOME}?overdue=true&sort=due_at"),
    ("Nobody assigned", f"{HOME}?unassigned=true"),
)
"""The names and addresses of the views that every browser shows."""

MINE = "Mine"


class Tab(NamedTuple):
    """A view as the board shows it."""

    name: str
    address: str
    lines: int
    is_current: bool
    is_own: bool


class ViewForm(BaseModel):
    """A view to save or to delete, or the person's name as an assignee."""

    model_config = ConfigDict(extra="forbid")

    form_key: str
    board: str = Field(max_length=8000)
    name: str | None = Field(default=None, max_length=40)
    forget: str | None = Field(default=None, max_length=40)
    me: str | None = Field(default=None, max_length=200)


async def tabs_of(request: ReadRequest, board: str) -> Sequence[Tab]:
    """The views with their counts; ``board`` is the address of the current one.

    Each view requests a list, and counts in the share of lists. Raises RateLimited.
    """
    saved, current = saved_in(request.http), _of_view(board)
    mine = [(MINE, with_parameter(HOME, "assignee", saved.me))] if saved.me else []
    own = [(view.name, own_page(view.address)) for view in saved.views]
    views, everybodys = (*EVERYBODYS, *mine, *own), len(EVERYBODYS) + len(mine)
    request.http.state.share.count(request.services.shares.lists, len(views))
    counted = await asyncio.gather(*(_counted(request, address) for _, address in views))
    return [
        Tab(name, address, count, _of_view(address) == current, number >= everybodys)
        for number, ((name, address), count) in enumerate(zip(views, counted, strict=True))
        if count is not None
    ]


@router.post("/views", openapi_extra=needs("read"))
async def keep_view(request: ReadRequest, form: ViewForm) -> Response:
    """Save or delete a view, or the person's name, in this browser. Raises Invalid."""
    board, saved = own_page(form.board), saved_in(request.http)
    if form.me is not None:
        saved.me = form.me.strip()
        board = with_parameter(HOME, "assignee", saved.me or None)
    name = (form.name or "").strip()
    saved.views = [view for view in saved.views if view.name not in (name, form.forget)]
    if name:
        query = [
            pair for pair in parse_qsl(board.partition("?")[2]) if pair[0] not in _PAGE_PARAMETERS
        ]
        address = HOME
        for key, value in query:
            address = with_parameter(address, key, value)
        if await _counted(request, address) is None:
            raise Invalid.at("/board", "is no board of now")
        saved.views.append(SavedView(name, address))
    raw = msgspec.json.encode(saved)
    if len(raw) > _MOST_BYTES:
        raise Invalid.at("/name", "has no room: forget another view first")
    response = go(board)
    response.set_cookie(
        COOKIE,
        base64.urlsafe_b64encode(raw).rstrip(b"=").decode(),
        max_age=_YEAR,
        path="/ui",
        samesite="strict",
        httponly=True,
    )
    return response


def _of_view(address: str) -> frozenset[tuple[str, str]]:
    pairs = parse_qsl(address.partition("?")[2])
    return frozenset(pair for pair in pairs if pair[0] not in _PAGE_PARAMETERS)


async def _counted(request: ReadRequest, address: str) -> int | None:
    """The number of lines of a view; None if its address is not a board of the present."""
    pairs = [pair for pair in _of_view(address) if pair[0] != "sort"]
    path = HOME
    for name, value in sorted(pairs):
        path = with_parameter(path, name, value)
    try:
        filters = parse_query(path.partition("?")[2].encode(), Filters)
    except Invalid:
        return None
    assert isinstance(filters, Filters)
    if filters.is_past:
        return None
    answer = executions.summarize_executions(request, filters)
    return (await read_answer(answer, AnswerOf[LineCounts])).data.total
