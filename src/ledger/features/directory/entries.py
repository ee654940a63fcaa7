"""The directory's entries that pages offer: workspaces, projects, resources and more."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from ledger.engine.http.reading import ReadRequest
from ledger.engine.http.replies import PageOf
from ledger.engine.page.pages import read_answer
from ledger.features.directory.routes import directory
from ledger.features.directory.routes.directory import (
    DirectoryQuery,
    OrganizationsQuery,
    ShownName,
    ShownOrganization,
)
from projections.lines.statements import assignees_read

Named = Literal["workspace", "project", "resource"]
Kind = Literal[Named, "assignee", "organization"]

FILTER: Mapping[Kind, str] = {
    "workspace": "workspace_id",
    "project": "project_tag",
    "resource": "resource_id",
    "assignee": "assignee",
    "organization": "organization_id",
}

OF_PAST: Sequence[Kind] = ("workspace", "project")
"""The kinds that a board of the past has."""

_READ = 20
"""The most pages of the API to read; the search finds further entries by name."""


def kinds_for(request: ReadRequest, *, is_past: bool) -> Sequence[Kind]:
    """The kinds that the board offers: only administrators see several organizations."""
    kinds: Sequence[Kind] = OF_PAST if is_past else (*get_args(Named), "assignee")
    return (*kinds, "organization") if request.principal.is_admin and not is_past else kinds


async def names_of_resources(request: ReadRequest, ids: Sequence[str]) -> Mapping[str, str]:
    """The names of these resources by id, for those among the first of the directory."""
    if not any(ids):
        return {}
    found, _ = await entries_of(request, "resource")
    return {entry.id: entry.name for entry in found if entry.id in ids and entry.name}


async def entries_of(request: ReadRequest, kind: Kind) -> tuple[list[ShownName], bool]:
    """The entries of a kind, and True if there are more than were read."""
    found: list[ShownName] = []
    if kind == "assignee":
        most = 100 * _READ
        tenant = request.tenant
        parameters = {**tenant, "limit": most + 1}
        rows = await request.rows(assignees_read(frozenset(tenant)), parameters)
        found = [ShownName(name, None, lines) for _, name, lines in rows if name is not None]
        return found[:most], len(found) > most
    cursor: str | None = None
    for _ in range(_READ):
        page = await _page(request, kind, cursor)
        found += page.data
        if not page.meta.has_more:
            return found, False
        cursor = page.meta.cursor
    return found, True


async def _page(
    request: ReadRequest, kind: Named | Literal["organization"], cursor: str | None
) -> PageOf[ShownName]:
    if kind != "organization":
        query = DirectoryQuery(type=kind, limit=100, cursor=cursor)
        return await read_answer(directory.list_directory(request, query), PageOf[ShownName])
    request.principal.require("admin")
    organizations = OrganizationsQuery(limit=100, cursor=cursor)
    answer = directory.list_organizations(request, organizations)
    page = await read_answer(answer, PageOf[ShownOrganization])
    return PageOf([ShownName(o.organization_id, None, o.lines) for o in page.data], page.meta)
