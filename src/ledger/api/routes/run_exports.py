"""The export of runs: the rows of their list without payloads, as JSON lines or CSV.

Runs change while an export goes on. So the export shows all of them as they were at the position of
its first page, which is its ``Ledger-Position``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi import Query as QueryParameters
from msgspec.structs import replace
from pydantic import Field

from ledger.api.access.authentication import Authenticated
from ledger.api.documentation import READ_ERRORS
from ledger.api.lean import LeanRoute, MinPosition, needs
from ledger.api.problems import Unauthorized
from ledger.api.reading import Query, services_of, tenant_filters
from ledger.api.routes.exports import PAGE, PORTION, Export, csv_of, harmless
from ledger.api.routes.runs import AllRunsFilters, all_runs_asked, implied, run_asked
from ledger.domain.errors import Behind, Invalid
from ledger.domain.values import RUN_ID, sort_key
from ledger.intake.principal import Principal
from ledger.postgres.scope import Planning
from ledger.reads.question import Answer
from projections.run.shown import ShownRun, run_json
from projections.run.statements import later_runs_statement

router = APIRouter(prefix="/v1/runs", tags=["runs"], route_class=LeanRoute)

COLUMNS = (
    "id",
    "service_line_id",
    "status",
    "triggered_by_type",
    "triggered_by_actor_id",
    "duration_ms",
    "tokens_used",
    "requested_at",
    "started_at",
    "completed_at",
    "erased_at",
    "external_id",
    "parent_run_id",
    "lease_seconds",
)

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class RunsExportQuery(Query, AllRunsFilters):
    """The parameters of an export of runs."""

    format: Annotated[
        Literal["jsonl", "csv"], Field(description="JSON objects, one on each line, or a table.")
    ] = "jsonl"
    after: Annotated[
        str | None,
        Field(
            pattern=RUN_ID,
            description="A RUN id: the runs after it in the order of the list.",
            examples=["RUN-26-001812"],
        ),
    ] = None


def _line(row: Sequence[Any]) -> str:
    """A run's JSON without its payloads."""
    return run_json(ShownRun(*row[1:-3]))


def _lines(rows: Sequence[Any]) -> bytes:
    return "".join(f"{_line(row)}\n" for row in rows).encode()


def _table(rows: Sequence[Any]) -> bytes:
    return csv_of([_cells(_decode(_line(row))) for row in rows])


def _cells(run: dict[str, Any]) -> list[Any]:
    trigger = run.pop("triggered_by") or {}
    run["triggered_by_type"] = trigger.get("type")
    run["triggered_by_actor_id"] = harmless(trigger.get("actor_id"))
    run["external_id"] = harmless(run["external_id"])
    return [run[name] for name in COLUMNS]


_FORMATS: Mapping[str, tuple[str, Callable[[Sequence[Any]], bytes], bytes]] = {
    "jsonl": ("application/x-ndjson", _lines, b""),
    "csv": ("text/csv; charset=utf-8", _table, csv_of([COLUMNS])),
}
"""format → (content type, renderer, heading)."""


@router.get(
    "/export",
    summary="Export runs",
    openapi_extra=needs("read"),
    response_class=Response,
    responses={
        200: {
            "description": "The runs of the list without `input`, `output` and `error`, one on each"
            " line. `after` continues an export: a CSV then has no header line.",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        **READ_ERRORS,
    },
)
async def export_runs(
    request: Request,
    principal: Authenticated,
    query: Annotated[RunsExportQuery, QueryParameters()],
    min_position: MinPosition = None,
) -> Response:
    """Export the list as one file, as it was at `Ledger-Position`; `after` resumes an export."""
    reads, filters = services_of(request).reads, implied(query.chosen())
    if query.after is not None:
        # A kept answer may have lost its rows already.
        question = replace(run_asked(principal, query.after, query), is_kept=False)
        known, *_ = await reads.ask(question, min_position)
        if known[1] is None:
            raise Invalid.at("/after", "is not the id of a run")
        filters |= {"after": sort_key(query.after), "after_at": known[2]}
    # The first page is read before the answer begins, so that a refusal gets its own status.
    question = all_runs_asked(principal, query, filters, PAGE, bare=True)
    first = await reads.ask(question, min_position)
    content_type, render, heading = _FORMATS[query.format]
    heading = b"" if query.after is not None else heading
    return Export(
        _pages(request, principal, filters, first, render, heading),
        media_type=content_type,
        headers={
            "Ledger-Position": str(first.position),
            "Content-Disposition": f'attachment; filename="runs.{query.format}"',
            "Cache-Control": "no-store",
        },
    )


async def _pages(
    request: Request,
    principal: Principal,
    filters: dict[str, Any],
    rows: Answer,
    render: Callable[[Sequence[Any]], bytes],
    heading: bytes,
) -> AsyncIterator[bytes]:
    """An export's bytes, from its first page on."""
    services, end, tenant = services_of(request), rows.position, tenant_filters(principal)
    if heading:
        yield heading
    while True:
        found = [row for row in rows if row[1] is not None]
        for begin in range(0, len(found), PORTION):
            yield render(found[begin : begin + PORTION])
            await asyncio.sleep(0)
        if len(found) < PAGE:
            return
        # A credential that ended meanwhile ends the export.
        if await services.authenticator.lapsed([principal]):
            raise Unauthorized("The credential was revoked or has expired.")
        filters |= {"after": sort_key(found[-1][1]), "after_at": found[-1][2]}
        names = frozenset(filters) - {"after_at"}
        statement = later_runs_statement(frozenset(tenant), names)
        values = {**tenant, **filters, "limit": PAGE, "end": end}
        rows = Answer(await services.door.fetch(principal.tenant, statement, values, Planning.WALK))
        if rows.position < end:
            # A crash of the database took the view back: the missing rows existed before.
            raise Behind("The view has fallen behind the end of the export.")
