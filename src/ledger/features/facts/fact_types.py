"""The types of facts that product lines report: a model of each, and the table (contract, Facts).

The models check the data of facts and describe them in OpenAPI. Unknown fields are refused: a
misspelt optional field would otherwise be lost silently.
"""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ledger.engine.http.models import Characters, Instant, Label
from ledger.engine.values import values
from ledger.features.lines.model.health import SignalName, SignalStatus
from ledger.features.runs.model.token_usage import TokenUsage, Used


def _hours(value: float) -> float:
    if round(value, 2) != value:
        raise ValueError("must have at most 2 decimal places")
    return value


Name = Annotated[str, Field(max_length=200), Characters(values.LABEL)]
Text = Annotated[str, Characters(values.TEXT)]
Tags = Annotated[list[Label], Field(max_length=100)]
"""Limited, because each change and each interval of a line stores all of its tags."""
FactId = Annotated[str, Field(min_length=1, max_length=255), Characters(values.LABEL)]
Hours = Annotated[
    float, Field(ge=0, le=1_000_000, description="At most two decimals."), AfterValidator(_hours)
]
MAX_COUNT = 2**53 - 1
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
ExternalId = Annotated[
    Label,
    Field(
        description="The run's name at the fact's source, in place of a RUN id. It must hold no"
        " personal data, since an erasure does not reach it."
    ),
]
MAX_ATTEMPTS = 1000
Attempt = Annotated[
    int,
    Field(
        ge=1,
        le=MAX_ATTEMPTS,
        description="Which run of the name. By default the latest, and 1 for a new name.",
    ),
]
ParentName = Annotated[
    Label,
    Field(
        description="The parent's name at the fact's source, in place of `parent_run_id`. The"
        " parent may be reported later. As `external_id`, it must hold no personal data."
    ),
]
NAME_OF_RUN = "external_id"
"""The field that names a fact's run at the source, together with ``attempt``."""
RunId = Annotated[str, Field(pattern=values.RUN_ID)]
Lease = Annotated[int, Field(ge=values.LEASE_SECONDS[0], le=values.LEASE_SECONDS[1])]


class FactData(BaseModel):
    """The ``data`` of a fact."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    REMOVABLE: ClassVar[frozenset[str]] = frozenset()
    """The fields in which null removes a value; in others null means absence."""


ANY_JSON = frozenset({"input", "output", "value", "evidence"})
"""The fields of any JSON, in which null is a value."""


class ResourceData(FactData):
    """A resource allocated to a line; it replaces an earlier resource with the same id."""

    id: Label
    type: Label
    name: Name | None = None
    role: Name | None = None
    allocated_hours_per_week: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    status: Label = "active"


class ServiceLineActivated(FactData):
    """A service line became active: its execution record begins."""

    organization_id: Annotated[str, Field(pattern=values.ORGANIZATION_ID)]
    workspace_id: Annotated[str, Field(pattern=values.WORKSPACE_ID)]
    product_line: values.ProductLine
    execution_model: values.ExecutionModel
    project_tags: Tags = []
    resources: list[ResourceData] = []
    started_at: Instant | None = None
    execution_id: RunId | None = None
    name: Label | None = None


class ServiceLineUpdated(FactData):
    """The line's complete project tags, its name, or both; they replace the earlier ones.

    A name of null takes the name away.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})
    REMOVABLE = frozenset({"name"})

    project_tags: Annotated[Tags, Field(default_factory=list)]
    name: Label | None = None

    @model_validator(mode="after")
    def _has_some(self) -> "ServiceLineUpdated":
        if not self.model_fields_set:
            raise ValueError("must have project_tags or name")
        return self


class Reasoned(FactData):
    """Only a reason, which is optional."""

    reason: Text | None = None


class CheckedIn(FactData):
    """Work on a line, with its hours if they are reported."""

    hours: Hours | None = None
    note: Text | None = None
    resource_id: Label | None = None


class CheckInVoided(FactData):
    """An earlier check-in of the same source no longer counts."""

    fact_id: FactId
    reason: Text | None = None


class Blocked(FactData):
    """A blocker was opened: somebody must act before work on the line can continue."""

    blocker_id: Label
    cause: values.Cause
    reason: Text | None = None
    assignee: Label | None = None
    """The person or system that should act."""
    due_at: Instant | None = None


class Unblocked(FactData):
    """A blocker was cleared."""

    blocker_id: Label
    reason: Text | None = None


class ResourceReleased(FactData):
    """A resource left the line."""

    id: Label


class HealthSignalReported(FactData):
    """The present status of one health signal."""

    signal: SignalName
    status: SignalStatus
    value: Any = None
    evidence: Any = None


class TriggeredBy(FactData):
    """The trigger of a run."""

    type: values.TriggerType
    actor_id: Label | None = None


class RunNamed(FactData):
    """The name of a run at its source, which finds the run as `subject` does."""

    external_id: ExternalId | None = None
    attempt: Attempt | None = None


class RunBegun(RunNamed):
    """The data that a request and a start of a run have in common."""

    triggered_by: TriggeredBy | None = None
    input: Any = None
    parent_run_id: RunId | None = None
    parent_external_id: ParentName | None = None
    lease_seconds: Lease | None = None

    @field_validator("parent_external_id")
    @classmethod
    def _stands_alone(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and info.data.get("parent_run_id") is not None:
            raise ValueError("must not stand beside parent_run_id")
        return name


class RunRequested(RunBegun):
    """A run was requested."""

    service_line_id: Annotated[str, Field(pattern=values.LINE_ID)]


class RunStarted(RunBegun):
    """A run began; `service_line_id` is required unless the run was requested before."""

    service_line_id: Annotated[str, Field(pattern=values.LINE_ID)] | None = None


class ModelTokens(FactData):
    """The tokens of one model: caches are a part of `input`, reasoning is a part of `output`."""

    model: Label
    input: Count = 0
    output: Count = 0
    cache_read: Count = 0
    cache_write: Count = 0
    reasoning: Count = 0

    @model_validator(mode="after")
    def _has_its_parts(self) -> "ModelTokens":
        if self.cache_read + self.cache_write > self.input:
            raise ValueError("must have no more cache_read and cache_write than input")
        if self.reasoning > self.output:
            raise ValueError("must have no more reasoning than output")
        return self


MAX_MODELS = 20
"""The models of a run's tokens."""


class Using(FactData):
    """The data that say how many tokens a run used."""

    tokens_used: Annotated[
        Count | None, Field(description="By default the sum of `token_usage`.")
    ] = None
    token_usage: Annotated[list[ModelTokens], Field(max_length=MAX_MODELS)] | None = None

    @field_validator("token_usage")
    @classmethod
    def _adds_up(
        cls, usage: list[ModelTokens] | None, info: ValidationInfo
    ) -> list[ModelTokens] | None:
        if not usage:
            return None
        if len({each.model for each in usage}) < len(usage):
            raise ValueError("must have each model once")
        total = sum(each.input + each.output for each in usage)
        if total > MAX_COUNT:
            raise ValueError(f"must have at most {MAX_COUNT} tokens together")
        if info.data.get("tokens_used") not in (None, total):
            raise ValueError(f"must add up to tokens_used: input and output are {total}")
        return usage

    @property
    def used(self) -> Used:
        if self.token_usage is None:
            return Used(self.tokens_used)
        by_model = tuple(TokenUsage(**each.model_dump()) for each in self.token_usage)
        return Used(sum(each.input + each.output for each in by_model), by_model)


class RunCompleted(Using, RunNamed):
    """A run ended successfully."""

    output: Any = None
    duration_ms: Count | None = None


class RunError(FactData):
    """The error that ended a run."""

    code: Annotated[str, Characters(values.LABEL)] | None = None
    # Any text, like the run's output: the end of a run is not refused for the colours of its log.
    message: str | None = None


class RunFailed(Using, RunNamed):
    """A run ended in an error."""

    error: RunError | None = None
    output: Any = None
    duration_ms: Count | None = None


class RunCancelled(Using, Reasoned, RunNamed):
    """A run was cancelled."""


class RunUsageCorrected(Using, Reasoned, RunNamed):
    """The tokens of an ended run, which replace the former ones.

    `tokens_used` or `token_usage` is required.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"tokens_used": {"type": "null"}}},
            "then": {
                "properties": {"token_usage": {"type": "array", "items": {}}},
                "required": ["token_usage"],
            },
        }
    )

    @model_validator(mode="after")
    def _has_some(self) -> "RunUsageCorrected":
        if self.used.tokens is None:
            raise ValueError("must have tokens_used or token_usage")
        return self


class DirectoryNamed(FactData):
    """The name by which people call a workspace or a project; null takes the name away.

    An administrator's fact names `organization_id`.
    """

    REMOVABLE = frozenset({"name"})

    name: Label | None
    organization_id: Annotated[str, Field(pattern=values.ORGANIZATION_ID)] | None = None


class FactType(NamedTuple):
    """The model and the subject of one type of facts."""

    data: type[FactData]
    subject: Literal["line", "run", "directory"]
    """``directory``: a workspace or a project."""
    subject_optional: bool = False
    """True if the ledger issues a RUN id when the reporter gives no subject."""


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
    "directory.named": FactType(DirectoryNamed, "directory"),
    "run.requested": FactType(RunRequested, "run", subject_optional=True),
    "run.started": FactType(RunStarted, "run", subject_optional=True),
    "run.completed": FactType(RunCompleted, "run"),
    "run.failed": FactType(RunFailed, "run"),
    "run.cancelled": FactType(RunCancelled, "run"),
    "run.usage_corrected": FactType(RunUsageCorrected, "run"),
}

ALIASES = {
    "agent.run.started": "run.started",
    "agent.run.completed": "run.completed",
    "agent.run.failed": "run.failed",
}
"""The platform's own names for the same types of facts."""
