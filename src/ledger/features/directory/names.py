"""The names of workspaces and projects that a page shows next to ids.

Names are always the present ones, even on a page of the past.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from ledger.engine.http.problems import UNBUILT
from ledger.engine.http.reading import ReadRequest
from ledger.engine.values.errors import Behind
from projections.directory import statements as directory
from projections.lines.shown import LineDetail


async def names_for(
    request: ReadRequest, lines: Iterable[LineDetail], more: Iterable[str] = ()
) -> Mapping[str, str]:
    """The names of the workspaces and projects of these lines, and of ``more`` ids, by id.

    Empty while the view of the directory is missing: a new version builds it first.
    """
    ids = {tag for line in lines for tag in (line.workspace_id, *line.project_tags)} | set(more)
    if not ids:
        return {}
    filters = request.tenant
    filters.pop("workspace", None)
    parameters = {**filters, "ids": sorted(ids)}
    try:
        rows = await request.rows(directory.names_read(frozenset(filters)), parameters)
    except (Behind, *UNBUILT):
        return {}
    named: Mapping[str, str] = rows.once(
        lambda answer: {row[1]: row[2] for row in answer if row[1] is not None}
    )
    return named


class Scoped(Protocol):
    """A key or an endpoint, limited to one workspace of an organization, or not."""

    workspace_id: str | None

    @property
    def organization_id(self) -> str | None: ...


async def names_of_scopes(
    request: ReadRequest, scoped: Iterable[Scoped]
) -> Mapping[tuple[str, str], str]:
    """The names of the workspaces of these keys or endpoints, by organization and workspace.

    Empty if the credential may not read names, or while the view of the directory is missing.
    """
    if not request.principal.may("read"):
        return {}
    scopes = {
        (each.organization_id, each.workspace_id)
        for each in scoped
        if each.organization_id is not None and each.workspace_id is not None
    }
    if not scopes:
        return {}
    organizations, ids = zip(*sorted(scopes), strict=True)
    parameters = {"ids": [*ids], "organizations": [*organizations]}
    try:
        rows = await request.rows(directory.SCOPES, parameters)
    except (Behind, *UNBUILT):
        return {}
    named: Mapping[tuple[str, str], str] = rows.once(
        lambda answer: {(row[2], row[1]): row[3] for row in answer if row[1] is not None}
    )
    return named
