"""The values of the board's filters, to choose from by name (GET ``/ui/directory``).

The board's panels load the list when they open, and again while a person types.
"""

from functools import partial

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import ReadRequest
from ledger.engine.page.addresses import HOME, own_page, with_parameter
from ledger.engine.page.pages import PageRoute, show
from ledger.engine.values.errors import Invalid
from ledger.features.directory.entries import FILTER, Kind, entries_of
from ledger.features.directory.routes.directory import ShownName
from ledger.features.directory.routes.search import (
    MOST_CHARACTERS,
    SearchQuery,
    SearchResults,
    search_names,
)
from projections.directory.search.words import fold

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

_ROWS = 200


class DirectoryPageQuery(BaseModel):
    """The parameters of the list."""

    model_config = ConfigDict(extra="forbid")

    type: Kind
    name: str = Field(default="", max_length=MOST_CHARACTERS)
    next: str = Field(default=HOME, max_length=8000)
    """The board on which the chosen entry becomes a filter."""
    start: int = Field(default=0, ge=0, le=10**6)


@router.get("/directory", openapi_extra=needs("read"))
async def show_directory(request: ReadRequest, query: DirectoryPageQuery) -> Response:
    """All entries of a kind by name, or those with a text in name or id."""
    found, has_more = await entries_of(request, query.type)
    if sought := fold(query.name.strip()):
        found = [entry for entry in found if sought in _words(entry)]
        if has_more:
            found += await _searched(request, query, {entry.id for entry in found})
    found.sort(key=_by_name)
    board = own_page(query.next)
    for name in ("cursor", "before", "start"):
        board = with_parameter(board, name, None)
    page = found[query.start : query.start + _ROWS]
    following = query.start + _ROWS
    return show(
        request.http,
        "directory.html",
        query=query,
        board=board,
        entries=page,
        is_cut=has_more and not sought,
        following=following if following < len(found) else None,
        address=partial(with_parameter, board),
        filter=FILTER[query.type],
    )


async def _searched(
    request: ReadRequest, query: DirectoryPageQuery, listed: set[str]
) -> list[ShownName]:
    """Entries that the search of names finds, apart from the listed ones."""
    try:
        reply = await search_names(request, SearchQuery(q=query.name))
    except Invalid:  # no usable word
        return []
    results = msgspec.json.decode(reply.body, type=SearchResults).data
    return [
        ShownName(each.id, each.name, 0)
        for each in results
        if each.type == query.type and each.id not in listed
    ]


def _words(entry: ShownName) -> str:
    return fold(f"{entry.name or ''}\n{entry.id}")


def _by_name(entry: ShownName) -> tuple[bool, str, str]:
    return entry.name is None, fold(entry.name or ""), entry.id
