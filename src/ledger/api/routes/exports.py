"""Exports of any length in constant memory: the audit log (JSON lines, CSV) and the feed.

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
from typing import Annotated, Any, Literal

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
from ledger.language.envelopes import AuditEntry, Envelope
from ledger.language.rendering import json_text
from ledger.postgres.scope import Planning
from ledger.reads.question import Answer, Question
from projections.event.items import audit_entry, feed_envelope

router = APIRouter(prefix="/v1/audit-logs", tags=["audit"], route_class=LeanRoute)

_logger = logging.getLogger(__name__)

_PAGE = 1000
"""Entries in a page, half a megabyte: some milliseconds for the database."""

_PORTION = 200
"""Entries rendered at once: other requests wait for some milliseconds at most."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet may take for a formula: senders choose some cells."""

COLUMNS = (
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
)


_NO_RESOURCE = Resource(None, "")

Render = Callable[[Iterable[Any]], bytes]
"""Makes the bytes of some entries."""

Entry = Callable[[Sequence[Any]], Envelope | AuditEntry]
"""Makes an entry from the columns of its event."""


def _lines(entries: Iterable[Envelope | AuditEntry]) -> bytes:
    return "".join(f"{json_text(entry)}\n" for entry in entries).encode()


def _table(entries: Iterable[AuditEntry]) -> bytes:
    return _csv(map(_cells, entries))


def _csv(rows: Any) -> bytes:
    """Return the rows as CSV (RFC 4180)."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _cells(entry: AuditEntry) -> tuple[str | int | None, ...]:
    resource = entry.resource or _NO_RESOURCE
    return (
        entry.id,
        _harmless(entry.action),
        _harmless(entry.actor.type),
        _harmless(entry.actor.id),
        _harmless(entry.reported_by),
        _harmless(resource.type),
        _harmless(resource.id),
        entry.outcome,
        entry.code,
        entry.occurred_at,
        entry.recorded_at,
        _harmless(entry.request_id),
        entry.position,
        resource.count or None,
        _harmless(resource.reason or None),
    )


def _harmless(word: str | None) -> str | None:
    """Return the word in a form that no spreadsheet takes for a formula."""
    return "'" + word if word is not None and word.startswith(_FORMULA) else word


_FORMATS: dict[str, tuple[str, Render, bytes]] = {
    "jsonl": ("application/x-ndjson", _lines, b""),
    "csv": ("text/csv; charset=utf-8", _table, _csv([COLUMNS])),
}
"""format → (content type, renderer, heading)."""


class ExportQuery(Present, AuditFilters, RangeParameters):
    """The parameters of an export of the audit log."""

    format: Annotated[
        Literal["jsonl", "csv"], Field(description="JSON objects, one on each line, or a table.")
    ] = "jsonl"
    cursor: Cursor = None


class EventsExportQuery(Present, EventFilters, RangeParameters):
    """The parameters of an export of the feed."""

    format: Literal["jsonl"] = "jsonl"


class _Export(StreamingResponse):
    """A streamed answer that breaks off if its rows cannot be read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the export. An error leaves it unfinished, so the server closes the connection."""
        try:
            await super().__call__(scope, receive, send)
        except (LedgerError, psycopg.Error) as error:
            _logger.warning("an export broke off: %s", error)


@router.get(
    "/export",
    summary="Export the audit log",
    openapi_extra=needs("audit:read"),
    response_class=Response,
    responses={
        200: {
            "description": "The entries of the list, one on each line, in JSON as an `AuditEntry`."
            " `after` and `cursor` continue an export: a CSV then has no header line.",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        **READ_ERRORS,
    },
)
async def export_audit_log(
    request: Request,
    principal: Authenticated,
    query: Annotated[ExportQuery, QueryParameters()],
    min_position: MinPosition = None,
) -> Response:
    """Export the list as one file up to `Ledger-Position`; `after` resumes an export."""
    walk = Walk(audit_filters(query, query, principal), position_in(query.after))
    question = entries_asked(principal, walk, query.cursor, _PAGE)
    name = f"audit-log.{query.format}"
    goes_on = query.after is not None or query.cursor is not None
    return await _export(request, principal, question, audit_entry, name, min_position, goes_on)


async def export_events(
    request: Request, principal: Principal, query: EventsExportQuery
) -> Response:
    """Export the feed up to `Ledger-Position` as JSON lines. For people: programs read the feed."""
    walk = Walk(feed_filters(query, query, principal), position_in(query.after))
    question = events_asked(principal, walk, None, _PAGE)
    return await _export(request, principal, question, feed_envelope, f"events.{query.format}")


async def _export(
    request: Request,
    principal: Principal,
    question: Question,
    entry: Entry,
    name: str,
    min_position: int | None = None,
    goes_on: bool = False,
) -> Response:
    """Return a walk's rows as a file of this name, without a heading if it ``goes_on``."""
    # The first page is read before the answer begins, so that a refusal gets its own status.
    first = await services_of(request).reads.ask(question, min_position)
    content_type, render, heading = _FORMATS[name.rsplit(".", 1)[1]]
    return _Export(
        _pages(request, principal, question, entry, first, render, b"" if goes_on else heading),
        media_type=content_type,
        headers={
            "Ledger-Position": str(first.position),
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        },
    )


async def _pages(
    request: Request,
    principal: Principal,
    question: Question,
    entry: Entry,
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
        for begin in range(0, len(found), _PORTION):
            yield render(entry(row[1:]) for row in found[begin : begin + _PORTION])
            await asyncio.sleep(0)
        if len(found) < _PAGE:
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
