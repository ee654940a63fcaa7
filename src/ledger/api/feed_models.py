"""Events and the audit log as OpenAPI describes them; their bytes come ready from the view."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from ledger.api.models import ActorModel, Meta, Model
from ledger.domain.values import AUDIT_ID, EVENT_ID, State


class SubjectModel(Model):
    """The subject of an event."""

    type: Literal["service_line", "run", "webhook", "workspace", "project"]
    id: str


class FactReference(Model):
    """The fact that an event records: `source` and `id` of the CloudEvent, as sent."""

    source: str
    id: str


class EventModel(Model):
    """An event as feeds and webhooks show it. `/v1/event-types` describes each type's payload."""

    id: str = Field(pattern=EVENT_ID)
    type: str
    occurred_at: datetime
    recorded_at: datetime
    position: int
    actor: ActorModel
    reported_by: str
    subject: SubjectModel
    service_line_id: str | None
    organization_id: str
    workspace_id: str | None
    causation_id: str | None
    payload: dict[str, Any]
    fact: FactReference | None = Field(
        description="Null where no fact was reported, and on events that a fact merely caused."
    )


class EventPage(Model):
    """A page of the feed."""

    data: list[EventModel]
    meta: Meta


class EventAnswer(Model):
    """The answer that shows an event."""

    data: EventModel


class EventTypeModel(Model):
    """A type of the published language."""

    type: str
    version: int
    description: str
    schema_: str = Field(alias="schema", description="The path of the type's JSON Schema.")


class EventTypeList(Model):
    """All event types."""

    data: list[EventTypeModel]


class AuditResource(BaseModel):
    """The resource of a write.

    ``count`` is present if the entry stands for that many refused writes, ``reason`` if the write
    erased a run.
    """

    type: str
    id: str
    count: int | None = None
    reason: str | None = None


class AuditEntry(Model):
    """A write, succeeded or refused."""

    id: str = Field(pattern=AUDIT_ID)
    action: str
    actor: ActorModel
    reported_by: str
    reported_by_name: str | None = Field(
        description="The present name of the API key `reported_by`. Null for other credentials, for"
        " a key without a name, and for a key that is not of the credential's tenant."
    )
    resource: AuditResource | None
    outcome: Literal["succeeded", "refused", "read"]
    code: str | None
    reason: str | None = Field(
        description="Why a command was given. Null for facts, whose event has it, for refused"
        " writes, and where no reason was given."
    )
    occurred_at: datetime
    recorded_at: datetime
    request_id: str | None
    position: int
    fact: FactReference | None = Field(
        description="The fact, also a refused one if its source and id could be read."
    )


class AuditPage(Model):
    """A page of the audit log."""

    data: list[AuditEntry]
    meta: Meta


class HistoryEvent(EventModel):
    """An event of a line or its runs, with the line's state before and after the event."""

    state_before: State | None
    state_after: State


class HistoryPage(Model):
    """A page of a line's history."""

    data: list[HistoryEvent]
    meta: Meta


class TickModel(Model):
    """The instant at which an event was recorded, and the line's state after the event."""

    at: datetime
    state: State


class PlaceModel(Model):
    """A place in a line's history, with the events around it."""

    first: HistoryEvent
    last: HistoryEvent
    until: list[HistoryEvent]
    """The latest events up to the place, newest first."""
    next: HistoryEvent | None
    ticks: list[TickModel]
    """A selection of the events, far enough apart in time for a slider."""


class PlaceAnswer(Model):
    """The answer that shows a place."""

    data: PlaceModel
