"""The facts product lines report: one model a type (contract 2), and the table of all of them.

These models check what comes in and describe it in OpenAPI. Unknown fields are refused: a
misspelt optional field would otherwise be lost without a word.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ledger.domain.health import SignalName, SignalStatus
from ledger.domain.values import (
    LINE_ID,
    ORGANIZATION_ID,
    RUN_ID,
    WORKSPACE_ID,
    Cause,
    ExecutionModel,
    ProductLine,
    TriggerType,
    parse_instant,
)


def _instant(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be an RFC 3339 instant with an offset")
    return parse_instant(value)


def _hours(value: float) -> float:
    if round(value, 2) != value:
        raise ValueError("must have at most 2 decimal places")
    return value


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Name = Annotated[str, Field(max_length=200)]
Tags = Annotated[list[Label], Field(max_length=100)]
"""Kept anew with each change of a line, and with each of its intervals."""
FactId = Annotated[str, Field(min_length=1, max_length=255)]
Hours = Annotated[float, Field(ge=0, le=1_000_000), AfterValidator(_hours)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class FactData(BaseModel):
    """The ``data`` of a fact."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResourceData(FactData):
    """A resource allocated to a line; the same id again replaces it."""

    id: Label
    type: Label
    name: Name | None = None
    role: Name | None = None
    allocated_hours_per_week: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    status: Label = "active"


class ServiceLineActivated(FactData):
    """A service line became active: its execution record begins."""

    organization_id: Annotated[str, Field(pattern=ORGANIZATION_ID)]
    workspace_id: Annotated[str, Field(pattern=WORKSPACE_ID)]
    product_line: ProductLine
    execution_model: ExecutionModel
    project_tags: Tags = []
    resources: list[ResourceData] = []
    started_at: Instant | None = None
    execution_id: Annotated[str, Field(pattern=RUN_ID)] | None = None


class ServiceLineUpdated(FactData):
    """The line's project tags, all of them."""

    project_tags: Tags


class Reasoned(FactData):
    """Nothing but why."""

    reason: str | None = None


class CheckedIn(FactData):
    """Work on a line, with hours where hours count."""

    hours: Hours | None = None
    note: str | None = None
    resource_id: Label | None = None


class CheckInVoided(FactData):
    """An earlier check-in of the same source no longer counts."""

    fact_id: FactId
    reason: str | None = None


class Blocked(FactData):
    """Someone must act before the line can go on."""

    blocker_id: Label
    cause: Cause
    reason: str | None = None


class Unblocked(FactData):
    """A blocker was cleared."""

    blocker_id: Label
    reason: str | None = None


class ResourceReleased(FactData):
    """A resource left the line."""

    id: Label


class HealthSignalReported(FactData):
    """One signal's present status."""

    signal: SignalName
    status: SignalStatus
    value: Any = None
    evidence: Any = None


class TriggeredBy(FactData):
    """What set a run off."""

    type: TriggerType
    actor_id: Label | None = None


class RunRequested(FactData):
    """A run was asked for."""

    service_line_id: Annotated[str, Field(pattern=LINE_ID)]
    triggered_by: TriggeredBy | None = None
    input: Any = None


class RunStarted(FactData):
    """A run began; the line must be named unless the run was requested before."""

    service_line_id: Annotated[str, Field(pattern=LINE_ID)] | None = None
    triggered_by: TriggeredBy | None = None
    input: Any = None


class RunCompleted(FactData):
    """A run ended as meant."""

    output: Any = None
    tokens_used: Count | None = None
    duration_ms: Count | None = None


class RunError(FactData):
    """What went wrong."""

    code: str | None = None
    message: str | None = None


class RunFailed(FactData):
    """A run ended in an error."""

    error: RunError | None = None
    output: Any = None
    tokens_used: Count | None = None
    duration_ms: Count | None = None


class FactType(NamedTuple):
    """How facts of one type are checked and addressed."""

    data: type[FactData]
    subject: Literal["line", "run"]
    subject_optional: bool = False
    """The ledger issues a RUN id where the reporter has none."""


FACT_TYPES: dict[str, FactType] = {
    "service_line.activated": FactType(ServiceLineActivated, "line"),
    "service_line.updated": FactType(ServiceLineUpdated, "line"),
    "service_line.paused": FactType(Reasoned, "line"),
    "service_line.resumed": FactType(Reasoned, "line"),
    "service_line.closed": FactType(Reasoned, "line"),
    "execution.checked_in": FactType(CheckedIn, "line"),
    "execution.check_in_voided": FactType(CheckInVoided, "line"),
    "execution.blocked": FactType(Blocked, "line"),
    "execution.unblocked": FactType(Unblocked, "line"),
    "resource.allocated": FactType(ResourceData, "line"),
    "resource.released": FactType(ResourceReleased, "line"),
    "health.signal_reported": FactType(HealthSignalReported, "line"),
    "run.requested": FactType(RunRequested, "run", subject_optional=True),
    "run.started": FactType(RunStarted, "run", subject_optional=True),
    "run.completed": FactType(RunCompleted, "run"),
    "run.failed": FactType(RunFailed, "run"),
    "run.cancelled": FactType(Reasoned, "run"),
}

ALIASES = {
    "agent.run.started": "run.started",
    "agent.run.completed": "run.completed",
    "agent.run.failed": "run.failed",
}
"""The platform's own names for the same facts."""
