"""Rows of the answers, made of what the API shows."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import fields

from execution_ledger import types
from execution_ledger.mcp import answers
from execution_ledger.mcp.texts import content, instant_of


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def as_row(kind: type[Struct], shown: object, **other: object) -> Any:
    """A row with the fields of the same names, but for those that are given."""
    names = {field.name for field in fields(kind)}.intersection(dir(shown)) - other.keys()
    values = {name: getattr(shown, name) for name in names}
    return kind(**{name: each for name, each in values.items() if each is not UNSET}, **other)


def who_row(actor: types.Actor) -> answers.ActorRow:
    return answers.ActorRow(type=actor.type, id=actor.id)


def blocker_row(shown: object, as_of: str | None) -> answers.BlockerRow:
    row: answers.BlockerRow = as_row(answers.BlockerRow, shown)
    row.overdue = row.due_at is not None and row.due_at < (instant_of(as_of) or now())
    return row


def hold_rows(line: types.LineDetail) -> list[answers.HoldRow]:
    return [as_row(answers.HoldRow, each, by=who_row(each.by)) for each in line.holds]


def signal_row(shown: types.Signal) -> answers.SignalRow:
    return answers.SignalRow(
        signal=shown.signal,
        status=shown.status,
        value=content(shown.value),
        evidence=None if shown.evidence is None else str(content(shown.evidence)),
    )


def line_row(shown: types.Line | types.LineDetail, as_of: str | None) -> answers.LineRow:
    oldest = shown.oldest_blocker
    row: answers.LineRow = as_row(
        answers.LineRow,
        shown,
        oldest_blocker=oldest and blocker_row(oldest, as_of),
        **(
            {"holds": hold_rows(shown), "open_blockers": len(shown.blockers)}
            if isinstance(shown, types.LineDetail)
            else {}
        ),
    )
    return row


def alert_row(shown: types.Alert) -> answers.AlertRow:
    taken, ended = shown.acknowledged, shown.resolved
    # The sentence of an alert is left out: it is the ledger's own, around words of a tenant.
    row: answers.AlertRow = as_row(
        answers.AlertRow, shown, subject_type=shown.subject.type, subject_id=shown.subject.id
    )
    if taken is not None:
        row.acknowledged_at, row.acknowledged_by = taken.at, who_row(taken.by)
        row.assignee, row.note, row.until = taken.assignee, taken.note, taken.until
    if ended is not None:
        row.resolved_at, row.resolved_because = ended.at, ended.reason
    return row


def payload_of(shown: dict[str, Any]) -> dict[str, Any]:
    """A payload without what its row tells already, and without an alert's sentence."""
    beside = {"text", "state_before", "state_after"}
    return {name: value for name, value in shown.items() if name not in beside}


def changed_row(shown: types.ComparedLine) -> answers.ChangedRow:
    pairs = {
        field.name: _pair(getattr(shown, field.name))
        for field in fields(answers.ChangedRow)
        if hasattr(getattr(shown, field.name, None), "then")
    }
    state = answers.PairRow(then=shown.state.then, now=shown.state.now)
    row: answers.ChangedRow = as_row(
        answers.ChangedRow, shown, **{**pairs, "state": state, "events": shown.events.count}
    )
    return row


def _pair(shown: Any) -> answers.PairRow | None:
    return None if shown.then == shown.now else answers.PairRow(then=shown.then, now=shown.now)


def run_row(shown: types.Run, shows_payloads: bool) -> answers.RunRow:
    payloads = {
        name: _json(getattr(shown, name)) if shows_payloads else None
        for name in ("input", "output", "error")
    }
    trigger = shown.triggered_by
    row: answers.RunRow = as_row(
        answers.RunRow,
        shown,
        **payloads,
        triggered_by=trigger and answers.ActorRow(type=trigger.type, id=trigger.actor_id),
        token_usage=_models(shown.token_usage or ()),
    )
    return row


def _json(value: Any) -> str | None:
    return None if value is None else str(content(value, always=True))


def _models(shown: Iterable[types.TokenUsage | types.TokensByModel]) -> list[answers.ModelRow]:
    return [as_row(answers.ModelRow, each) for each in shown]


def sum_row(kind: type[answers.SumRow], shown: types.UsageSums | types.UsageRow) -> Any:
    """Sums without what is null or zero, with hours in place of seconds."""
    other = {
        "lines": shown.lines or None,
        "hours": shown.hours or None,
        "check_ins": shown.check_ins or None,
        "runs": counted(shown.runs),
        "tokens_used": shown.tokens_used or None,
        # In each row, they would be most of an answer; grouped by model, a row is a model.
        "tokens_by_model": _models(shown.tokens_by_model or ()) if kind is answers.SumRow else [],
        "hours_by_state": _hours(shown.seconds_by_state),
        "hours_by_cause": _hours(shown.seconds_by_cause),
    }
    return as_row(kind, shown, **other)


def counted(counts: dict[str, int] | None) -> dict[str, int]:
    return {name: count for name, count in (counts or {}).items() if count}


def _hours(seconds: dict[str, float] | None) -> dict[str, float]:
    hours = {name: round(each / 3_600, 2) for name, each in (seconds or {}).items()}
    return {name: each for name, each in hours.items() if each}
