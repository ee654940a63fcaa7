"""The export of runs: the rows of their list without payloads, as JSON lines or CSV.

Runs change while an export goes on. So the export shows all of them as they were at the position of
its first page, which is its ``Ledger-Position``.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Response
from msgspec.structs import replace
from pydantic import Field

from ledger.api.lean import LeanRoute, needs
from ledger.api.reading import Asking, Query
from ledger.api.routes.exports import PAGE
from ledger.api.routes.files import (
    Exported,
    Format,
    Row,
    answers,
    begin_export,
    cut_of,
    require_valid,
)
from ledger.api.routes.runs import AllRunsFilters, all_runs_asked, implied, run_asked
from ledger.domain.errors import Behind, Invalid
from ledger.domain.values import RUN_ID, sort_key
from ledger.reads.question import Answer
from projections.run.shown import RunColumns, ShownRun, shown_run
from projections.run.statements import later_runs_read

router = APIRouter(prefix="/v1/runs", tags=["runs"], route_class=LeanRoute)


class RunsExportQuery(Query, AllRunsFilters):
    """The parameters of an export of runs."""

    format: Format = "jsonl"
    after: Annotated[
        str | None,
        Field(
            pattern=RUN_ID,
            description="A RUN id: the runs after it in the order of the list.",
            examples=["RUN-26-001812"],
        ),
    ] = None


def _entry(row: Row) -> ShownRun:
    """A run without its payloads."""
    return shown_run(RunColumns(*row[:-3]))


_RUNS = Exported("runs", _entry, cut_of(ShownRun, without=("input", "output", "error")))


@router.get(
    "/export",
    summary="Export runs",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=answers(
        "The runs of the list without `input`, `output` and `error`, one on each line. `after`"
        " continues an export: a CSV then has no header line."
    ),
)
async def export_runs(asking: Asking, query: RunsExportQuery) -> Response:
    """Export the list as one file, as it was at `Ledger-Position`; `after` resumes an export."""
    turn, filters = begin_export(asking), implied(query.chosen())
    if query.after is not None:
        # A kept answer may have lost its rows already.
        question = run_asked(asking, query.after, query)
        question = replace(question, read=question.read._replace(is_kept=False))
        known, *_ = await asking.ask(question)
        if known[1] is None:
            raise Invalid.at("/after", "is not the id of a run")
        filters |= {"after": sort_key(query.after), "after_at": known[2]}
    # The first page is read before the answer begins, so that a refusal gets its own status.
    first = await asking.ask(all_runs_asked(asking, query, filters, PAGE, "none").walked())
    pages = _pages(asking, filters, first)
    return _RUNS.file(turn, query.format, pages, first.position, goes_on=query.after is not None)


async def _pages(
    asking: Asking, filters: dict[str, Any], rows: Answer
) -> AsyncIterator[Sequence[Row]]:
    """The found rows of an export, from its first page on."""
    door, end, tenant = asking.services.door, rows.position, asking.tenant
    while True:
        found = [row for row in rows if row[1] is not None]
        yield found
        if len(found) < PAGE:
            return
        await require_valid(asking)
        filters |= {"after": sort_key(found[-1][1]), "after_at": found[-1][2]}
        names = frozenset(filters) - {"after_at"}
        values = {**tenant, **filters, "limit": PAGE, "end": end}
        question = asking.question(later_runs_read(frozenset(tenant), names), values)
        rows = Answer(await door.fetch(*question.asked))
        if rows.position < end:
            # A crash of the database took the view back: the missing rows existed before.
            raise Behind("The view has fallen behind the end of the export.")
