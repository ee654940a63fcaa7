"""The answers of the tools, without nulls, zeros and empty lists.

Ids and fields are named as in the API. Texts that people and programs have written appear as
values, never as names of fields.
"""

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct


class ToolAnswer(Struct, kw_only=True, omit_defaults=True):
    """The base of all answers."""

    told_at: Annotated[datetime | None, Meta(description="When the ledger was asked.")] = None
    as_of: Annotated[
        datetime | None, Meta(description="The instant that is told of. Absent: now.")
    ] = None
    truncated: Annotated[bool, Meta(description="Whether there are more rows behind `cursor`.")]
    cursor: str | None = None


class _Row(Struct, kw_only=True, omit_defaults=True):
    """The base of all rows."""


class ActorRow(_Row, kw_only=True):
    """The actor of a change."""

    type: str
    id: str | None = None


class BlockerRow(_Row, kw_only=True):
    """An open blocker: somebody must act before work can go on."""

    id: str
    cause: str
    reason: str | None = None
    since: datetime
    assignee: str | None = None
    due_at: datetime | None = None
    overdue: bool = False
    reported_by: str | None = None


class HoldRow(_Row, kw_only=True):
    """A hold: the line is paused until it is lifted, or until its end."""

    hold: Annotated[str, Meta(description="Whose hold: operator or service_line.")]
    reason: str | None = None
    since: datetime
    until: datetime | None = None
    by: ActorRow


class SignalRow(_Row, kw_only=True):
    """The latest report of a health signal."""

    signal: str
    status: str
    value: str | float | bool | None = None
    evidence: str | None = None


class LineRow(_Row, kw_only=True):
    """A service line."""

    service_line_id: str
    name: str | None = None
    state: str
    state_since: datetime
    oldest_blocker: BlockerRow | None = None
    open_blockers: Annotated[int, Meta(description="Not told by the tool `find`.")] = 0
    holds: Annotated[list[HoldRow], Meta(description="Not told by the tool `find`.")] = []
    health_status: str | None = None
    health_score: int | None = None
    open_runs: int = 0
    open_alerts: int = 0
    execution_model: str
    product_line: str
    project_tags: list[str] = []
    workspace_id: str
    last_activity_at: datetime


class AlertRow(_Row, kw_only=True):
    """A watched condition that held for too long."""

    id: str
    watch_id: str
    watch_name: str
    severity: str
    status: str
    subject_type: Annotated[str, Meta(description="line, blocker, run or source.")]
    subject_id: Annotated[str, Meta(description="The thing for which the condition held.")]
    service_line_id: str | None = None
    service_line_name: str | None = None
    since: Annotated[datetime, Meta(description="Since when the condition held.")]
    due: datetime
    acknowledged_at: datetime | None = None
    acknowledged_by: ActorRow | None = None
    assignee: str | None = None
    note: str | None = None
    until: Annotated[
        datetime | None, Meta(description="From then on an acknowledged alert is open again.")
    ] = None
    resolved_at: datetime | None = None
    resolved_because: str | None = None


class NeedsAnswer(ToolAnswer, kw_only=True):
    """Lines that are stopped, and open alerts."""

    lines_by_state: dict[str, int] = {}
    lines: Annotated[
        list[LineRow], Meta(description="Blocked and paused lines, the longest stopped first.")
    ]
    open_alerts: Annotated[
        int, Meta(description="Alerts that are not resolved; the tool `alerts` lists all.")
    ] = 0
    worst_alerts: Annotated[
        list[AlertRow],
        Meta(description="Up to five of them, the worst. Not told for a project or a person."),
    ] = []


class ThingRow(_Row, kw_only=True):
    """Something with a fitting name or id."""

    type: str
    id: str
    name: Annotated[str | None, Meta(description="Of a blocker the beginning of its reason.")] = (
        None
    )
    service_line_id: str | None = None


class FindAnswer(ToolAnswer, kw_only=True):
    """Things that were found by a text, or lines by filters."""

    things: list[ThingRow] | None = None
    lines: list[LineRow] | None = None


class WhyAnswer(ToolAnswer, kw_only=True):
    """Why a line is in its state."""

    service_line_id: str
    name: str | None = None
    state: str
    state_since: datetime
    blockers: Annotated[list[BlockerRow], Meta(description="Open blockers, the oldest first.")]
    holds: list[HoldRow]
    health_status: str | None = None
    health_score: int | None = None
    bad_signals: Annotated[
        list[SignalRow], Meta(description="Health signals that are not green.")
    ] = []
    open_runs: int = 0
    last_activity_at: datetime
    closed_at: datetime | None = None
    open_alerts: int = 0
    worst_alerts: Annotated[
        list[AlertRow], Meta(description="Up to five alerts that are not resolved, the worst.")
    ] = []


class ResourceRow(_Row, kw_only=True):
    """Somebody or something allocated to the line."""

    type: str
    id: str
    name: str | None = None
    role: str | None = None
    allocated_hours_per_week: float | None = None
    status: str


class LineAnswer(ToolAnswer, kw_only=True):
    """A line with its details."""

    line: LineRow
    organization_id: str
    started_at: datetime
    closed_at: datetime | None = None
    metrics: dict[str, float] = {}
    signals: list[SignalRow] = []
    resources: list[ResourceRow] = []


class PairRow(_Row, kw_only=True):
    """A number or a word then and now. Absent: not known."""

    then: float | str | None = None
    now: float | str | None = None


class ChangedRow(_Row, kw_only=True):
    """A line that changed, without what is the same then and now, but for the state."""

    service_line_id: str
    service_line_name: str | None = None
    workspace_id: str
    state: PairRow
    health_status: PairRow | None = None
    health_score: PairRow | None = None
    open_blockers: PairRow | None = None
    open_runs: PairRow | None = None
    hours: PairRow | None = None
    runs: Annotated[PairRow | None, Meta(description="Runs that started in the period.")] = None
    runs_failed: PairRow | None = None
    tokens_used: PairRow | None = None
    events: Annotated[int, Meta(description="Recorded between both instants, up to 1,000.")]


class ChangesAnswer(ToolAnswer, kw_only=True):
    """The lines that changed between two instants."""

    then: datetime
    now: datetime
    lines_by_change: Annotated[
        dict[str, int],
        Meta(description="Of all lines, by newly_blocked, cleared, started and the like."),
    ] = {}
    lines: list[ChangedRow]


class EventRow(_Row, kw_only=True):
    """An event of a line or of one of its runs."""

    id: str
    type: str
    occurred_at: datetime
    recorded_at: datetime
    actor: ActorRow
    reported_by: Annotated[str, Meta(description="The credential of the reporter.")]
    subject: Annotated[str, Meta(description="The id of the line, the run or the alert.")]
    state_before: str | None = None
    state_after: str
    payload: Annotated[
        dict[str, Any],
        Meta(description="What the event says. Free content stands in it as JSON in a text."),
    ] = {}


class EventsAnswer(ToolAnswer, kw_only=True):
    """Events in the order of the log, the earliest first."""

    events: list[EventRow]


class ModelRow(_Row, kw_only=True):
    """The tokens of one model."""

    model: Annotated[str | None, Meta(description="Absent: the reporter did not tell it.")] = None
    tokens_used: int | None = None
    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


class RunRow(_Row, kw_only=True):
    """A run."""

    id: str
    service_line_id: str
    status: str
    external_id: Annotated[str | None, Meta(description="The name at the reporter.")] = None
    attempt: int = 1
    retry_of: str | None = None
    parent_run_id: str | None = None
    triggered_by: ActorRow | None = None
    requested_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    lease_seconds: int | None = None
    tokens_used: int | None = None
    token_usage: list[ModelRow] = []
    input: Annotated[
        str | None, Meta(description="JSON. Only where the operator allows payloads.")
    ] = None
    output: Annotated[
        str | None, Meta(description="JSON. Only where the operator allows payloads.")
    ] = None
    error: Annotated[
        str | None, Meta(description="JSON. Only where the operator allows payloads.")
    ] = None
    erased_at: datetime | None = None


class RunsAnswer(ToolAnswer, kw_only=True):
    """Runs, the newest request first."""

    payloads_are_shown: Annotated[
        bool, Meta(description="Whether rows have input, output and error, where a run has them.")
    ]
    runs: list[RunRow]


class SumRow(_Row, kw_only=True):
    """Sums, without zeros."""

    lines: int | None = None
    hours: Annotated[float | None, Meta(description="Hours that were checked in.")] = None
    check_ins: int | None = None
    runs: Annotated[dict[str, int], Meta(description="Runs by status.")] = {}
    tokens_used: int | None = None
    tokens_by_model: Annotated[list[ModelRow], Meta(description="Only in the total.")] = []
    hours_by_state: Annotated[
        dict[str, float], Meta(description="Hours that lines spent in each state.")
    ] = {}
    hours_by_cause: Annotated[
        dict[str, float], Meta(description="Hours for which each cause blocked lines.")
    ] = {}


class GroupRow(SumRow, kw_only=True):
    """The sums of a group, with its keys and names."""

    workspace_id: str | None = None
    workspace_name: str | None = None
    service_line_id: str | None = None
    service_line_name: str | None = None
    product_line: str | None = None
    execution_model: str | None = None
    project_tag: str | None = None
    project_name: str | None = None
    resource_id: str | None = None
    resource_name: str | None = None
    model: str | None = None
    month: str | None = None
    day: str | None = None


class SumsAnswer(ToolAnswer, kw_only=True):
    """The usage of a period."""

    since: datetime
    until: datetime
    time_zone: str
    total: Annotated[
        SumRow | None, Meta(description="Of all rows; only in the answer without a cursor.")
    ] = None
    rows: Annotated[list[GroupRow], Meta(description="Groups with anything in them.")]


class AlertsAnswer(ToolAnswer, kw_only=True):
    """Alerts, the latest due first."""

    alerts: list[AlertRow]
