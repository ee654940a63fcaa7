"""The pages on which people issue, check and withdraw statements (``/ui/statements``)."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
from fastapi import APIRouter, Response

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.models import Reason
from ledger.engine.http.reading import Present, Query, ReadRequest
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.http.writing import checked
from ledger.engine.page import pages
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.log import listed
from ledger.engine.page.managed import Managed, RefusedForm
from ledger.engine.page.showing import summary, zone_of
from ledger.engine.values.calendar import calendar_of
from ledger.engine.values.errors import Behind, Invalid, LedgerError, RateLimited
from ledger.engine.values.values import format_id, format_instant
from ledger.features.directory.entries import entries_of, names_of_resources
from ledger.features.feed.envelopes import Envelope
from ledger.features.feed.routes import feeds
from ledger.features.lines.names import names_of_lines
from ledger.features.lines.routes import executions
from ledger.features.lines.routes.executions import LongLinesQuery
from ledger.features.proof.routes import seal_of
from ledger.features.sign_in.persons import persons_of
from ledger.features.usage.commands import IssueStatement, WithdrawStatement
from ledger.features.usage.page import statement_forms
from ledger.features.usage.routes import statements as api
from ledger.features.usage.routes import usage
from ledger.features.usage.routes.usage import LinesUsagePageQuery, UsagePage, UsageRow, UsageSums
from projections.lines.shown import ShownLine

PATH = "/ui/statements"
router = APIRouter(prefix=PATH, include_in_schema=False, route_class=pages.PageRoute)

_PERMISSION = "statements:issue"

Done = Literal["issue", "withdraw"]

DONE: Mapping[Done | None, str] = {
    "issue": "Statement issued.",
    "withdraw": "Statement withdrawn. Its document stays readable.",
}

MOST_ROWS = 200
"""The most rows of a document that the page shows. The CSV has all rows."""

_LISTED_PER_LINE, _LISTED = 5, 50
"""The most events that the page shows of a changed line, and of all. It links to the others."""

_MOST_NOT_GREEN = 1000


class StatementQuery(Present):
    """The parameters of a statement's page, with the form that was just carried out."""

    done: Done | None = None


class Preview(NamedTuple):
    """The numbers that a new statement would have now."""

    period: str
    total: UsageSums
    not_green: Sequence[tuple[UsageRow, ShownLine]]
    """The lines with a row that are amber or red now, the worst first."""


@router.get("", openapi_extra=needs("read"))
async def show_statements(request: ReadRequest, query: api.StatementsQuery) -> Response:
    """List the statements that the credential may read, newest first."""
    found = await pages.read_answer(api.list_statements(request, query), PageOf[api.ShownStatement])
    return await _STATEMENTS.show(
        request,
        "statements.html",
        found.data,
        query,
        None,
        statements=found.data,
        **listed(request.http, found, query.chosen()),
        may_issue=request.principal.may(_PERMISSION),
        period_name=statement_forms.period_name,
    )


@router.get("/new", openapi_extra=needs(_PERMISSION))
async def show_new(
    request: ReadRequest, query: statement_forms.NewQuery, refused: RefusedForm | None = None
) -> Response:
    """Show the form for a new statement and what it would sign. It also needs ``read``."""
    request.principal.require("read")
    choice: statement_forms.StatementChoice = query
    if refused is not None and isinstance(refused.form, statement_forms.StatementChoice):
        choice = refused.form
    replaced = None
    if choice.replaces is not None:
        octets = (await api.find(request, choice.replaces)).octets
        replaced = msgspec.json.decode(octets, type=api.StatementDocument)
    chosen = choice.filled(request.services.clock(), zone_of(request.http), replaced)
    of = chosen["organization_id"] or request.principal.organization_id
    workspaces, _ = (
        await entries_of(pages.of_organization(request, of), "workspace")
        if of is not None
        else ([], None)
    )
    preview, fault = None, None
    try:
        preview = await _preview(request, chosen)
    except Invalid as error:
        fault = error
    return await _STATEMENTS.show(
        request,
        "statement_new.html",
        [],
        query,
        refused,
        chosen=chosen,
        replaced=replaced,
        workspaces=workspaces,
        preview=preview,
        fault=fault,
    )


async def _preview(request: ReadRequest, chosen: Mapping[str, str | None]) -> Preview:
    """Compute the present totals of a scope and period. Raises Invalid."""
    calendar = calendar_of(chosen["time_zone"] or "")
    first, beyond = statement_forms.bounds_of_days(chosen["first_day"], chosen["last_day"])
    start, end = calendar.instant(first), calendar.instant(beyond)
    if start >= end:
        raise Invalid.at("/last_day", "must not be before the first day")
    if end > request.services.clock():
        raise Invalid.at("/last_day", "must be a day that is over")
    scope: Mapping[str, Any] = {name: chosen[name] for name in ("organization_id", "workspace_id")}
    listing = LinesUsagePageQuery(
        **{**scope, "from": first, "to": beyond}, time_zone=calendar.name, limit=1
    )
    found = await pages.read_answer(usage.show_usage_of_lines(request, listing), UsagePage)
    assert found.data.total is not None, "the first page has it"
    worst = LongLinesQuery.model_validate(
        {**scope, "health": "amber,red", "sort": "health_score", "limit": _MOST_NOT_GREEN}
    )
    lines = (await pages.read_answer(executions.lines_page(request, worst), PageOf[ShownLine])).data
    not_green = list[tuple[UsageRow, ShownLine]]()
    if lines:
        named = ",".join(line.service_line_id for line in lines)
        listing = listing.model_copy(update={"service_line_id": named, "limit": _MOST_NOT_GREEN})
        page = await pages.read_answer(usage.show_usage_of_lines(request, listing), UsagePage)
        rows = {row.service_line_id: row for row in page.data.rows}
        not_green = [(rows[id_], line) for line in lines if (id_ := line.service_line_id) in rows]
    return Preview(
        statement_forms.period_name(start, end, calendar.name), found.data.total, not_green
    )


@command_route(router, "", IssueStatement, _PERMISSION)
async def issue_statement(request: ReadRequest, form: statement_forms.IssueForm) -> Response:
    def then(made: Response) -> Response:
        issued = msgspec.json.decode(made.body, type=AnswerOf[api.Issued]).data
        return pages.go(with_parameter(f"{PATH}/{issued.id}", "done", "issue"))

    return await _STATEMENTS.send(request, form, api.issue_statement, then)


@router.get("/{statement_id}", openapi_extra=needs("read"))
async def show_statement(
    request: ReadRequest,
    statement_id: str,
    query: StatementQuery,
    refused: RefusedForm | None = None,
) -> Response:
    """Show a statement: its numbers, what has changed since, and how to verify its document."""
    found = await api.find(request, statement_id)
    document = await asyncio.to_thread(
        msgspec.json.decode, found.octets, type=api.StatementDocument
    )
    listed = await api.listed(request, statement_id)
    statement = msgspec.json.decode(listed[0][2], type=api.ShownStatement)
    changes, unknown = await _changes(request, statement_id)
    rows, by_resource = document.rows[:MOST_ROWS], (document.by_resource or [])[:MOST_ROWS]
    lines = {row.service_line_id for row in rows} | {row.service_line_id for row in by_resource}
    resources = [row.resource_id for row in by_resource if row.resource_id is not None]
    events = {} if changes is None else await _events_of(request, changes)
    withdrawal = await _withdrawal(request, statement)
    if withdrawal is not None:
        persons_of(request.http).note([withdrawal.actor])
    return await _STATEMENTS.show(
        request,
        "statement.html",
        [statement],
        query,
        refused,
        statement=statement,
        document=document,
        rows=rows,
        by_resource=by_resource,
        line_names=await names_of_lines(request, lines, Query()),
        resource_names=await names_of_resources(request, resources),
        changes=changes,
        unknown=unknown,
        told=events,
        differences=statement_forms.differences,
        summary=summary,
        withdrawal=withdrawal,
        event_id=format_id("EVT", statement.issued_at.year, found.issued),
        sealed=await seal_of(request, found.issued),
        bundle_file=_bundle_file(statement_id),
        may_issue=request.principal.may(_PERMISSION),
        period_name=statement_forms.period_name,
    )


async def _changes(
    request: ReadRequest, statement_id: str
) -> tuple[api.ShownChanges | None, LedgerError | None]:
    """The changes since the statement, or the error that prevents their computation now."""
    answer = api.show_statement_changes(request, statement_id, Query())
    try:
        return (await pages.read_answer(answer, AnswerOf[api.ShownChanges])).data, None
    except (Behind, Invalid, RateLimited) as error:
        return None, error


async def _events_of(
    request: ReadRequest, changes: api.ShownChanges
) -> Mapping[str, Sequence[Envelope]]:
    """The first events of each changed line, by line."""
    events = dict[str, list[Envelope]]()
    left = _LISTED
    for row in changes.rows:
        ids = row.events[: min(_LISTED_PER_LINE, left)]
        left -= len(ids)
        answers = (feeds.show_event(request, each, Present()) for each in ids)
        found = await asyncio.gather(
            *(pages.read_answer(each, AnswerOf[Envelope]) for each in answers)
        )
        events[row.service_line_id] = [each.data for each in found]
    return events


async def _withdrawal(request: ReadRequest, statement: api.ShownStatement) -> Envelope | None:
    """The event that withdrew the statement."""
    at = statement.withdrawn_at
    if at is None:
        return None
    bounds: Any = {"from": format_instant(at), "to": format_instant(at + timedelta(microseconds=1))}
    query = feeds.FeedQuery(type="statement.withdrawn", **bounds)
    found = await pages.read_answer(feeds.events_page(request, query), PageOf[Envelope])
    return next((event for event in found.data if event.subject.id == statement.id), None)


pages.export_route(router, "/{statement_id}/export", api.export_statement)


@router.get("/{statement_id}/bundle", openapi_extra=needs("read"))
async def download_bundle(request: ReadRequest, statement_id: str, query: Present) -> Response:
    """Download the API's bundle as a file."""
    return await pages.as_file(
        api.show_statement_bundle(request, statement_id, query), _bundle_file(statement_id)
    )


def _bundle_file(statement_id: str) -> str:
    return f"{statement_id}.bundle.json"


@command_route(router, "/{statement_id}/withdraw", WithdrawStatement, _PERMISSION)
async def withdraw_statement(request: ReadRequest, form: statement_forms.WithdrawForm) -> Response:
    reason = pages.reason_of(form.reason)
    body = {} if reason is None else {"reason": reason}
    sent = checked(body, Reason, pages.idempotency_of(request, form))
    return await _STATEMENTS.send(request, form, api.withdraw_statement, "withdraw", sent)


_STATEMENTS = Managed(
    PATH,
    "statement_id",
    DONE,
    partial(show_new, query=statement_forms.NewQuery()),
    partial(show_statement, query=StatementQuery()),
)
_STATEMENTS.route_back(router, "read")
