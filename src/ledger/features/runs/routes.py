"""Runs: the list of a line's runs, a run by its id, and its erasure (contract, Reading and Proof).

Answers are made of the views' rows, which have encrypted payloads. An answer also names the lines
whose payloads it has, so that the audit log notes the read (contract, Feeds).
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Request, Response
from msgspec import Raw
from msgspec.structs import replace
from pydantic import Field

from ledger.engine.http import exports, problems, reading
from ledger.engine.http.lean import Router, command_route, needs, read_route
from ledger.engine.http.lists import Order, identifier, instant
from ledger.engine.http.machinery.middleware import is_head
from ledger.engine.http.models import Reason
from ledger.engine.http.replies import (
    AnswerOf,
    DisclosedLine,
    PageOf,
    Reply,
    answer,
    or_not_modified,
)
from ledger.engine.http.writing import Sent, as_left, execute, execute_on
from ledger.engine.log.vault import Vault
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values import values
from ledger.engine.values.errors import Invalid, ReadOnly, RunsNotSupported, Unavailable
from ledger.engine.values.principal import Principal
from ledger.engine.values.rendering import json_text
from ledger.features.lines.routes.executions import AnyLineId
from ledger.features.runs.commands import EraseRun, Heartbeat
from ledger.features.runs.read_notes import ReadNotes
from projections.runs import statements
from projections.runs.shown import NULL, Payloads, RunColumns, ShownRun, run_view
from projections.runs.statements import Shows

router = Router("/v1", "runs", words={"OpenRunStatus": ("pending", "running")})

R = TypeVar("R", bound=Response)

_ORDERS = {
    first: Order(identifier("RUN", values.RUN_ID, first), instant("at", first + 1, "after_at"))
    for first in (1, 2)
}
"""The order of runs, by the column of the run's id: the second one in rows of a line."""

_BREATH_SECONDS = 0.05
_WAIT_SECONDS = 2.0

ReadLines = dict[int, DisclosedLine]
"""The lines whose runs' payloads an answer has, by key."""

_NOTHING: Payloads = (NULL, NULL, NULL)

AnyRunId = Annotated[str, reading.path_id("A RUN id.", "RUN-26-001812", values.RUN_ID)]


class ErasureReason(Reason):
    """The reason why a run's payloads are erased. The reason is kept for ever: name no person."""


@reading.filtered_by(*statements.OF_LINE)
class RunsFilters(reading.FilteredRange):
    """The filters of runs; a comma means or. ``from`` and ``to`` filter by requested_at."""


@reading.filtered_by(*statements.OF_LINES, *statements.BY_NAME)
class AllRunsFilters(RunsFilters):
    """The filters of the runs of all lines."""

    def chosen(self) -> dict[str, Any]:
        """The requested filters, ids as numbers. Raises Invalid as ``RunsFilters`` does."""
        chosen = super().chosen()
        for name, pattern in (("lines", values.LINE_ID), ("parents", values.RUN_ID)):
            if name in chosen:
                ids = (id_ for id_ in chosen[name] if re.fullmatch(pattern, id_))
                chosen[name] = [values.sort_key(id_) for id_ in ids]
        return chosen


class RunsQuery(reading.PageQuery, RunsFilters):
    """The parameters of the list of a line's runs."""


class AllRunsQuery(reading.PageQuery, AllRunsFilters):
    """The parameters of the list of all runs."""


@read_route(
    router,
    "/execution/{line_id}/runs",
    PageOf[ShownRun],
    problems.RUN_LIST_ERRORS,
    summary="List a line's runs",
)
async def list_execution_runs(
    request: reading.ReadRequest, line_id: AnyLineId, query: RunsQuery
) -> Response:
    """List the runs of an agent_runtime or timeboxed_outcome line, newest request first.

    `from` and `to` are compared with `requested_at`.
    """
    reply = await _line_runs(request, line_id, query, "all")
    return await noted(request, or_not_modified(request.http, reply))


async def runs_with_errors(request: reading.ReadRequest, line_id: str, query: RunsQuery) -> Reply:
    """A page of a line's runs without input and output. Only the web pages use this.

    Errors are null, too, where no payload may be shown.
    """
    return await noted(request, await _line_runs(request, line_id, query, _on_pages(request)))


def _on_pages(request: reading.ReadRequest) -> Shows:
    return "errors" if request.services.shows_payloads else "none"


async def _line_runs(
    request: reading.ReadRequest, line_id: str, query: RunsQuery, shows: Shows
) -> Reply:
    reading.require_id("service_line", line_id)
    chosen = query.chosen()
    tenant, filters = request.tenant, _implied(chosen)
    bound_to = {**chosen, "line": line_id}
    filters |= _ORDERS[2].after(query.cursor, bound_to)
    names = frozenset(filters) - {"after_at"}
    read = statements.runs_read(frozenset(tenant), names, query.is_past, shows)
    parameters = {**tenant, **filters, "line_id": line_id, "limit": query.limit + 1}
    rows = await request.rows(read, parameters, query)
    return rows.once(line_runs_reply, query.limit, bound_to, request.services.vault)


def _implied(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The filters, and the condition of the partial indexes if the status implies it."""
    filters = dict(chosen)
    if "completed" not in chosen.get("status", ("completed",)):
        filters["not_completed"] = True
    return filters


@read_route(router, "/runs", PageOf[ShownRun], problems.LIST_ERRORS, summary="List runs")
async def list_all_runs(request: reading.ReadRequest, query: AllRunsQuery) -> Response:
    """List the runs of all lines, newest request first.

    `from` and `to` are compared with `requested_at`.
    """
    reply = await _all_runs(request, query, "all")
    return await noted(request, or_not_modified(request.http, reply))


async def all_runs_with_errors(request: reading.ReadRequest, query: AllRunsQuery) -> Reply:
    """A page of all runs, with payloads as in ``runs_with_errors``. Only the web pages use this."""
    return await noted(request, await _all_runs(request, query, _on_pages(request)))


async def _all_runs(request: reading.ReadRequest, query: AllRunsQuery, shows: Shows) -> Reply:
    chosen = query.chosen()
    filters, bound_to = _implied(chosen), {**chosen, "line": None}
    filters |= _ORDERS[1].after(query.cursor, bound_to)
    rows = await request.ask(_all_runs_question(request, query, filters, query.limit + 1, shows))
    return rows.once(runs_reply, 1, query.limit, bound_to, request.services.vault)


async def all_runs_counted(request: reading.ReadRequest, query: AllRunsQuery, most: int) -> int:
    """The number of runs on all pages, up to ``most``. Only the web pages use this."""
    filters = _implied(query.chosen())
    rows = await request.ask(_all_runs_question(request, query, filters, most, "none").counted())
    return int(rows.once(lambda found: found[0][1]))


def _all_runs_question(
    request: reading.ReadRequest,
    query: reading.Query,
    filters: Mapping[str, Any],
    limit: int,
    shows: Shows,
) -> Question:
    tenant, names = request.tenant, frozenset(filters) - {"after_at"}
    read = statements.all_runs_read(frozenset(tenant), names, query.is_past, shows)
    return request.question(read, {**tenant, **filters, "limit": limit}, query)


class RunsExportQuery(reading.Zoned, reading.Query, AllRunsFilters):
    """The parameters of an export of runs."""

    format: exports.Format = "jsonl"
    after: Annotated[
        str | None,
        Field(
            pattern=values.RUN_ID,
            description="A RUN id: the runs after it in the order of the list.",
            examples=["RUN-26-001812"],
        ),
    ] = None


def _entry(row: exports.Row) -> ShownRun:
    return run_view(RunColumns(*row[:-3]))


_RUNS = exports.Exported(
    "runs", _entry, exports.cut_of(ShownRun, without=("input", "output", "error"))
)


@router.get(
    "/runs/export",
    summary="Export runs",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=exports.answers(
        "The runs of the list without `input`, `output` and `error`, one on each line. `after`"
        " continues an export: a CSV then has no header line."
    ),
)
async def export_runs(request: reading.ReadRequest, query: RunsExportQuery) -> Response:
    """Export the list as one file, as it was at `Ledger-Position`; `after` resumes an export."""
    slot, filters, tenant = exports.begin_export(request), _implied(query.chosen()), request.tenant
    if query.after is not None:
        # A cached answer may have lost its rows already.
        question = _run_question(request, query.after, query)
        question = replace(question, read=question.read._replace(is_pure=False))
        last, *_ = await request.ask(question)
        if last[1] is None:
            raise Invalid.at("/after", "is not the id of a run")
        filters |= {"after": values.sort_key(query.after), "after_at": last[2]}
    first = await request.ask(
        _all_runs_question(request, query, filters, exports.PAGE, "none").walked()
    )

    def following(row: exports.Row) -> Question:
        # Runs change during an export: all of them are shown as of the first page.
        after = filters | {"after": values.sort_key(row[1]), "after_at": row[2]}
        read = statements.later_runs_read(frozenset(tenant), frozenset(after) - {"after_at"})
        return request.question(
            read, {**tenant, **after, "limit": exports.PAGE, "end": first.position}
        )

    found, goes_on = exports.pages(request, first, following, is_log=False), query.after is not None
    return _RUNS.file(slot, query.format, found, first.position, goes_on=goes_on)


@read_route(
    router, "/runs/{run_id}", AnswerOf[ShownRun], problems.LINE_ERRORS, summary="Show a run"
)
async def show_run(
    request: reading.ReadRequest, run_id: AnyRunId, query: reading.Query
) -> Response:
    """Show a run with its input, output and error."""
    reading.require_id("run", run_id)
    reply = await _run_reply(request, run_id, query)
    return await noted(request, or_not_modified(request.http, reply))


async def _run_reply(request: reading.ReadRequest, run_id: str, query: reading.Query) -> Reply:
    rows = await request.ask(_run_question(request, run_id, query))
    return rows.once(run_reply, request.services.vault)


def _run_question(request: reading.ReadRequest, run_id: str, query: reading.Query) -> Question:
    tenant = request.tenant
    read = statements.run_read(frozenset(tenant), query.is_past)
    return request.question(read, {**tenant, "run_id": run_id}, query)


@command_route(
    router,
    "/runs/{run_id}/erase",
    EraseRun,
    "runs:erase",
    summary="Erase a run's payloads",
    answer=AnswerOf[ShownRun],
)
async def erase_run(
    request: reading.ReadRequest, run_id: AnyRunId, sent: Sent[ErasureReason]
) -> Response:
    """Make an ended run's input, output and error unreadable everywhere and for ever.

    Their key is destroyed, so an erasure cannot be undone. An erased run stays as it is.
    """
    reason = sent.body.reason if sent.body is not None else ""
    receipt = await execute_on(request, EraseRun, run_id, sent, reason=reason)
    return await as_left(request.http, receipt, partial(_run_reply, request, run_id))


@router.post(
    "/runs/{run_id}/heartbeat",
    summary="Keep a run's lease",
    status_code=204,
    openapi_extra=needs("write"),
    responses=problems.refusals(401, 403, 404, 409, 422, 429, 503),
)
async def send_heartbeat(request: Request, principal: Principal, run_id: AnyRunId) -> Response:
    """Begin an open run's lease anew.

    No event records a heartbeat, and no audit entry tells of one, not even of a refused one. The
    answer comes once the new lease is stored durably. So a heartbeat needs no Idempotency-Key: send
    it again if no answer came.
    """
    reading.require_id("run", run_id)
    await execute(request, Heartbeat(run_id, principal, request.state.request_id))
    return Response(status_code=204)


def line_runs_reply(rows: Answer, limit: int, bound_to: Mapping[str, Any], vault: Vault) -> Reply:
    """Raises NotFound and RunsNotSupported."""
    _, model, *_ = rows[0]
    if model is None:
        raise reading.unknown("service_line", rows)
    if model not in values.MODELS_WITH_RUNS:
        raise reading.read_at(rows, RunsNotSupported())
    return runs_reply(rows, 2, limit, bound_to, vault)


def runs_reply(
    rows: Answer, first: int, limit: int, bound_to: Mapping[str, Any], vault: Vault
) -> Reply:
    """A page of runs, with a cursor bound to the filters, and to the line if any.

    ``first`` is the column of the run's id.
    """
    read_lines: ReadLines = {}

    def item(row: Any) -> str:
        return _item(row[first:], vault, read_lines)

    reply = _ORDERS[first].page(_by_run(rows, first), limit, bound_to, item, key=first, tagged=True)
    reply.disclosed = frozenset(read_lines.values())
    return reply


def run_reply(rows: Answer, vault: Vault) -> Reply:
    """Raises NotFound."""
    ((_, *run),) = _by_run(rows, 1)
    if run[0] is None:
        raise reading.unknown("run", rows)
    read_lines: ReadLines = {}
    reply = answer('{"data":' + _item(run, vault, read_lines) + "}", rows.position, tagged=True)
    reply.disclosed = frozenset(read_lines.values())
    return reply


def _by_run(rows: Answer, first: int) -> Answer:
    """One row for each run, whose last column has the run's payloads.

    Input, output and error each come from the latest event with one. ``first`` is the id's column.
    """
    runs = list[tuple[Any, ...]]()
    for row in rows:
        if runs and runs[-1][first] == row[first]:
            payloads = runs[-1][-1]
            payloads[:] = [new or old for new, old in zip(row[-3:], payloads, strict=True)]
        else:
            runs.append((*row[:-3], list(row[-3:])))
    return Answer(runs)


def _item(run: Sequence[Any], vault: Vault, read_lines: ReadLines) -> str:
    """A run's JSON with decrypted payloads; adds its line to ``read_lines`` if it has any."""
    *columns, sealed = run
    row = RunColumns(*columns)
    payloads = _opened(row, sealed, vault)
    if payloads is not _NOTHING and row.line_key not in read_lines:
        line_id = values.id_of_key("LIN", row.line_key)
        read_lines[row.line_key] = DisclosedLine(line_id, row.organization_id, row.workspace_id)
    return json_text(run_view(row, payloads))


def _opened(run: RunColumns, sealed: Sequence[bytes | None], vault: Vault) -> Payloads:
    if run.wrapped is None or not any(sealed):
        return _NOTHING
    key = vault.unwrap(run.wrapped, run.organization_id, run.run_id)
    input_, output, error = (
        NULL if text is None else Raw(key.open(field, text))
        for field, text in zip(("input", "output", "error"), sealed, strict=True)
    )
    return input_, output, error


async def noted(request: reading.ReadRequest, response: R) -> R:
    """Return the response once it is noted, if it has data of runs.

    A 304 and the answer to a HEAD have none. Raises Unavailable if too many notes wait to record
    one more in time. On a read node, which cannot note reads, raises ReadOnly for a HEAD and a GET,
    unless its operator allows unaudited reads (contract, Several nodes).
    """
    if not isinstance(response, Reply) or not response.disclosed:
        return response
    http, services = request.http, request.services
    if not services.shows_payloads:
        raise ReadOnly("The answer holds runs' data: ask a node that records who reads them.")
    if services.only_reads or is_head(http.scope):
        return response
    notes = services.of(ReadNotes)
    time = asyncio.get_running_loop().time
    deadline = time() + _WAIT_SECONDS
    while not notes.has_room:
        if time() >= deadline:
            raise Unavailable("The audit log cannot record at present who reads runs.")
        await asyncio.sleep(_BREATH_SECONDS)
    notes.note(request.principal, http.state.request_id, response.disclosed)
    return response
