"""Answers, and the bodies of commands, as OpenAPI describes them.

Frequent reads pass on stored JSON and build no models.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ledger.domain.health import SignalName, SignalStatus
from ledger.domain.values import (
    LINE_ID,
    RUN_ID,
    TEXT,
    ActorType,
    Cause,
    ExecutionModel,
    HoldName,
    ProductLine,
    RunStatus,
    State,
    TriggerType,
)
from ledger.intake.fact_types import Characters

SCHEMAS = "#/components/schemas/"
"""The place of schemas in the OpenAPI document."""

TEMPLATE = SCHEMAS + "{model}"


def reference(name: str) -> dict[str, Any]:
    """A reference to a schema of the OpenAPI document."""
    return {"$ref": SCHEMAS + name}


def one_of(field: str, names: Mapping[str, str]) -> dict[str, Any]:
    """The alternatives of a schema, told apart by a field's value: value → name of a schema."""
    references = {value: SCHEMAS + name for value, name in names.items()}
    return {
        "oneOf": [{"$ref": place} for place in references.values()],
        "discriminator": {"propertyName": field, "mapping": references},
    }


def camel(*names: str) -> str:
    """The names as one name of a class: ``camel("audit_entry", "outcome")``."""
    words = "_".join(names).replace(".", "_").replace("-", "_").split("_")
    return "".join(word[:1].upper() + word[1:] for word in words)


class Model(BaseModel):
    """An object that always has all its keys."""

    model_config = ConfigDict(extra="forbid")


class Meta(Model):
    """The end of a page."""

    cursor: str | None
    has_more: bool


class OldestBlocker(Model):
    """The open blocker of a line that was opened first."""

    id: str
    cause: Cause
    reason: str | None
    since: datetime
    assignee: str | None
    due_at: datetime | None


class ExecutionRow(Model):
    """A line in a list."""

    id: str = Field(pattern=RUN_ID)
    service_line_id: str = Field(pattern=LINE_ID)
    execution_model: ExecutionModel
    state: State
    workspace_id: str
    product_line: ProductLine
    project_tags: list[str]
    started_at: datetime
    last_activity_at: datetime
    state_since: datetime
    open_runs: int = Field(ge=0)
    health_status: SignalStatus | None
    name: str | None
    health_score: int | None
    oldest_blocker: OldestBlocker | None
    metrics: dict[str, float | int | None]


class ExecutionList(Model):
    """A page of lines."""

    data: list[ExecutionRow]
    meta: Meta


class ResourceModel(Model):
    """An allocated resource."""

    type: str
    id: str
    name: str | None
    role: str | None
    allocated_hours_per_week: float | None
    status: str


class SignalModel(Model):
    """The latest report of a signal."""

    signal: SignalName
    status: SignalStatus
    value: Any
    evidence: Any


class HealthModel(Model):
    """Score and signals, in order of first report."""

    score: int | None
    status: SignalStatus | None
    signals: list[SignalModel]


class BlockerModel(OldestBlocker):
    """An open blocker."""

    reported_by: str


class ActorModel(Model):
    """The actor of a change."""

    type: ActorType
    id: str


class HoldModel(Model):
    """A hold."""

    hold: HoldName
    reason: str | None
    since: datetime
    by: ActorModel


class ExecutionDetail(ExecutionRow):
    """A line with all its details."""

    resources: list[ResourceModel]
    health: HealthModel
    blockers: list[BlockerModel]
    holds: list[HoldModel]
    closed_at: datetime | None


class ExecutionAnswer(Model):
    """The answer that shows a line."""

    data: ExecutionDetail


class SummaryModel(Model):
    """Counts of lines, zero-filled."""

    total: int
    by_state: dict[State, int]
    by_execution_model: dict[ExecutionModel, int]
    by_product_line: dict[ProductLine, int]
    by_blocked_cause: dict[Cause, int]


class SummaryAnswer(Model):
    """The summary's answer."""

    data: SummaryModel


class TriggeredByModel(Model):
    """The trigger of a run."""

    type: TriggerType
    actor_id: str | None


class RunErrorModel(Model):
    """The error of a run."""

    code: str | None
    message: str | None


class RunModel(Model):
    """A run."""

    id: str = Field(pattern=RUN_ID)
    service_line_id: str = Field(pattern=LINE_ID)
    status: RunStatus
    triggered_by: TriggeredByModel | None
    input: Any
    output: Any
    error: RunErrorModel | None
    duration_ms: int | None
    tokens_used: int | None
    requested_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    erased_at: datetime | None
    external_id: str | None = Field(description="The run's name at the source that reported it.")
    parent_run_id: str | None = Field(pattern=RUN_ID)
    lease_seconds: int | None


class RunList(Model):
    """A page of runs."""

    data: list[RunModel]
    meta: Meta


class RunAnswer(Model):
    """The answer that shows a run."""

    data: RunModel


class IntervalModel(Model):
    """An interval in one state with the same open causes; ``to`` is null while it lasts."""

    state: State
    causes: list[Cause]
    from_: datetime = Field(alias="from")
    to: datetime | None
    seconds: float = Field(ge=0)


class TimelineTotals(Model):
    """Seconds, zero-filled; an interval counts for every cause that is open in it."""

    by_state: dict[State, float]
    by_cause: dict[Cause, float]


class TimelineModel(Model):
    """A line's states over time."""

    intervals: list[IntervalModel]
    totals: TimelineTotals


class TimelineAnswer(Model):
    """The timeline's answer."""

    data: TimelineModel


class ResourceHours(Model):
    """The hours of a resource; its id is null for check-ins that name no resource."""

    resource_id: str | None
    hours: float


class UsageTotals(Model):
    """The hours, runs and tokens that were used."""

    hours: float
    hours_by_resource: list[ResourceHours]
    runs: dict[RunStatus, int]
    tokens_used: int


class UsageDay(UsageTotals):
    """The usage on one UTC day."""

    date: date


class UsageModel(Model):
    """The usage of a line, in total and by day."""

    from_: datetime = Field(alias="from")
    to: datetime
    total: UsageTotals
    by_day: list[UsageDay]


class UsageAnswer(Model):
    """The usage's answer."""

    data: UsageModel


class FieldError(Model):
    """An invalid field or parameter."""

    pointer: str
    detail: str


class ItemError(Model):
    """Why a fact was refused. The pointers lead into the fact."""

    status: int
    code: str
    detail: str
    errors: list[FieldError]


class FactItem(Model):
    """The outcome of a fact."""

    index: int
    id: str | None
    source: str | None
    outcome: Literal["recorded", "duplicate", "refused"]
    subject: str | None
    event_ids: list[str]
    position: int | None
    error: ItemError | None


class FactAnswer(Model):
    """The answer to a single fact."""

    data: FactItem


class FactBatchAnswer(Model):
    """The answer to a batch, in the order of its facts."""

    data: list[FactItem]


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None
    errors: list[FieldError] | None = None


Written = Annotated[str, Field(min_length=1, max_length=500), Characters(TEXT)]
"""A reason."""


class CommandBody(BaseModel):
    """A command's body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(CommandBody):
    """A body without fields."""


class Reason(CommandBody):
    """The reason why a line is paused or resumed."""

    reason: Annotated[Written, Field(examples=["Waits for the client's approval"])]


class OptionalReason(CommandBody):
    """The reason why a line is resumed, if a reason is given."""

    reason: Annotated[Written | None, Field(examples=["Approved"])] = None


def _no_defaults(schema: dict[str, Any]) -> None:
    """Describe a body of changes: a field that is left out has no default, and one is needed."""
    schema["minProperties"] = 1
    for field in schema["properties"].values():
        field.pop("default", None)


class Changes(CommandBody):
    """The changes of a thing; a field that is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra=_no_defaults)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must name at least one field to change")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}
