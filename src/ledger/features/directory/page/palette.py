"""The page's search: the palette's results while a person types, and a page without script."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.lean import needs
from ledger.engine.http.problems import UNBUILT
from ledger.engine.http.reading import AsOf, Identifier, ReadRequest
from ledger.engine.http.replies import PageOf
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.navigation import ALERT_PAGES, pages_for
from ledger.engine.page.pages import PageRoute, go, of_organization, read_answer, show
from ledger.engine.values.errors import Behind, Forbidden, Invalid
from ledger.features.directory.entries import FILTER, Kind, entries_of
from ledger.features.directory.page.jump import page_of_id, writes_of_actor
from ledger.features.directory.routes.search import (
    MOST_CHARACTERS,
    Found,
    SearchQuery,
    SearchResults,
    search_names,
)
from ledger.features.watches.routes.sources import ShownSource, SourcesQuery, list_sources
from projections.directory.search.statements import FOUND
from projections.directory.search.words import fold, folded_name, sought

router = APIRouter(prefix="/ui/search", include_in_schema=False, route_class=PageRoute)


class Typed(BaseModel):
    """The text that a person searches."""

    model_config = ConfigDict(extra="forbid")

    q: str = Field(default="", max_length=MOST_CHARACTERS)
    as_of: AsOf = None

    @property
    def text(self) -> str:
        return self.q.strip()


class Offering(Typed):
    """The text that a person types into a field for ids of one type."""

    type: Literal["line", "project", "source"] | None = None
    """None for the text of the palette."""
    organization_id: Identifier = None
    """The organization that an administrator's field is about."""


class OnPages(NamedTuple):
    """A page, a source, or a workspace, project or person that filters the board."""

    type: str
    id: str
    name: str | None
    service_line_id: None = None


class Hit(NamedTuple):
    """A result on the page."""

    found: Found | OnPages
    path: str | None
    """The address of the result; None if no page shows it."""
    parameters: dict[str, str]
    line_name: str | None
    lines: int | None = None
    """Its lines on the board; None if it is no filter, or if the number is unknown."""


_KINDS: Mapping[Kind, str] = {"workspace": "workspace", "project": "project", "assignee": "person"}

_MOST = 5
"""The most workspaces, projects and people each, besides those that the API finds."""


@router.get("", openapi_extra=needs(None))
async def show_search(request: ReadRequest, query: Typed) -> Response:
    """Redirect to the page of an id, or show the results. Raises Forbidden without ``read``.

    An actor's id looks like any other: it leads to the actor's writes if nothing else has it.
    """
    path = await page_of_id(request, query.text)
    if path is not None:
        return go(with_parameter(path, "as_of", query.as_of))
    results = await _results(request, query.text) if request.principal.may("read") else []
    if not results and (writes := writes_of_actor(request.principal, query.text)) is not None:
        return go(writes)
    if not request.principal.may("read"):
        raise Forbidden("This credential may not read names.")
    return show(request.http, "search.html", text=query.text, results=results)


@router.get("/results", openapi_extra=needs("read"))
async def show_results(request: ReadRequest, query: Offering) -> Response:
    """The results as the palette, or a field for ids, shows them, without the frame of a page."""
    request = of_organization(request, query.organization_id)
    search = _sources if query.type == "source" else _results
    results = await search(request, query.text)
    if query.type is not None and results is not None:
        # A comma separates two ids, so an id with a comma cannot be chosen.
        found = (hit for hit in results if hit.found.type == query.type)
        results = [hit for hit in found if "," not in hit.found.id]
    return show(
        request.http,
        "palette_results.html",
        text=query.text,
        results=results,
        is_field=query.type is not None,
    )


async def _sources(request: ReadRequest, text: str) -> list[Hit]:
    """Sources whose names contain the text, among the hundred with the latest reports."""
    latest = await read_answer(list_sources(request, SourcesQuery(limit=100)), PageOf[ShownSource])
    found = [each.source for each in latest.data if fold(text) in fold(each.source)]
    return [Hit(OnPages("source", each, None), None, {}, None) for each in found[:FOUND]]


async def _results(request: ReadRequest, text: str) -> list[Hit] | None:
    """The API's results; None if the text has no usable word."""
    if not text:
        return None
    try:
        reply = await search_names(request, SearchQuery(q=text))
    except Invalid:
        return None
    found = msgspec.json.decode(reply.body, type=SearchResults).data
    on_board = {(hit.found.type, hit.found.id): hit for hit in await _on_board(request, text)}
    named = reply.line_names
    hits = [
        on_board.pop((each.type, each.id))
        if (each.type, each.id) in on_board
        else Hit(each, *_address(each), named.get(each.service_line_id or ""))
        for each in found
    ]
    left = on_board.values()
    more = [
        hit
        for kind in _KINDS.values()
        for hit in [hit for hit in left if hit.found.type == kind][:_MOST]
    ]
    names = {path: name for path, _, name, _ in pages_for(request.principal)} | dict(ALERT_PAGES)
    pages = [
        Hit(OnPages("page", path, name), path, {}, None)
        for path, name in names.items()
        if fold(name).startswith(fold(text))
    ]
    # Lines may fill the answer, and would then hide a workspace with the same name.
    return [*pages, *hits[: FOUND - len(more) - len(pages)], *more]


async def _on_board(request: ReadRequest, text: str) -> list[Hit]:
    """The board's filters whose names fit, those with the most lines first."""
    wanted = sought(text)
    if wanted is None or not wanted.words:
        return []
    hits = []
    for kind, type_ in _KINDS.items():
        try:
            entries, _ = await entries_of(request, kind)
        except (Behind, *UNBUILT):
            continue
        for entry in entries:
            is_found = wanted.fits_name(folded_name(entry.name or entry.id))
            if is_found and wanted.fits_id(entry.id):
                # A comma means "or" in a filter, so an id with a comma leads nowhere.
                path = None if "," in entry.id else "/ui"
                found = OnPages(type_, entry.id, entry.name)
                hits.append(Hit(found, path, {FILTER[kind]: entry.id}, None, entry.lines))
    return sorted(hits, key=lambda hit: -(hit.lines or 0))


def _address(found: Found) -> tuple[str | None, dict[str, str]]:
    match found.type:
        case "line" | "blocker":
            return f"/ui/lines/{found.service_line_id}", {}
        case "run":
            return f"/ui/runs/{found.id}", {}
        case "workspace":
            return "/ui", {"workspace_id": found.id}
        # A comma means "or" in a filter, so an id with a comma leads nowhere.
        case _ if "," in found.id:
            return None, {}
        case "project":
            return "/ui", {"project_tag": found.id}
        case _:
            return "/ui", {"resource_id": found.id}
