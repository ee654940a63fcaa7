"""Statements: the routes that issue, withdraw, list and return them (contract, Statements).

The document is computed as of the instant at which the request got its slot. It is stored before
the command is submitted (``features/usage/commands.py``). The answer is the stored document, byte
by byte.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from fastapi import Response
from pydantic import Field

from ledger.engine.http import reading
from ledger.engine.http.as_of import as_of_instant, as_of_now, resolve_as_of
from ledger.engine.http.exports import Cut, Exported, answers, begin_export
from ledger.engine.http.lean import ManagedRouter, needs, read_route
from ledger.engine.http.lists import newest_first
from ledger.engine.http.models import Characters, CommandBody, Reason
from ledger.engine.http.problems import FEED_ERRORS, LINE_ERRORS, STORY_ERRORS
from ledger.engine.http.replies import AnswerOf, Reply, answer, or_not_modified
from ledger.engine.http.writing import (
    Sent,
    answered,
    as_left,
    execute_new,
    execute_on,
    named_tenant,
)
from ledger.engine.reads.as_of import AsOf
from ledger.engine.reads.question import Answer
from ledger.engine.values import values
from ledger.engine.values.calendar import calendar_of
from ledger.engine.values.errors import DocumentAltered, Invalid
from ledger.engine.values.rendering import ViewInstant, doc, json_text
from ledger.features.proof.routes import Inclusion, base64_of, inclusion_of, sealed_entry
from ledger.features.usage.commands import IssueStatement, StatementNumbers, WithdrawStatement
from ledger.features.usage.model.statement import StatementAsIssued
from ledger.features.usage.model.usage import OF_ALL
from ledger.features.usage.reads.changes import ChangedLine, changes_of
from ledger.features.usage.reads.statement import compose, scope_of
from ledger.features.usage.routes.rows import COLUMNS, TOTAL, cells
from ledger.features.usage.routes.scope import require_dates
from ledger.features.usage.routes.usage import VIEWS, UsageSums
from ledger.features.usage.tables import Documents
from projections.usage.statements import list_read, statement_read

router = ManagedRouter("/v1/statements", "statements", "statement_id", "statements:issue", "read")

_ORDER = newest_first("statement")

AnyStatementId = Annotated[str, reading.path_id("An STM id.", "STM-26-000003", values.STATEMENT_ID)]


class NewStatement(CommandBody):
    """A new statement."""

    organization_id: Annotated[
        str | None,
        Field(
            pattern=values.ORGANIZATION_ID,
            description="By default the credential's organization; an administrator names it.",
        ),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(
            pattern=values.WORKSPACE_ID,
            description="By default the credential's workspace. Null: the whole organization.",
        ),
    ] = None
    from_: Annotated[
        reading.Bound,
        Field(alias="from", description="The start, included.", examples=["2026-04-01"]),
    ]
    to: Annotated[
        reading.Bound,
        Field(description="The end, excluded; not in the future.", examples=["2026-04-15"]),
    ]
    time_zone: reading.TimeZone = "UTC"
    note: Annotated[str, Field(max_length=500), Characters(values.TEXT)] | None = None
    reference: Annotated[str, Field(max_length=200), Characters(values.LABEL)] | None = None
    by_resource: Annotated[
        bool, Field(description="Whether the document has rows by line and resource too.")
    ] = False
    replaces: Annotated[
        str | None,
        Field(
            pattern=values.STATEMENT_ID, description="A statement of the same scope, of any period."
        ),
    ] = None

    def period(self, now: datetime) -> tuple[datetime, datetime]:
        """Raises Invalid."""
        calendar = calendar_of(self.time_zone)
        start, end = calendar.instant(self.from_), calendar.instant(self.to)
        if start >= end:
            raise Invalid.at("/to", "must be later than from")
        if end > now:
            raise Invalid.at("/to", "lies in the future")
        require_dates(calendar, start, end)
        return start, end


class StatementsQuery(reading.TenantQuery, reading.RangeParameters):
    """The parameters of the list: of statements whose periods overlap ``from`` to ``to``."""


class StatementExportQuery(reading.Present):
    """The parameters of a statement's export."""

    format: Annotated[Literal["csv"], Field(description="A table.")] = "csv"


class Issued(msgspec.Struct):
    """A statement that was issued."""

    id: Annotated[str, msgspec.Meta(pattern=values.STATEMENT_ID)]
    document_sha256: str
    position: int
    as_of: ViewInstant
    total: UsageSums


class ShownStatement(StatementAsIssued, kw_only=True):
    """A statement, with the total of its document."""

    total: Annotated[UsageSums | None, doc("Null if the document is not the one that was issued.")]
    replaced_by: str | None
    withdrawn_at: ViewInstant | None


class SumsOfLine(UsageSums, kw_only=True):
    """The sums of a line."""

    service_line_id: str


class SumsOfResource(UsageSums, kw_only=True):
    """The check-ins and hours of a resource at a line."""

    service_line_id: str
    resource_id: str | None


class StatementDocument(msgspec.Struct):
    """The document of a statement. Its SHA-256 is in the sealed log."""

    organization_id: str
    workspace_id: str | None
    from_: ViewInstant = msgspec.field(name="from")
    to: ViewInstant
    time_zone: str
    as_of: ViewInstant
    position: int
    note: str | None
    reference: str | None
    replaces: str | None
    total: UsageSums
    rows: list[SumsOfLine]
    by_resource: list[SumsOfResource] | None


class ThenAndNow(msgspec.Struct):
    """Sums as the statement has them, and as they are known now or at `as_of`."""

    then: UsageSums
    now: UsageSums


class ShownChangedLine(ThenAndNow, kw_only=True):
    """A line of which hours, check-ins, the number of runs, tokens or seconds differ."""

    service_line_id: str
    service_line_name: str | None
    events: Annotated[
        list[str],
        doc("The first 100 events recorded since that changed a number of the period."),
    ]
    event_count: int


class ShownChanges(msgspec.Struct):
    """The difference between a statement and its period as it is known now."""

    changed: bool
    total: ThenAndNow
    rows: list[ShownChangedLine]


class Bundle(msgspec.Struct):
    """All that proves offline that a document is a statement that was issued."""

    document: Annotated[str, doc("The document's bytes, in base64.")]
    stored: Annotated[str, doc("The stored event, in base64: its SHA-256 is in the leaf.")]
    leaf: Annotated[str, doc("The leaf's bytes, in base64.")]
    inclusion: Inclusion
    checkpoint: Annotated[str, doc("The signed note.")]
    key: Annotated[str, doc("The log's verifier key: compare it with the key that you keep.")]


# Issuing.


@router.creates(IssueStatement, Issued, "Issue a statement")
async def issue_statement(request: reading.ReadRequest, sent: Sent[NewStatement]) -> Response:
    """Issue the usage of a scope and period, as it is known now, as a document that stays.

    The document's hash is in the sealed log.
    """
    numbers = None
    organization_id, workspace_id = named_tenant(request.principal, sent.parsed)
    if (
        sent.body is not None
        and sent.fault is None
        and organization_id is not None
        and request.principal.sees(organization_id, workspace_id)
    ):
        try:
            numbers = await _stored(request, sent.body, organization_id, workspace_id)
        except Invalid as error:
            # An earlier request under the same Idempotency-Key may have succeeded.
            sent = sent._replace(fault=error)
    replaces = values.id_named(sent.parsed, "replaces", values.STATEMENT_ID)
    receipt = await execute_new(request, IssueStatement, sent, replaces=replaces, numbers=numbers)
    return answered(receipt, 201)


async def _stored(
    request: reading.ReadRequest, body: NewStatement, organization_id: str, workspace_id: str | None
) -> StatementNumbers:
    """Compute and store the document of a statement. Raises Invalid, Behind and RateLimited."""
    services = request.services
    async with services.heavy.slot(request.principal.tenant_key):
        present = await as_of_now(request, VIEWS)
        as_of = await as_of_instant(request, VIEWS, present.clock)
        made = await compose(
            services.pool.fetch,
            scope_of(request.principal.tenant, organization_id, workspace_id),
            as_of,
            body.period(as_of.clock),
            by_resource=body.by_resource,
            organization_id=organization_id,
            workspace_id=workspace_id,
            time_zone=body.time_zone,
            note=body.note,
            reference=body.reference,
            replaces=body.replaces,
        )
        await asyncio.to_thread(services.of(Documents).store, made.row(as_of.clock))
    return StatementNumbers(made.event, as_of.clock, msgspec.Raw(made.total))


@router.acts("withdraw", WithdrawStatement, ShownStatement, "Withdraw a statement")
async def withdraw_statement(
    request: reading.ReadRequest, statement_id: AnyStatementId, sent: Sent[Reason]
) -> Response:
    """Withdraw a statement for good. Its document stays readable."""
    reason = sent.body.reason if sent.body is not None else ""
    receipt = await execute_on(request, WithdrawStatement, statement_id, sent, reason=reason)

    async def show(_: reading.Query) -> Reply:
        # Nothing changes a withdrawn statement, so this is its state after the command.
        rows = await listed(request, statement_id)
        item = rows[0][2] if rows.position >= receipt.position else None
        return reading.subject_reply("statement", rows, item)

    return await as_left(request.http, receipt, show)


# Reading.


async def listed(request: reading.ReadRequest, statement_id: str) -> Answer:
    """(position, key, item JSON) of a statement as listed; nulls if it may not be read."""
    filters = request.tenant | {"statement_id": statement_id}
    return await request.rows(list_read(frozenset(filters)), {**filters, "limit": 1})


@router.lists(ShownStatement, "List statements")
async def list_statements(request: reading.ReadRequest, query: StatementsQuery) -> Response:
    """List the statements of the credential's tenant, newest first, with their totals."""
    start, end = query.bounds()
    chosen: dict[str, Any] = query.chosen()
    chosen |= {"from": start} if start is not None else {}
    chosen |= {"to": end} if end is not None else {}
    return await _ORDER.listed(request, query, chosen, list_read)


class FoundStatement(NamedTuple):
    """A statement that the credential may read."""

    rows: Answer
    issued: int
    """The position of its event."""
    about: StatementAsIssued
    octets: bytes
    """The document, whose hash is that of the event."""
    tag: bytes
    """The document's hash as an entity tag."""


_decode_about = msgspec.json.Decoder(StatementAsIssued).decode


async def find(
    request: reading.ReadRequest, statement_id: str, query: reading.Present | None = None
) -> FoundStatement:
    """Find a statement and its document. Raises NotFound, or DocumentAltered for other bytes."""
    query = query or reading.Present()
    reading.require_id("statement", statement_id)
    tenant = request.tenant
    read = statement_read(frozenset(tenant), past=query.is_past)
    rows = await request.rows(read, {**tenant, "statement_id": statement_id}, query)
    ((_, issued, about, sealed, octets),) = rows
    if issued is None:
        raise reading.unknown("statement", rows)
    if octets is None or (await asyncio.to_thread(sha256, octets)).hexdigest() != sealed:
        raise DocumentAltered
    return FoundStatement(rows, issued, _decode_about(about), bytes(octets), f'"{sealed}"'.encode())


@read_route(
    router, "/{statement_id}", StatementDocument, LINE_ERRORS, summary="Show a statement's document"
)
async def show_statement(
    request: reading.ReadRequest, statement_id: AnyStatementId, query: reading.Present
) -> Response:
    """Show the very bytes of the document: their SHA-256 is the statement's `document_sha256`."""
    found = await find(request, statement_id)
    request.http.state.is_exact = True
    return or_not_modified(request.http, Reply(found.octets, found.rows.position, tag=found.tag))


_CUT = Cut(("service_line_id", *COLUMNS), lambda row: [row["service_line_id"], *cells(row)])


@router.get(
    "/{statement_id}/export",
    summary="Export a statement",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=answers("The rows of the document by line, and last its total.", "csv") | FEED_ERRORS,
)
async def export_statement(
    request: reading.ReadRequest, statement_id: AnyStatementId, query: StatementExportQuery
) -> Response:
    """Export the document's rows and its total as a table."""
    slot = begin_export(request)
    found = await find(request, statement_id)
    document = await asyncio.to_thread(msgspec.json.decode, found.octets)
    last = {"service_line_id": TOTAL, **document["total"]}

    async def pages() -> AsyncIterator[Sequence[Any]]:
        yield [(None, row) for row in (*document["rows"], last)]

    file = Exported(statement_id, lambda row: row[0], _CUT)
    return file.file(slot, query.format, pages(), found.rows.position, goes_on=False)


@read_route(
    router,
    "/{statement_id}/changes",
    AnswerOf[ShownChanges],
    STORY_ERRORS,
    summary="Show what changed since a statement",
)
async def show_statement_changes(
    request: reading.ReadRequest, statement_id: AnyStatementId, query: reading.Query
) -> Response:
    """Compare the numbers of a statement's period, as it has them, with those known now.

    A run that only left `pending` or `running` is no difference.
    """
    services = request.services
    async with services.heavy.slot(request.principal.tenant_key):
        about = (await find(request, statement_id, query)).about
        now = await resolve_as_of(request, VIEWS, query.instant)
        scope = scope_of(request.principal.tenant, about.organization_id, about.workspace_id)
        then, period = AsOf(about.position, about.as_of), (about.from_, about.to)
        found = await changes_of(services.pool.fetch, scope, period, then, now)
    data = {
        "changed": bool(found.lines),
        "total": {"then": OF_ALL.rendered(found.then), "now": OF_ALL.rendered(found.now)},
        "rows": [_changed(line, found.names) for line in found.lines],
    }
    return answer(json_text({"data": data}), now.position)


def _changed(changed: ChangedLine, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "service_line_id": changed.line.id,
        "service_line_name": names.get(changed.line.id),
        "then": OF_ALL.rendered(changed.then),
        "now": OF_ALL.rendered(changed.now),
        "events": changed.events,
        "event_count": changed.event_count,
    }


@read_route(
    router, "/{statement_id}/bundle", Bundle, FEED_ERRORS, summary="Prove a statement offline"
)
async def show_statement_bundle(
    request: reading.ReadRequest, statement_id: AnyStatementId, query: reading.Present
) -> Response:
    """Show the document with all that proves it, for `verifier.py statement`."""
    found = await find(request, statement_id)
    entry = await sealed_entry(request, found.issued)
    bundle = Bundle(
        document=base64_of(found.octets),
        stored=base64_of(entry.stored),
        leaf=base64_of(entry.leaf),
        inclusion=await inclusion_of(request, entry, entry.size),
        checkpoint=entry.note,
        key=f"{entry.vkey}\n",
    )
    return Reply(msgspec.json.encode(bundle), entry.sealed_until)
