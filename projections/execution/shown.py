"""A line's JSON: made of its fold for the present row, and of rows of the past when they are read.

A row shows three parts. The *version* (``head`` of list row and detail, ``extra`` of the detail)
changes only with the line's own stream, and is stored as JSON. The *counts* and the *metrics*
change with its runs and check-ins, and are made of the numbers of a step. The present row has them
as JSON too, because lists of the present are read most.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ledger.domain import health
from ledger.domain.execution import Blocker, Execution
from ledger.language.rendering import json_text, members, time_text
from projections.execution.line import Totals


class Version(NamedTuple):
    """The parts of a line that its own stream changes."""

    health_score: int | None
    head: str
    """JSON members of list row and detail."""
    extra: str
    """JSON members of the detail alone."""


def version(execution: Execution) -> Version:
    """The version after the latest event of a line's own stream."""
    score = health.score(execution.signals.values())
    status = health.status(score)
    head = {
        "id": execution.execution_id,
        "service_line_id": execution.id,
        "execution_model": execution.execution_model,
        "state": execution.state,
        "workspace_id": execution.workspace_id,
        "product_line": execution.product_line,
        "project_tags": execution.project_tags,
        "state_since": time_text(execution.state_since),
        "health_status": status,
        "started_at": time_text(execution.started_at),
        "name": execution.name,
        "health_score": score,
        "oldest_blocker": _oldest_blocker(execution),
    }
    signals = [
        {"signal": s.signal, "status": s.status, "value": s.value, "evidence": s.evidence}
        for s in execution.signals.values()
    ]
    extra = {
        "resources": list(execution.resources.values()),
        "health": {"score": score, "status": status, "signals": signals},
        "blockers": [
            _blocker(b) | {"reported_by": b.reported_by} for b in execution.blockers.values()
        ],
        "holds": [
            {"hold": h.hold, "reason": h.reason, "since": time_text(h.since), "by": h.by}
            for h in execution.holds.values()
        ],
        "closed_at": time_text(execution.closed_at),
    }
    return Version(score, members(head), members(extra))


def _oldest_blocker(execution: Execution) -> dict[str, Any] | None:
    """The open blocker with the least ``since``, of several the one that was opened first.

    Effective times never fall along a stream, so this blocker is the first in the order of opening.
    """
    first = next(iter(execution.blockers.values()), None)
    return None if first is None else _blocker(first)


def _blocker(blocker: Blocker) -> dict[str, Any]:
    return {
        "id": blocker.id,
        "cause": blocker.cause,
        "reason": blocker.reason,
        "since": time_text(blocker.since),
        "assignee": blocker.assignee,
        "due_at": time_text(blocker.due_at),
    }


def counts(last_activity_at: str, open_runs: int) -> str:
    """The counts as JSON members; the instant is JSON too."""
    return f'"last_activity_at":{last_activity_at},"open_runs":{open_runs}'


def current_metric(model: str, amount: int) -> str:
    """The metric that follows the clock, as a JSON member with its comma; empty if there is none.

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
    """The metrics that do not follow the clock, as JSON members."""
    match model:
        case "agent_runtime":
            return (
                f'"invocations_total":{totals.started_runs},'
                f'"last_run_duration_ms":{json_text(totals.last_run_duration_ms)}'
            )
        case "timeboxed_outcome":
            return (
                f'"cycles_total":{totals.started_runs},"cycles_completed":{totals.completed_runs},'
                f'"last_run_duration_ms":{json_text(totals.last_run_duration_ms)}'
            )
        case "capacity" | "ongoing_sla":
            return f'"hours_total":{(totals.hours or 0) / 100},"health_score":{json_text(score)}'
        case _:
            return f'"health_score":{json_text(score)}'


def item_of_past(row: Sequence[Any]) -> str:
    """The list row or detail of the columns ``ITEM_OF_PAST`` (``statements.py``)."""
    head, extra, model, score, last_activity_at, open_runs, amount, *totals = row
    more = "" if extra is None else f",{extra}"
    metrics = current_metric(model, amount or 0) + lasting_metrics(model, score, Totals(*totals))
    return f'{{{head},{counts(last_activity_at, open_runs)}{more},"metrics":{{{metrics}}}}}'
