"""The page of the audit log, newest first (``/ui/audit``)."""

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Response
from pydantic import Field

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import ReadRequest
from ledger.engine.http.replies import PageOf
from ledger.engine.page.log import COUNTED, PAGE_ROWS, WrittenRange, chips, stream_address
from ledger.engine.page.pages import PageRoute, export_route, go, read_answer, show
from ledger.engine.values.values import ActorType
from ledger.features.feed.audited import Outcome, actions_of
from ledger.features.feed.envelopes import AuditEntry
from ledger.features.feed.names import names_of_page
from ledger.features.feed.page.actions import GROUPS, label_of, labels_of
from ledger.features.feed.published import TYPES, UNCHANGED_HEALTH
from ledger.features.feed.routes import audit

router = APIRouter(prefix="/ui/audit", include_in_schema=False, route_class=PageRoute)

_PUBLISHED = frozenset[str]().union(*map(actions_of, TYPES)) - {UNCHANGED_HEALTH}
"""The actions whose events are in the feed, apart from a health report without a change."""


class AuditPageQuery(audit.AuditQuery, WrittenRange):
    """The audit log's parameters; the default organization is the credential's own."""

    limit: Annotated[int, Field(ge=1, le=100)] = PAGE_ROWS


@router.get("", openapi_extra=needs("audit:read"))
async def show_audit_log(request: ReadRequest, query: AuditPageQuery) -> Response:
    """A page of entries, newest first; the first page refreshes as the log grows."""
    address = query.canonical(request.http)
    if address is not None:
        return go(address)
    chosen = _chosen(query)
    filters = {name: value for name, value in chosen.items() if value}
    whose = query.organization_id or request.principal.organization_id
    narrowed = query.model_copy(update={"organization_id": whose})
    found = await read_answer(
        audit.entries_page(request, narrowed, is_backwards=True),
        PageOf[AuditEntry],
    )
    return show(
        request.http,
        "audit.html",
        whose=whose,
        entries=found.data,
        older=found.meta.cursor if found.meta.has_more else None,
        query=query,
        chosen=chosen,
        given=filters,
        exported=filters | ({"organization_id": whose} if whose is not None else {}),
        given_limit=None if query.limit == PAGE_ROWS else query.limit,
        total=await audit.entries_counted(request, narrowed, COUNTED),
        chips=[
            chip._replace(value=labels_of(chip.value)) if chip.name == "action" else chip
            for chip in chips(request.http, filters)
        ],
        line=query.service_line_id,
        **await names_of_page(
            request,
            found.data,
            (entry.resource for entry in found.data),
            [query.service_line_id],
        ),
        # The feed has no event without an organization.
        stream=whose
        and stream_address(
            request.principal,
            chosen | {"organization_id": whose},
            ("organization_id", "workspace_id"),
        ),
        groups=GROUPS,
        label_of=label_of,
        labels_of=labels_of,
        has_event=_has_event,
        actor_types=get_args(ActorType),
        outcomes=get_args(Outcome),
    )


def _has_event(entry: AuditEntry) -> bool:
    return entry.outcome == "succeeded" and entry.action in _PUBLISHED


def _chosen(query: AuditPageQuery) -> dict[str, Any]:
    chosen = {name: getattr(query, name) for name in audit.AuditFilters.model_fields}
    return chosen | {"from": query.from_, "to": query.to}


export_route(router, "/export", audit.export_audit_log, "audit:read")
