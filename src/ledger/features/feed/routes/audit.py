"""The audit log: every write, recorded or refused, and reads of runs (contract, Feeds)."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import Response
from pydantic import AfterValidator, BaseModel, Field

from ledger.engine.http import exports, reading
from ledger.engine.http.lean import Router, needs, read_route
from ledger.engine.http.replies import PageOf, Reply
from ledger.engine.reads.question import Question
from ledger.engine.values.errors import Invalid
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import AUDIT_ID, ActorType
from ledger.features.feed.audited import ACTIONS, FACT_EVENT_TYPES, FACTS, Outcome, actions_of
from ledger.features.feed.envelopes import AuditEntry, audit_entry_of
from ledger.features.feed.published import TYPES
from ledger.features.feed.routes.feeds import Scan, position_in, time_filters
from ledger.features.keys.key_rows import KeyNames
from projections.feed import feeds, items

WORDS = tuple(sorted(ACTIONS | TYPES.keys()))

router = Router("/v1/audit-logs", "audit", words={"AuditAction": WORDS})

# Tables keep the columns that they have had; for a session, JSON has more.
_OF_SESSIONS = ("resource_by", "resource_provider", "resource_permissions")
_AUDIT_CUT = exports.cut_of(AuditEntry, without=_OF_SESSIONS).ordered(
    "id action actor_type actor_id reported_by resource_type resource_id outcome code occurred_at"
    " recorded_at request_id position resource_count resource_reason fact_source fact_id reason"
    " reported_by_name errors"
)
_AUDIT_LOG = exports.Exported("audit-log", lambda row: audit_entry_of(*row), _AUDIT_CUT)


def _checked_words(words: str) -> str:
    if not all(map(actions_of, words.split(","))):
        raise ValueError(
            "names a word that is neither an action of the audit log nor an event type"
        )
    return words


Words = Annotated[
    str,
    # The pattern is only in the document: as an error text it would be too long to help.
    Field(min_length=1, max_length=2000, json_schema_extra={"pattern": reading.any_of(WORDS)}),
    AfterValidator(_checked_words),
]


class AuditFilters(BaseModel):
    """The filters of audit entries."""

    organization_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="The organization of the log. Without it an administrator reads what"
            " belongs to no organization; anyone else must name it.",
        ),
    ] = None
    workspace_id: reading.Identifier = None
    service_line_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="A LIN id: writes to the line and its runs, and refusals that name it.",
            examples=["LIN-26-084729"],
        ),
    ] = None
    actor_id: reading.Identifier = None
    actor_type: Annotated[ActorType | None, Field(description="The type of the actor.")] = None
    action: Annotated[
        Words | None,
        Field(
            description="An action, or an event type. An event type means all actions that lead to"
            f" it (`execution.paused`: `execution.pause`, `service_line.paused`). {reading.OR}",
            examples=["execution.paused"],
        ),
    ] = None
    outcome: Annotated[
        Outcome | None,
        Field(description="The outcome of a write; `read`: somebody read a run's data."),
    ] = None
    after: Annotated[
        str | None,
        Field(
            pattern=AUDIT_ID,
            description="An AUD id: the entries after it.",
            examples=["AUD-26-000123"],
        ),
    ] = None

    def chosen(self) -> dict[str, Any]:
        """The requested filters, without ``after``."""
        actions = sorted(
            {a for word in reading.split_words(self.action) or () for a in actions_of(word)}
        )
        chosen: dict[str, Any] = {
            "organization_id": self.organization_id,
            "workspace_id": self.workspace_id,
            "service_line_id": self.service_line_id,
            "actor_id": self.actor_id,
            "actor_type": self.actor_type,
            "action": actions,
            # Among a line's facts, rare actions are found by the types of their events.
            "type": self.service_line_id and [t for a, t in FACT_EVENT_TYPES if a in actions],
            self.outcome or "": self.outcome,
            # With this filter, finding the other entries needs no scan of all facts.
            "no_fact": self.outcome in ("refused", "read")
            or (actions and FACTS.isdisjoint(actions)),
        }
        if self.organization_id is None:
            # A fact always belongs to an organization.
            chosen |= {"no_organization": True, "no_fact": True}
        return {name: value for name, value in chosen.items() if value}


class AuditQuery(AuditFilters, reading.RangeParameters, reading.Page):
    """The audit log's parameters."""


class ExportQuery(reading.Zoned, AuditFilters, reading.RangeParameters):
    """The parameters of an export of the audit log."""

    format: exports.Format = "jsonl"
    cursor: reading.Cursor = None


@router.get(
    "/export",
    summary="Export the audit log",
    openapi_extra=needs("audit:read"),
    response_class=Response,
    responses=exports.answers(
        "The entries of the list, one on each line, in JSON as an `AuditEntry`."
        " `after` and `cursor` continue an export: a CSV then has no header line."
    ),
)
async def export_audit_log(request: reading.ReadRequest, query: ExportQuery) -> Response:
    """Export the list as one file up to `Ledger-Position`; `after` resumes an export."""
    slot = exports.begin_export(request)
    scan = Scan(audit_filters(query, query, request.principal), position_in(query.after))
    question = entries_question(request.principal, scan, query.cursor, exports.PAGE).walked()
    goes_on = query.after is not None or query.cursor is not None
    first = await request.ask(question)
    pages = _named(request, exports.log_pages(request, question, first))
    return _AUDIT_LOG.file(slot, query.format, pages, first.position, goes_on=goes_on)


async def _named(
    request: reading.ReadRequest, pages: AsyncIterator[Sequence[exports.Row]]
) -> AsyncIterator[Sequence[exports.Row]]:
    """The rows of the audit log's pages as named events after a position, in portions."""
    names = key_names(request)
    async for found in pages:
        for begin in range(0, len(found), exports.PORTION):
            rows = [row[1:] for row in found[begin : begin + exports.PORTION]]
            yield [(event.position, event, name) for event, name in await named_events(rows, names)]


@read_route(router, "", PageOf[AuditEntry], summary="Read the audit log", permission="audit:read")
async def list_audit_entries(request: reading.ReadRequest, query: AuditQuery) -> Response:
    """List an entry for each fact, command and management act, even if refused, in log order.

    An entry `run.read` tells that a credential read data of a line's runs, once a UTC day. `from`
    and `to` are compared with `recorded_at`.
    """
    return await entries_page(request, query)


async def entries_page(
    request: reading.ReadRequest, query: AuditQuery, is_backwards: bool = False
) -> Reply:
    """A page of the audit log; backwards, for people, the newest entry comes first."""
    filters = audit_filters(query, query, request.principal)
    scan = Scan(filters, position_in(query.after), is_backwards)
    rows = await request.ask(
        entries_question(request.principal, scan, query.cursor, query.limit + 1)
    )
    found = [row[1:] for row in rows if row[1] is not None]
    named = await named_events(found, key_names(request))
    texts = {event.position: json_text(audit_entry_of(event, name)) for event, name in named}
    return scan.page(rows, query, lambda row: texts[row[0]])


async def entries_counted(request: reading.ReadRequest, query: AuditQuery, most: int) -> int:
    """The number of entries on all pages, up to ``most``. Only the web pages use this."""
    scan = Scan(audit_filters(query, query, request.principal), position_in(query.after), True)
    ((_, count),) = await request.ask(
        entries_question(request.principal, scan, None, most).counted()
    )
    return int(count)


def key_names(request: reading.ReadRequest) -> KeyNames:
    return KeyNames(request.services.pool, request.principal.tenant, request.tenant)


async def named_events(found: Sequence[Any], names: KeyNames) -> list[tuple[Recorded, str | None]]:
    """The found events, each with the name of its reporting key, or None."""
    events = [items.recorded_event(row) for row in found]
    key_names = await names.of(event.reported_by for event in events)
    return [(event, key_names[event.reported_by]) for event in events]


def entries_question(principal: Principal, scan: Scan, cursor: str | None, limit: int) -> Question:
    read = feeds.audit_read(frozenset(scan.filters), scan.is_backwards)
    return Question(principal.tenant, read, scan.parameters(cursor, limit))


def audit_filters(
    chosen: AuditFilters, period: reading.RangeParameters, principal: Principal
) -> dict[str, Any]:
    """All filters of a statement, including the credential's tenant.

    Raises Invalid if anyone but an administrator names no organization.
    """
    if chosen.organization_id is None and not principal.is_admin:
        raise Invalid.at("/organization_id", "is required")
    return reading.tenant_filters(principal) | chosen.chosen() | time_filters(period)
