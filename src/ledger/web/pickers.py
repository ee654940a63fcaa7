"""Workspaces, projects and resources to choose from by name (GET ``/ui/directory``)."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.api.lean import needs
from ledger.api.problems import UNBUILT
from ledger.api.reading import Asking
from ledger.api.replies import PageOf
from ledger.api.routes import directory
from ledger.api.routes.directory import DirectoryQuery, ShownName
from ledger.domain.errors import Behind
from ledger.web.pages import HOME, PageRoute, own_page, read_answer, show, with_parameter

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

Kind = Literal["workspace", "project", "resource"]

FILTER: Mapping[Kind, str] = {
    "workspace": "workspace_id",
    "project": "project_tag",
    "resource": "resource_id",
}
"""The board's filter by each kind of entry."""

_LISTED = 30
"""The most entries of a panel; the page of the directory has all of them."""

_SEARCHED = 20
"""The most pages of the directory that are searched for a name."""


class Entries(NamedTuple):
    """The entries of a panel."""

    kind: Kind
    filter: str
    listed: Sequence[ShownName]
    """By name; those with the most lines if not all are listed."""
    has_more: bool


class DirectoryPageQuery(BaseModel):
    """The parameters of the page of the directory."""

    model_config = ConfigDict(extra="forbid")

    type: Kind
    name: str = Field(default="", max_length=200)
    """A part of the name or the id to look for."""
    next: str = Field(default=HOME, max_length=8000)
    """The board on which the chosen entry becomes a filter."""
    cursor: str | None = None


async def entries_for(asking: Asking, *, has_resources: bool) -> Sequence[Entries]:
    """The entries of the board's panels; nothing while the directory's view is being built."""
    found = []
    for kind in get_args(Kind):
        if kind == "resource" and not has_resources:
            continue
        try:
            page = await _read(asking, kind)
        except (Behind, *UNBUILT):
            continue
        most = sorted(page.data, key=lambda entry: -entry.lines)[:_LISTED]
        has_more = page.meta.has_more or len(page.data) > _LISTED
        found.append(Entries(kind, FILTER[kind], sorted(most, key=_by_name), has_more))
    return found


def names_of_entries(entries: Sequence[Entries], kind: Kind) -> Mapping[str, str]:
    """The names of the listed entries of a kind, by id."""
    listed = (entry for each in entries if each.kind == kind for entry in each.listed)
    return {entry.id: entry.name for entry in listed if entry.name}


@router.get("/directory", openapi_extra=needs("read"))
async def show_directory(asking: Asking, query: DirectoryPageQuery) -> Response:
    """All workspaces, projects or resources, or those with a text in name or id."""
    sought, cursor, found = query.name.strip().casefold(), query.cursor, []
    for _ in range(_SEARCHED if sought else 1):
        page = await _read(asking, query.type, cursor)
        found += [entry for entry in page.data if sought in _words(entry)]
        cursor = page.meta.cursor if page.meta.has_more else None
        if cursor is None:
            break
    board = own_page(query.next)
    for name in ("cursor", "before", "start"):
        board = with_parameter(board, name, None)
    return show(
        asking.request,
        "directory.html",
        query=query,
        board=board,
        entries=sorted(found, key=_by_name) if sought else found,
        cursor=cursor,
        addresses={
            entry.id: with_parameter(board, FILTER[query.type], entry.id) for entry in found
        },
    )


async def _read(asking: Asking, kind: Kind, cursor: str | None = None) -> PageOf[ShownName]:
    query = DirectoryQuery(type=kind, limit=100, cursor=cursor)
    answer = directory.list_directory(asking, query)
    return await read_answer(answer, PageOf[ShownName])


def _words(entry: ShownName) -> str:
    return f"{entry.name or ''}\n{entry.id}".casefold()


def _by_name(entry: ShownName) -> tuple[bool, str, str]:
    """Entries with a name come first, by name; the others by id."""
    return entry.name is None, (entry.name or "").casefold(), entry.id
