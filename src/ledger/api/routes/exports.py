"""Exports of any length in constant memory: the audit log and the feed (JSON lines, CSV).

An export walks its log page by page, each page by a short statement of its own, up to the position
that was reached when the export began. The export therefore ends, and holds no connection while a
slow reader takes its time. If an export cannot go on, it breaks off: an incomplete file never looks
complete, and the missing entries follow the last line that was received (``after``).
"""

import asyncio
import csv
import io
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import psycopg
from fastapi import APIRouter, Request, Response
from fastapi import Query as QueryParameters
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.types import Receive, Scope, Send

from ledger.api.access.authentication import Authenticated
from ledger.api.documentation import READ_ERRORS
from ledger.api.lean import LeanRoute, MinPosition, needs
from ledger.api.problems import Unauthorized
from ledger.api.reading import (
    Cursor,
    Present,
    RangeParameters,
    services_of,
)
from ledger.api.routes.audit import AuditFilters, audit_filters, entries_asked
from ledger.api.routes.feeds import EventFilters, Walk, events_asked, feed_filters, position_in
from ledger.domain.errors import Behind, LedgerError
from ledger.intake.principal import Principal
from ledger.language.audited import Resource
from ledger.language.envelopes import AuditEntry, Envelope, FactReference
from ledger.language.rendering import json_text
from ledger.postgres.scope import Planning
from ledger.reads.question import Answer, Question
from projections.event.items import audit_entry, feed_envelope

router = APIRouter(route_class=LeanRoute)

_logger = logging.getLogger(__name__)

PAGE = 1000
"""Entries in a page, half a megabyte: some milliseconds for the database."""

PORTION = 200
"""Entries rendered at once: other requests wait for some milliseconds at most."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet may take for a formula: senders choose some cells."""

AUDIT_COLUMNS = (
    "id",
    "action",
    "actor_type",
    "actor_id",
    "reported_by",
    "resource_type",
    "resource_id",
    "outcome",
    "code",
    "occurred_at",
    "recorded_at",
    "request_id",
    "position",
    "resource_count",
    "resource_reason",
    "fact_source",
    "fact_id",
)

EVENT_COLUMNS = (
    "id",
    "type",
    "occurred_at",
    "recorded_at",
    "position",
    "actor_type",
    "actor_id",
    "reported_by",
    "subject_type",
    "subject_id",
    "service_line_id",
    "organization_id",
    "workspace_id",
    "causation_id",
    "fact_source",
    "fact_id",
    "payload",
)

_NO_RESOURCE = Resource(None, "")

Cells = tuple[str | int | None, ...]

Format = Annotated[
    Literal["jsonl", "csv"], Field(description="JSON objects, one on each line, or a table.")
]


class Exported(NamedTuple):
    """A log that can be exported: the name of its file, and how its entries are written."""

    name: str
    entry: Callable[[Sequence[Any]], Envelope | AuditEntry]
    """Makes an entry from the columns of its event."""
    columns: tuple[str, ...]
    """The columns of the table."""
    cells: Callable[[Any], Cells]
    """Makes the row of an entry."""

    def lines(self, rows: Iterable[Sequence[Any]]) -> bytes:
        """Some found events as JSON lines."""
        return "".join(f"{json_text(self.entry(row))}\n" for row in rows).encode()

    def table(self, rows: Iterable[Sequence[Any]]) -> bytes:
        """Some found events as rows of the table."""
        return csv_of(self.cells(self.entry(row)) for row in rows)


Render = Callable[[Iterable[Sequence[Any]]], bytes]
"""Makes the bytes of some found events."""


def csv_of(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return the rows as CSV (RFC 4180)."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _audit_cells(entry: AuditEntry) -> Cells:
    resource = entry.resource or _NO_RESOURCE
    return (
        entry.id,
        harmless(entry.action),
        harmless(entry.actor.type),
        harmless(entry.actor.id),
        harmless(entry.reported_by),
        harmless(resource.type),
        harmless(resource.id),
        entry.outcome,
        entry.code,
        entry.occurred_at,
        entry.recorded_at,
        harmless(entry.request_id),
        entry.position,
        resource.count or None,
        harmless(resource.reason or None),
        *_fact_cells(entry.fact),
    )


def _event_cells(event: Envelope) -> Cells:
    return (
        event.id,
        event.type,
        event.occurred_at,
        event.recorded_at,
        event.position,
        harmless(event.actor.type),
        harmless(event.actor.id),
        harmless(event.reported_by),
        event.subject.type,
        event.subject.id,
        event.service_line_id,
        harmless(event.organization_id),
        harmless(event.workspace_id),
        event.causation_id,
        *_fact_cells(event.fact),
        json_text(event.payload),
    )


def _fact_cells(fact: FactReference | None) -> tuple[str | None, str | None]:
    return (None, None) if fact is None else (harmless(fact.source), harmless(fact.id))


def harmless(word: str | None) -> str | None:
    """Return the word in a form that no spreadsheet takes for a formula."""
    return "'" + word if word is not None and word.startswith(_FORMULA) else word


_AUDIT_LOG = Exported("audit-log", audit_entry, AUDIT_COLUMNS, _audit_cells)
_FEED = Exported("events", feed_envelope, EVENT_COLUMNS, _event_cells)


class ExportQuery(Present, AuditFilters, RangeParameters):
    """The parameters of an export of the audit log."""

    format: Format = "jsonl"
    cursor: Cursor = None


class EventsExportQuery(Present, EventFilters, RangeParameters):
    """The parameters of an export of the feed."""

    format: Format = "jsonl"


class Export(StreamingResponse):
    """A streamed answer that breaks off if its rows cannot be read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the export. An error leaves it unfinished, so the server closes the connection."""
        try:
            await super().__call__(scope, receive, send)
        except (LedgerError, psycopg.Error) as error:
            _logger.warning("an export broke off: %s", error)


def _files(description: str) -> dict[int | str, dict[str, Any]]:
    """The answers of an export, as OpenAPI has them."""
    kinds = ("application/x-ndjson", "text/csv")
    content = {kind: {"schema": {"type": "string"}} for kind in kinds}
    return {200: {"description": description, "content": content}, **READ_ERRORS}


@router.get(
    "/v1/audit-logs/export",
    tags=["audit"],
    summary="Export the audit log",
    openapi_extra=needs("audit:read"),
    response_class=Response,
    responses=_files(
        "The entries of the list, one on each line, in JSON as an `AuditEntry`."
        " `after` and `cursor` continue an export: a CSV then has no header line."
    ),
)
async def export_audit_log(
    request: Request,
    principal: Authenticated,
    query: Annotated[ExportQuery, QueryParameters()],
    min_position: MinPosition = None,
) -> Response:
    """Export the list as one file up to `Ledger-Position`; `after` resumes an export."""
    walk = Walk(audit_filters(query, query, principal), position_in(query.after))
    question = entries_asked(principal, walk, query.cursor, PAGE)
    goes_on = query.after is not None or query.cursor is not None
    return await _export(
        request, principal, question, _AUDIT_LOG, query.format, goes_on, min_position
    )


@router.get(
    "/v1/events/export",
    tags=["feeds"],
    summary="Export events",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=_files(
        "The events of the feed, one on each line, in JSON as an `Event`. A CSV has the payload as"
        " JSON in its last column. `after` continues an export: a CSV then has no header line."
    ),
)
async def export_events(
    request: Request,
    principal: Authenticated,
    query: Annotated[EventsExportQuery, QueryParameters()],
    min_position: MinPosition = None,
) -> Response:
    """Export the feed as one file up to `Ledger-Position`; `after` resumes an export."""
    walk = Walk(feed_filters(query, query, principal), position_in(query.after))
    question = events_asked(principal, walk, None, PAGE)
    goes_on = query.after is not None
    return await _export(request, principal, question, _FEED, query.format, goes_on, min_position)


async def _export(
    request: Request,
    principal: Principal,
    question: Question,
    log: Exported,
    format_: str,
    goes_on: bool,
    min_position: int | None,
) -> Response:
    """Return a walk's rows as a file; a table has no heading if it ``goes_on``."""
    # The first page is read before the answer begins, so that a refusal gets its own status.
    first = await services_of(request).reads.ask(question, min_position)
    is_table = format_ == "csv"
    heading = csv_of([log.columns]) if is_table and not goes_on else b""
    render = log.table if is_table else log.lines
    return Export(
        _pages(request, principal, question, first, render, heading),
        media_type="text/csv; charset=utf-8" if is_table else "application/x-ndjson",
        headers={
            "Ledger-Position": str(first.position),
            "Content-Disposition": f'attachment; filename="{log.name}.{format_}"',
            "Cache-Control": "no-store",
        },
    )


async def _pages(
    request: Request,
    principal: Principal,
    question: Question,
    rows: Answer,
    render: Render,
    heading: bytes,
) -> AsyncIterator[bytes]:
    """An export's bytes, from its first page on."""
    services, end = services_of(request), rows.position
    if heading:
        yield heading
    while True:
        found = [row for row in rows if row[1] is not None and row[1] <= end]
        for begin in range(0, len(found), PORTION):
            yield render(row[1:] for row in found[begin : begin + PORTION])
            await asyncio.sleep(0)
        if len(found) < PAGE:
            if rows.position < end:
                # A crash of the database took the view back: the missing rows existed before.
                raise Behind("The view has fallen behind the end of the export.")
            return
        # A credential that ended meanwhile ends the export, of the API and of the page alike.
        if await services.authenticator.lapsed([principal]):
            raise Unauthorized("The credential was revoked or has expired.")
        values = {**question.parameters, "after": found[-1][1]}
        rows = Answer(
            await services.door.fetch(question.tenant, question.statement, values, Planning.WALK)
        )
