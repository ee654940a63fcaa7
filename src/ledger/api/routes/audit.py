"""The audit log: every write, recorded or refused, in log order (contract 5)."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi import Query as QueryParameters
from pydantic import AfterValidator, BaseModel, Field

from ledger.api import feed_models
from ledger.api.access.authentication import Authenticated
from ledger.api.documentation import READ_ERRORS
from ledger.api.lean import LeanRoute, MinPosition, needs
from ledger.api.reading import (
    OR,
    Page,
    Present,
    RangeParameters,
    any_of,
    services_of,
    split_words,
    tenant_filters,
)
from ledger.api.replies import Reply
from ledger.api.routes.feeds import VIEW, Identifier, Walk, position_in, time_filters
from ledger.domain.values import AUDIT_ID, ActorType
from ledger.intake.principal import Principal
from ledger.language.audited import ACTIONS, FACTS, actions_of
from ledger.language.published import TYPES
from ledger.postgres.scope import Planning
from ledger.reads.question import Question
from projections.event import feeds

router = APIRouter(prefix="/v1/audit-logs", tags=["audit"], route_class=LeanRoute)

WORDS = tuple(sorted(ACTIONS | TYPES.keys()))
"""What the filter ``action`` takes."""


def _known_words(words: str) -> str:
    if not all(map(actions_of, words.split(","))):
        raise ValueError("names what is neither an action of the audit log nor a type of events")
    return words


Words = Annotated[
    str,
    # In the document only: of a pattern so long nobody would learn what is wrong.
    Field(min_length=1, max_length=2000, json_schema_extra={"pattern": any_of(WORDS)}),
    AfterValidator(_known_words),
]


class AuditFilters(BaseModel):
    """Which entries."""

    organization_id: Annotated[
        str, Field(min_length=1, max_length=200, description="Whose log; always required.")
    ]
    workspace_id: Identifier = None
    actor_id: Identifier = None
    actor_type: Annotated[ActorType | None, Field(description="What kind of actor.")] = None
    action: Annotated[
        Words | None,
        Field(
            description="What entries are called, or the type of an event: what led to such events"
            f" (`execution.paused`: `execution.pause`, `service_line.paused`). {OR}",
            examples=["execution.paused"],
        ),
    ] = None
    outcome: Annotated[
        Literal["succeeded", "refused"] | None, Field(description="What became of it.")
    ] = None
    after: Annotated[
        str | None,
        Field(
            pattern=AUDIT_ID,
            description="An AUD id: what comes after it.",
            examples=["AUD-26-000123"],
        ),
    ] = None

    def chosen(self) -> dict[str, Any]:
        """The filters that were given, but for where to begin."""
        actions = sorted({a for word in split_words(self.action) or () for a in actions_of(word)})
        chosen: dict[str, Any] = {
            "organization_id": self.organization_id,
            "workspace_id": self.workspace_id,
            "actor_id": self.actor_id,
            "actor_type": self.actor_type,
            "action": actions,
            self.outcome or "": self.outcome,
            # What is no fact is found without a walk through all facts.
            "no_fact": self.outcome == "refused" or (actions and FACTS.isdisjoint(actions)),
        }
        return {name: value for name, value in chosen.items() if value}


class AuditQuery(Present, AuditFilters, RangeParameters, Page):
    """The audit log's parameters."""


@router.get(
    "",
    summary="Read the audit log",
    openapi_extra=needs("audit:read"),
    responses={200: {"model": feed_models.AuditPage}, **READ_ERRORS},
)
async def list_audit_entries(
    request: Request,
    principal: Authenticated,
    query: Annotated[AuditQuery, QueryParameters()],
    min_position: MinPosition = None,
) -> Response:
    """One entry for each fact, command and management act, the refused ones too, in log order.

    `from` and `to` are by `recorded_at`.
    """
    return await entries_page(request, principal, query, min_position)


async def entries_page(
    request: Request,
    principal: Principal,
    query: AuditQuery,
    min_position: int | None = None,
    is_backwards: bool = False,
) -> Reply:
    """A page of the audit log; backwards the newest entry first, for people."""
    walk = Walk(audit_filters(query, query, principal), position_in(query.after), is_backwards)
    question = entries_asked(principal, walk, query.cursor, query.limit + 1)
    return walk.page(await services_of(request).reads.ask(question, min_position), query)


def entries_asked(principal: Principal, walk: Walk, cursor: str | None, limit: int) -> Question:
    """So many entries of a walk along the audit log."""
    statement = feeds.audit_statement(frozenset(walk.filters), walk.is_backwards)
    parameters = walk.parameters(cursor, limit)
    return Question(principal.tenant, statement, parameters, VIEW, Planning.BY_VALUES)


def audit_filters(
    chosen: AuditFilters, stretch: RangeParameters, principal: Principal
) -> dict[str, Any]:
    """All filters of a statement, the credential's own among them."""
    return tenant_filters(principal) | chosen.chosen() | time_filters(stretch)
