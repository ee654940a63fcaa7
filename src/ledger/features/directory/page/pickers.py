"""The values of the board's filters, to choose from by name (GET ``/ui/directory``).

The board's panels load the list when they are opened, and again while a person types.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Asking
from ledger.engine.http.replies import PageOf
from ledger.engine.page.addresses import HOME, own_page, with_parameter
from ledger.engine.page.pages import PageRoute, read_answer, show
from ledger.engine.values.errors import Invalid
from ledger.features.directory.routes import directory
from ledger.features.directory.routes.directory import (
    DirectoryQuery,
    OrganizationsQuery,
    ShownName,
    ShownOrganization,
)
from ledger.features.directory.routes.search import (
    MOST_CHARACTERS,
    SearchQuery,
    SearchResults,
    search_names,
)
from projections.directory.search.words import fold
from projections.lines.statements import assignees_read

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

Named = Literal["workspace", "project", "resource"]
Kind = Literal[Named, "assignee", "organization"]

FILTER: Mapping[Kind, str] = {
    "workspace": "workspace_id",
    "project": "project_tag",
    "resource": "resource_id",
    "assignee": "assignee",
    "organization": "organization_id",
}
"""The board's filter by each kind of entry."""

OF_PAST: Sequence[Kind] = ("workspace", "project")
"""The kinds of which a board of the past knows."""

_SHOWN = 200
"""The entries of a page of the list."""

_READ = 20
"""The most pages of the API that are read; of more entries, the search finds those by name."""


class DirectoryPageQuery(BaseModel):
    """The parameters of the list."""

    model_config = ConfigDict(extra="forbid")

    type: Kind
    name: str = Field(default="", max_length=MOST_CHARACTERS)
    """A part of the name or the id to look for."""
    next: str = Field(default=HOME, max_length=8000)
    """The board on which the chosen entry becomes a filter."""
    start: int = Field(default=0, ge=0, le=10**6)
    """How many entries stand on the pages before."""


def kinds_for(asking: Asking, *, is_past: bool) -> Sequence[Kind]:
    """The kinds that the board offers: only administrators see several organizations."""
    kinds: Sequence[Kind] = OF_PAST if is_past else (*get_args(Named), "assignee")
    return (*kinds, "organization") if asking.principal.is_admin and not is_past else kinds


async def names_of_resources(asking: Asking, ids: Sequence[str]) -> Mapping[str, str]:
    """The names of these resources, by id, of those that are among the first of the directory."""
    if not any(ids):
        return {}
    found, _ = await entries_of(asking, "resource")
    return {entry.id: entry.name for entry in found if entry.id in ids and entry.name}


@router.get("/directory", openapi_extra=needs("read"))
async def show_directory(asking: Asking, query: DirectoryPageQuery) -> Response:
    """All entries of a kind by name, or those with a text in name or id."""
    found, has_more = await entries_of(asking, query.type)
    if sought := fold(query.name.strip()):
        found = [entry for entry in found if sought in _words(entry)]
        if has_more:
            found += await _searched(asking, query, {entry.id for entry in found})
    found.sort(key=_by_name)
    board = own_page(query.next)
    for name in ("cursor", "before", "start"):
        board = with_parameter(board, name, None)
    page = found[query.start : query.start + _SHOWN]
    following = query.start + _SHOWN
    return show(
        asking.request,
        "directory.html",
        query=query,
        board=board,
        entries=page,
        is_cut=has_more and not sought,
        following=following if following < len(found) else None,
        addresses={entry.id: with_parameter(board, FILTER[query.type], entry.id) for entry in page},
        nobody=with_parameter(board, "unassigned", "true") if query.type == "assignee" else None,
    )


async def entries_of(asking: Asking, kind: Kind) -> tuple[list[ShownName], bool]:
    """The entries of a kind, and whether there are more of them than are read."""
    found: list[ShownName] = []
    if kind == "assignee":
        most = 100 * _READ
        tenant = asking.tenant
        parameters = {**tenant, "limit": most + 1}
        rows = await asking.rows(assignees_read(frozenset(tenant)), parameters)
        found = [ShownName(name, None, lines) for _, name, lines in rows if name is not None]
        return found[:most], len(found) > most
    cursor: str | None = None
    for _ in range(_READ):
        page = await _page(asking, kind, cursor)
        found += page.data
        if not page.meta.has_more:
            return found, False
        cursor = page.meta.cursor
    return found, True


async def _page(
    asking: Asking, kind: Named | Literal["organization"], cursor: str | None
) -> PageOf[ShownName]:
    if kind != "organization":
        query = DirectoryQuery(type=kind, limit=100, cursor=cursor)
        return await read_answer(directory.list_directory(asking, query), PageOf[ShownName])
    asking.principal.require("admin")
    asked = OrganizationsQuery(limit=100, cursor=cursor)
    answer = directory.list_organizations(asking, asked)
    page = await read_answer(answer, PageOf[ShownOrganization])
    return PageOf([ShownName(o.organization_id, None, o.lines) for o in page.data], page.meta)


async def _searched(asking: Asking, query: DirectoryPageQuery, known: set[str]) -> list[ShownName]:
    """Entries that the search of names finds, beside the known ones."""
    try:
        reply = await search_names(asking, SearchQuery(q=query.name))
    except Invalid:  # no usable word
        return []
    results = msgspec.json.decode(reply.body, type=SearchResults).data
    return [
        ShownName(each.id, each.name, 0)
        for each in results
        if each.type == query.type and each.id not in known
    ]


def _words(entry: ShownName) -> str:
    return fold(f"{entry.name or ''}\n{entry.id}")


def _by_name(entry: ShownName) -> tuple[bool, str, str]:
    """Entries with a name come first, by name; the others by id."""
    return entry.name is None, fold(entry.name or ""), entry.id
