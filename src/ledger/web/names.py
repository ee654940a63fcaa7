"""The names that a page shows beside ids.

Names of workspaces and projects are those of now, also where the page shows an instant of the past.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from ledger.api.problems import UNBUILT
from ledger.api.reading import Asking, Query
from ledger.api.replies import AnswerOf
from ledger.api.routes import executions
from ledger.domain.errors import Behind
from ledger.web.pages import may_read, read_answer
from projections.directory import statements as directory
from projections.execution.shown import LineDetail
from projections.execution.statements import names_read


async def names_for(
    asking: Asking, lines: Iterable[LineDetail], more: Iterable[str] = ()
) -> Mapping[str, str]:
    """The names of the workspaces and projects of these lines, and of ``more`` ids, by id.

    Without the view of the directory, which a new version has to build first, a page shows ids.
    """
    ids = {tag for line in lines for tag in (line.workspace_id, *line.project_tags)} | set(more)
    if not ids:
        return {}
    filters = asking.tenant
    filters.pop("workspace", None)
    parameters = {**filters, "ids": sorted(ids)}
    try:
        rows = await asking.rows(directory.names_read(frozenset(filters)), parameters)
    except (Behind, *UNBUILT):
        return {}
    named: Mapping[str, str] = rows.once(
        lambda answer: {row[1]: row[2] for row in answer if row[1] is not None}
    )
    return named


class Scoped(Protocol):
    """A key or an endpoint: what it may see is one workspace of an organization, or more."""

    workspace_id: str | None

    @property
    def organization_id(self) -> str | None: ...


async def names_of_scopes(asking: Asking, shown: Iterable[Scoped]) -> Mapping[tuple[str, str], str]:
    """The names of the workspaces of these keys or endpoints, by organization and workspace.

    Empty if the credential may not read names, or while the view of the directory is missing.
    """
    if not may_read(asking.principal):
        return {}
    scopes = {
        (each.organization_id, each.workspace_id)
        for each in shown
        if each.organization_id is not None and each.workspace_id is not None
    }
    if not scopes:
        return {}
    organizations, ids = zip(*sorted(scopes), strict=True)
    parameters = {"ids": [*ids], "organizations": [*organizations]}
    try:
        rows = await asking.rows(directory.SCOPES, parameters)
    except (Behind, *UNBUILT):
        return {}
    named: Mapping[tuple[str, str], str] = rows.once(
        lambda answer: {(row[2], row[1]): row[3] for row in answer if row[1] is not None}
    )
    return named


async def names_of_lines(
    asking: Asking, line_ids: Iterable[str], query: Query
) -> Mapping[str, str]:
    """The names of these lines by id, as known at the query's instant."""
    tenant = asking.tenant
    read = names_read(frozenset(tenant), query.is_past)
    parameters = {**tenant, "ids": sorted(set(line_ids))}
    rows = await asking.rows(read, parameters, query)
    named: Mapping[str, str] = rows.once(
        lambda answer: {line: name for _, line, name in answer if name is not None}
    )
    return named


async def name_of_line(asking: Asking, line_id: str, as_of: str | None) -> str | None:
    """The name of a line that the credential sees, as it was known at the instant."""
    answer = executions.show_execution(asking, line_id, Query(as_of=as_of))
    return (await read_answer(answer, AnswerOf[LineDetail])).data.name
