"""The names of lines that a page shows next to ids."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ledger.engine.http.reading import Query, ReadRequest
from ledger.engine.http.replies import AnswerOf
from ledger.engine.page.pages import read_answer
from ledger.features.lines.routes import executions
from projections.lines.shown import LineDetail
from projections.lines.statements import names_read


async def names_of_lines(
    request: ReadRequest, line_ids: Iterable[str], query: Query
) -> Mapping[str, str]:
    lines = await named_lines(request, line_ids, query)
    return {line: found.name for line, found in lines.items() if found.name is not None}


class NamedLine(NamedTuple):
    """The name of a line, and the organization that it belongs to."""

    name: str | None
    organization_id: str


async def named_lines(
    request: ReadRequest, line_ids: Iterable[str], query: Query
) -> Mapping[str, NamedLine]:
    if not (ids := sorted(set(line_ids))):
        return {}
    tenant = request.tenant
    read = names_read(frozenset(tenant), query.is_past)
    rows = await request.rows(read, {**tenant, "ids": ids}, query)
    found: Mapping[str, NamedLine] = rows.once(
        lambda answer: {row[1]: NamedLine(*row[2:]) for row in answer if row[1] is not None}
    )
    return found


async def name_of_line(request: ReadRequest, line_id: str, as_of: str | None) -> str | None:
    """The name of a line that the credential sees, as known at the instant."""
    answer = executions.show_execution(request, line_id, Query(as_of=as_of))
    return (await read_answer(answer, AnswerOf[LineDetail])).data.name
