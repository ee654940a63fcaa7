"""The exports of the audit log and of the feed.

An export goes up to the position that was reached when it began. The export therefore ends.
"""

from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Response
from msgspec.structs import replace

from ledger.api.lean import LeanRoute, needs
from ledger.api.reading import Asking, Cursor, Present, RangeParameters
from ledger.api.routes.audit import (
    AuditFilters,
    audit_filters,
    entries_asked,
    key_names,
    named_events,
)
from ledger.api.routes.feeds import EventFilters, Walk, events_asked, feed_filters, position_in
from ledger.api.routes.files import (
    PORTION,
    Exported,
    Format,
    Row,
    answers,
    begin_export,
    cut_of,
    require_valid,
)
from ledger.domain.errors import Behind
from ledger.language.envelopes import AuditEntry, Envelope, audit_entry_of
from ledger.reads.question import Answer, Question
from projections.event.items import feed_envelope

router = APIRouter(route_class=LeanRoute)

PAGE = 1000
"""Entries in a page, half a megabyte: some milliseconds for the database."""

_AUDIT_CUT = cut_of(AuditEntry).ordered(
    "id action actor_type actor_id reported_by resource_type resource_id outcome code occurred_at"
    " recorded_at request_id position resource_count resource_reason fact_source fact_id reason"
    " reported_by_name"
)
_AUDIT_LOG = Exported("audit-log", lambda row: audit_entry_of(*row), _AUDIT_CUT)
_FEED = Exported("events", feed_envelope, cut_of(Envelope))


class ExportQuery(Present, AuditFilters, RangeParameters):
    """The parameters of an export of the audit log."""

    format: Format = "jsonl"
    cursor: Cursor = None


class EventsExportQuery(Present, EventFilters, RangeParameters):
    """The parameters of an export of the feed."""

    format: Format = "jsonl"


@router.get(
    "/v1/audit-logs/export",
    tags=["audit"],
    summary="Export the audit log",
    openapi_extra=needs("audit:read"),
    response_class=Response,
    responses=answers(
        "The entries of the list, one on each line, in JSON as an `AuditEntry`."
        " `after` and `cursor` continue an export: a CSV then has no header line."
    ),
)
async def export_audit_log(asking: Asking, query: ExportQuery) -> Response:
    """Export the list as one file up to `Ledger-Position`; `after` resumes an export."""
    turn = begin_export(asking)
    walk = Walk(audit_filters(query, query, asking.principal), position_in(query.after))
    question = entries_asked(asking.principal, walk, query.cursor, PAGE).walked()
    goes_on = query.after is not None or query.cursor is not None
    first = await asking.ask(question)
    pages = _named(asking, _pages(asking, question, first))
    return _AUDIT_LOG.file(turn, query.format, pages, first.position, goes_on=goes_on)


@router.get(
    "/v1/events/export",
    tags=["feeds"],
    summary="Export events",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=answers(
        "The events of the feed, one on each line, in JSON as an `Event`. A CSV has the payload as"
        " JSON in its last column. `after` continues an export: a CSV then has no header line."
    ),
)
async def export_events(asking: Asking, query: EventsExportQuery) -> Response:
    """Export the feed as one file up to `Ledger-Position`; `after` resumes an export."""
    turn = begin_export(asking)
    walk = Walk(feed_filters(query, query, asking.principal), position_in(query.after))
    question = events_asked(asking.principal, walk, None, PAGE).walked()
    # The first page is read before the answer begins, so that a refusal gets its own status.
    first = await asking.ask(question)
    pages = _pages(asking, question, first)
    goes_on = query.after is not None
    return _FEED.file(turn, query.format, pages, first.position, goes_on=goes_on)


async def _named(
    asking: Asking, pages: AsyncIterator[Sequence[Row]]
) -> AsyncIterator[Sequence[Row]]:
    """The rows of the audit log's pages as named events behind a position, in portions."""
    names = key_names(asking)
    async for found in pages:
        for begin in range(0, len(found), PORTION):
            rows = [row[1:] for row in found[begin : begin + PORTION]]
            yield [(event.position, event, name) for event, name in await named_events(rows, names)]


async def _pages(asking: Asking, question: Question, rows: Answer) -> AsyncIterator[Sequence[Row]]:
    """The found rows of an export, from its first page on."""
    services, end = asking.services, rows.position
    while True:
        found = [row for row in rows if row[1] is not None and row[1] <= end]
        yield found
        if len(found) < PAGE:
            if rows.position < end:
                # A crash of the database took the view back: the missing rows existed before.
                raise Behind("The view has fallen behind the end of the export.")
            return
        await require_valid(asking)
        question = replace(question, parameters={**question.parameters, "after": found[-1][1]})
        rows = Answer(await services.door.fetch(*question.asked))
