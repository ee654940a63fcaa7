"""A watch of lines that use more than a limit: see ``loops/sums.py`` and ``reads/limits.py``."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal

from ledger.engine.values.json_gate import MAX_INTEGER
from ledger.engine.values.values import day_of, week_of
from ledger.features.watches.kinds import base, wording

_HAS_USED = """EXISTS (
        SELECT FROM ledger.execution_day AS d
        WHERE d.line_key = {line}.line_key AND d.day >= {day})
    OR EXISTS (
        SELECT FROM ledger.run_day AS d
        WHERE d.line_key = {line}.line_key AND d.day >= {day})"""

_UNITS = {"tokens_used": "tokens", "hours": "hours", "runs": "runs"}

_PRESENT = {"day": "today", "week": "this week", "month": "this month"}


class UsageOver(base.Condition, frozen=True, tag="usage_over"):
    """A line has used more than this in the present day, ISO week or month, of UTC."""

    measure: Annotated[
        Literal["tokens_used", "hours", "runs"], base.Blank("Measure", "tokens_used", _UNITS)
    ]
    period: Annotated[
        Literal["day", "week", "month"], base.Blank("Period", "day", base.choices(*_PRESENT))
    ]
    limit: Annotated[
        float,
        base.Blank("Limit", 1_000_000),
        base.Checks(gt=0, le=MAX_INTEGER, allow_inf_nan=False),
    ]

    about = "sums"
    as_sent = "A line has used more than a limit in the present day, ISO week or month, of UTC."
    choice = "A line uses more than a limit"
    sentence = "{lines} has used more than {limit} {measure} in a {period}, {time} ago"
    at_once = "{lines} has used more than {limit} {measure} in a {period}"
    may_hold = f"({_HAS_USED.format(line='l', day='%(first)s')})"
    earliest = "SELECT p.line_id, %(now)s FROM page AS p WHERE " + _HAS_USED.format(
        line="p", day="%(earliest)s"
    )

    @classmethod
    def parameters(cls, conditions: base.Conditions, now: datetime) -> dict[str, Any]:
        first = min(condition.period_of(now)[0] for condition, _ in conditions)
        return {"first": first, "earliest": day_of(now) - timedelta(days=31)}

    def episodes(self, current: base.LineNow) -> base.Episodes:
        return [current.over[self]] if self in current.over else ()

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        amount = f"{self.limit:,.12g} {_UNITS[self.measure]} {_PRESENT[self.period]}"
        ago = f", for {wording.length_text(for_seconds)} now" if for_seconds else ""
        return f"{current.name} has used more than {amount}{ago}"

    def period_of(self, at: datetime) -> tuple[date, date]:
        """The first day of the period of an instant, and of the next one."""
        day = day_of(at)
        match self.period:
            case "day":
                return day, day + timedelta(days=1)
            case "week":
                return week_of(at), week_of(at) + timedelta(days=7)
            case "month":
                first = day.replace(day=1)
                return first, (first + timedelta(days=31)).replace(day=1)


def first_instant(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def over_since(line_id: str, period: date, position: int, recorded_at: datetime) -> base.Episode:
    """The episode of a line above a limit, since an event of the period that begins on a day."""
    subject = base.AlertSubject("service_line", line_id)
    since = max(first_instant(period), recorded_at)
    return base.Episode(subject, since, f"{period}@{position}", position)
