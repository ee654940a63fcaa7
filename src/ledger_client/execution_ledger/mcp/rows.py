"""Converts objects of the API to rows of answers."""

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


def as_row(kind: type[Struct], source: object, **other: object) -> Any:
    """A row with the fields of the same name; ``other`` replaces some."""
    names = {field.name for field in fields(kind)}.intersection(dir(source)) - other.keys()
    values = {name: getattr(source, name) for name in names}
    return kind(**{name: each for name, each in values.items() if each is not UNSET}, **other)


def who_row(actor: types.Actor) -> answers.ActorRow:
    return answers.ActorRow(type=actor.type, id=actor.id)


def blocker_row(source: object, as_of: str | None) -> answers.BlockerRow:
    row: answers.BlockerRow = as_row(answers.BlockerRow, source)
    row.overdue = row.due_at is not None and row.due_at < (instant_of(as_of) or now())
    return row


def hold_rows(line: types.LineDetail) -> list[answers.HoldRow]:
    return [as_row(answers.HoldRow, each, by=who_row(each.by)) for each in line.holds]


def signal_row(source: types.Signal) -> answers.SignalRow:
    return answers.SignalRow(
        signal=source.signal,
        status=source.status,
        value=content(source.value),
        evidence=None if source.evidence is None else str(content(source.evidence)),
    )


def line_row(source: types.Line | types.LineDetail, as_of: str | None) -> answers.LineRow:
    oldest = source.oldest_blocker
    row: answers.LineRow = as_row(
        answers.LineRow,
        source,
        oldest_blocker=oldest and blocker_row(oldest, as_of),
        **(
            {"holds": hold_rows(source), "open_blockers": len(source.blockers)}
            if isinstance(source, types.LineDetail)
            else {}
        ),
    )
    return row


def alert_row(source: types.Alert) -> answers.AlertRow:
    acknowledged, ended = source.acknowledged, source.resolved
    # Leave out the sentence of an alert: it is the ledger's own, around words of a tenant.
    row: answers.AlertRow = as_row(
        answers.AlertRow, source, subject_type=source.subject.type, subject_id=source.subject.id
    )
    if acknowledged is not None:
        row.acknowledged_at, row.acknowledged_by = acknowledged.at, who_row(acknowledged.by)
        row.assignee, row.note, row.until = (
            acknowledged.assignee,
            acknowledged.note,
            acknowledged.until,
        )
    if ended is not None:
        row.resolved_at, row.resolved_because = ended.at, ended.reason
    return row


def payload_of(source: dict[str, Any]) -> dict[str, Any]:
    """A payload without what its row already has, and without an alert's sentence."""
    others = {"text", "state_before", "state_after"}
    return {name: value for name, value in source.items() if name not in others}


def changed_row(source: types.ComparedLine) -> answers.ChangedRow:
    pairs = {
        field.name: _pair(getattr(source, field.name))
        for field in fields(answers.ChangedRow)
        if hasattr(getattr(source, field.name, None), "then")
    }
    state = answers.PairRow(then=source.state.then, now=source.state.now)
    row: answers.ChangedRow = as_row(
        answers.ChangedRow, source, **{**pairs, "state": state, "events": source.events.count}
    )
    return row


def _pair(source: Any) -> answers.PairRow | None:
    return None if source.then == source.now else answers.PairRow(then=source.then, now=source.now)


def run_row(source: types.Run, shows_payloads: bool) -> answers.RunRow:
    payloads = {
        name: _json(getattr(source, name)) if shows_payloads else None
        for name in ("input", "output", "error")
    }
    trigger = source.triggered_by
    row: answers.RunRow = as_row(
        answers.RunRow,
        source,
        **payloads,
        triggered_by=trigger and answers.ActorRow(type=trigger.type, id=trigger.actor_id),
        token_usage=_models(source.token_usage or ()),
    )
    return row


def _json(value: Any) -> str | None:
    return None if value is None else str(content(value, always=True))


def _models(source: Iterable[types.TokenUsage | types.TokensByModel]) -> list[answers.ModelRow]:
    return [as_row(answers.ModelRow, each) for each in source]


def sum_row(kind: type[answers.SumRow], source: types.UsageSums | types.UsageRow) -> Any:
    """Sums without nulls and zeros, with hours instead of seconds."""
    other = {
        "lines": source.lines or None,
        "hours": source.hours or None,
        "check_ins": source.check_ins or None,
        "runs": counted(source.runs),
        "tokens_used": source.tokens_used or None,
        # In each row they would fill the answer. If grouped by model, each row is a model.
        "tokens_by_model": _models(source.tokens_by_model or ()) if kind is answers.SumRow else [],
        "hours_by_state": _hours(source.seconds_by_state),
        "hours_by_cause": _hours(source.seconds_by_cause),
    }
    return as_row(kind, source, **other)


def counted(counts: dict[str, int] | None) -> dict[str, int]:
    return {name: count for name, count in (counts or {}).items() if count}


def _hours(seconds: dict[str, float] | None) -> dict[str, float]:
    hours = {name: round(each / 3_600, 2) for name, each in (seconds or {}).items()}
    return {name: each for name, each in hours.items() if each}
