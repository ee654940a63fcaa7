"""The names that a page shows beside ids.

Names of workspaces and projects are those of now, also where the page shows an instant of the past.
"""

from collections.abc import Iterable, Mapping

from fastapi import Request

from ledger.api import models
from ledger.api.problems import UNBUILT
from ledger.api.reading import Query
from ledger.api.routes import directory, executions
from ledger.domain.errors import Behind
from ledger.intake.principal import Principal
from ledger.web.pages import read_answer


async def names_for(
    request: Request, principal: Principal, lines: Iterable[models.ExecutionDetail]
) -> Mapping[str, str]:
    """The names of the workspaces and projects of these lines, by id.

    Without the view of the directory, which a new version has to build first, a page shows ids.
    """
    ids = {tag for line in lines for tag in (line.workspace_id, *line.project_tags)}
    try:
        return await directory.names_of(request, principal, ids)
    except (Behind, *UNBUILT):
        return {}


async def name_of_line(
    request: Request, principal: Principal, line_id: str, as_of: str | None
) -> str | None:
    """The name of a line that the credential sees, as it was known at the instant."""
    answer = executions.show_execution(request, principal, line_id, Query(as_of=as_of))
    return (await read_answer(answer, models.ExecutionAnswer)).data.name
