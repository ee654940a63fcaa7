"""Events and the audit log as OpenAPI describes them; their bytes come ready from the view."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from ledger.api.models import ActorModel, Meta, Model
from ledger.domain.values import AUDIT_ID, EVENT_ID, State


class SubjectModel(Model):
    """What an event is about."""

    type: Literal["service_line", "run", "webhook"]
    id: str


class EventModel(Model):
    """One event as it is told outside. Each type's payload is described at `/v1/event-types`."""

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


class EventPage(Model):
    """A page of the feed."""

    data: list[EventModel]
    meta: Meta


class EventAnswer(Model):
    """One event's answer."""

    data: EventModel


class EventTypeModel(Model):
    """One type of the published language."""

    type: str
    version: int
    description: str
    schema_: str = Field(alias="schema", description="The path of its JSON Schema.")


class EventTypeList(Model):
    """Every type."""

    data: list[EventTypeModel]


class AuditResource(BaseModel):
    """What a write was about.

    ``count`` is there where it stands for that many refused writes, ``reason`` where a run was
    erased.
    """

    type: str
    id: str
    count: int | None = None
    reason: str | None = None


class AuditEntry(Model):
    """One write."""

    id: str = Field(pattern=AUDIT_ID)
    action: str
    actor: ActorModel
    reported_by: str
    resource: AuditResource | None
    outcome: Literal["succeeded", "refused"]
    code: str | None
    occurred_at: datetime
    recorded_at: datetime
    request_id: str | None
    position: int


class AuditPage(Model):
    """A page of the audit log."""

    data: list[AuditEntry]
    meta: Meta


class HistoryEvent(EventModel):
    """One event of a line or its runs, with the line's state before and after it."""

    state_before: State | None
    state_after: State


class HistoryPage(Model):
    """A page of a line's history."""

    data: list[HistoryEvent]
    meta: Meta


class TickModel(Model):
    """A place in a line's history at which something happened, and the line's state after it."""

    position: int
    state: State


class PlaceModel(Model):
    """Where one stands in a line's history, with what is around it."""

    first: HistoryEvent
    last: HistoryEvent
    until: list[HistoryEvent]
    """The latest ones up to the place, the newest first."""
    next: HistoryEvent | None
    ticks: list[TickModel]
    """Some, far enough apart to be told apart."""


class PlaceAnswer(Model):
    """The answer to where one stands."""

    data: PlaceModel
