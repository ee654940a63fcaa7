"""A line's JSON: rendered from its fold for the present row, from rows of the past when read.

The JSON has three parts. The *version* (``head`` of list row and detail, ``extra`` of the detail)
changes only with the line's own stream, and is stored as JSON. The *counts* and the *metrics*
change with its runs and check-ins; a step stores their numbers. The present row has them as JSON
too, because most lists are of the present. ``ShownLine`` and ``LineDetail`` describe the whole.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from ledger.engine.values import rendering, values
from ledger.engine.values.recorded import Actor
from ledger.features.lines.model import health
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import Resource
from ledger.features.lines.model.health import SignalName, SignalStatus
from projections.lines.line import Totals


class ShownBlocker(msgspec.Struct):
    """An open blocker."""

    id: str
    cause: values.Cause
    reason: str | None
    since: rendering.ViewInstant
    assignee: str | None
    due_at: rendering.ViewInstant | None


class ReportedBlocker(ShownBlocker):
    """An open blocker, and who reported it."""

    reported_by: str


class ShownHold(msgspec.Struct):
    """A hold."""

    hold: values.HoldName
    reason: str | None
    since: rendering.ViewInstant
    by: Actor
    until: rendering.ViewInstant | None


class ShownSignal(msgspec.Struct):
    """The latest report of a signal."""

    signal: SignalName
    status: SignalStatus
    value: Any
    evidence: Any


class ShownHealth(msgspec.Struct):
    """Score and signals, in order of first report."""

    score: int | None
    status: SignalStatus | None
    signals: list[ShownSignal]


class LineHead(msgspec.Struct):
    """The part of list row and detail that a line's own stream changes."""

    id: Annotated[str, Meta(pattern=values.RUN_ID)]
    service_line_id: Annotated[str, Meta(pattern=values.LINE_ID)]
    execution_model: values.ExecutionModel
    state: values.State
    workspace_id: str
    organization_id: str
    product_line: values.ProductLine
    project_tags: Sequence[str]
    state_since: rendering.ViewInstant
    health_status: SignalStatus | None
    started_at: rendering.ViewInstant
    name: str | None
    health_score: int | None
    oldest_blocker: ShownBlocker | None


class ShownLine(LineHead):
    """A line in a list."""

    last_activity_at: rendering.ViewInstant
    open_runs: Annotated[int, Meta(ge=0)]
    open_alerts: Annotated[int, Meta(ge=0), rendering.doc("Alerts that are not resolved.")]
    metrics: dict[str, float | int | None]


class LineDetail(ShownLine):
    """A line with all its details."""

    resources: list[Resource]
    health: ShownHealth
    blockers: list[ReportedBlocker]
    holds: list[ShownHold]
    closed_at: rendering.ViewInstant | None


class Version(NamedTuple):
    """The parts of a line that its own stream changes."""

    health_score: int | None
    head: str
    """JSON members of list row and detail."""
    extra: str
    """JSON members of the detail alone."""


def version(execution: Execution) -> Version:
    """Render the version after the latest event of a line's own stream."""
    score = health.score(execution.signals.values())
    status = health.status(score)
    head = LineHead(
        execution.execution_id,
        execution.id,
        execution.execution_model,  # type: ignore[arg-type]
        execution.state,
        execution.workspace_id,
        execution.organization_id,
        execution.product_line,  # type: ignore[arg-type]
        execution.project_tags,
        rendering.time_text(execution.state_since),
        status,
        rendering.time_text(execution.started_at),
        execution.name,
        score,
        _oldest(execution),
    )
    signals = [
        ShownSignal(s.signal, s.status, s.value, s.evidence) for s in execution.signals.values()
    ]
    extra = {
        "resources": list(execution.resources.values()),
        "health": ShownHealth(score, status, signals),
        "blockers": [rendering.render_as(ReportedBlocker, b) for b in execution.blockers.values()],
        "holds": [rendering.render_as(ShownHold, hold) for hold in execution.holds.values()],
        "closed_at": rendering.time_text(execution.closed_at),
    }
    return Version(score, rendering.members(head), rendering.members(extra))


def _oldest(execution: Execution) -> ShownBlocker | None:
    """The open blocker with the earliest ``since``; the first opened among equals.

    Effective times never fall along a stream, so this blocker is the first in order of opening.
    """
    first = next(iter(execution.blockers.values()), None)
    return None if first is None else rendering.render_as(ShownBlocker, first)


def counts(last_activity_at: str, open_runs: int) -> str:
    return f'"last_activity_at":{last_activity_at},"open_runs":{open_runs}'


def current_metric(model: str, amount: int) -> str:
    """The metric that follows the clock, as a JSON member with its comma, or empty.

    The contract's page State lists the metrics of each model.
    """
    match model:
        case "agent_runtime":
            return f'"invocations_today":{amount},'
        case "timeboxed_outcome":
            return ""
        case "capacity" | "ongoing_sla":
            return f'"hours_this_week":{amount / 100},'
        case _:
            return f'"check_ins_this_week":{amount},'


def lasting_metrics(model: str, score: int | None, totals: Totals) -> str:
    match model:
        case "agent_runtime":
            return (
                f'"invocations_total":{totals.started_runs},'
                f'"last_run_duration_ms":{rendering.json_text(totals.last_run_duration_ms)}'
            )
        case "timeboxed_outcome":
            return (
                f'"cycles_total":{totals.started_runs},"cycles_completed":{totals.completed_runs},'
                f'"last_run_duration_ms":{rendering.json_text(totals.last_run_duration_ms)}'
            )
        case "capacity" | "ongoing_sla":
            hours = (totals.hours or 0) / 100
            return f'"hours_total":{hours},"health_score":{rendering.json_text(score)}'
        case _:
            return f'"health_score":{rendering.json_text(score)}'


def item_of_past(row: Sequence[Any]) -> str:
    """The list row or detail made of the columns of ``statements.item_parts`` for the past."""
    head, extra, model, score, last_activity_at, open_runs, open_alerts, amount, *totals = row
    more = f',"open_alerts":{open_alerts}' + ("" if extra is None else f",{extra}")
    metrics = current_metric(model, amount or 0) + lasting_metrics(model, score, Totals(*totals))
    return f'{{{head},{counts(last_activity_at, open_runs)}{more},"metrics":{{{metrics}}}}}'
