"""A watch of blockers whose due time has passed."""

from datetime import datetime, timedelta
from typing import Any

from ledger.engine.values.values import LATEST
from ledger.features.watches.kinds import base, wording


class PastDue(base.Condition, frozen=True, tag="past_due"):
    """A blocker is open, and its due time has passed."""

    as_sent = "A blocker is open, and its `due_at` has passed."
    choice = "A blocker is past due"
    sentence = "a blocker of {lines} has been past due for {time}"
    at_once = "a blocker of {lines} is past due"
    starter = base.Starter("Past due")
    may_hold = "l.causes <> '{}' AND " + base.HAS_RANK.format(condition="r.due_at <= %(latest)s")
    earliest = """
        SELECT line_id, blocker_due_at + {least} FROM page
        WHERE blocked_since IS NOT NULL AND blocker_due_at < %(never)s"""

    @classmethod
    def parameters(cls, conditions: base.Conditions, now: datetime) -> dict[str, Any]:
        """``latest``: the last instant since which a condition may hold that is due now."""
        least = min(seconds for _, seconds in conditions)
        return {"never": LATEST, "latest": now - timedelta(seconds=least)}

    def episodes(self, current: base.LineNow) -> base.Episodes:
        return [
            base.begun("blocker", each.id, max(each.due_at, each.since), each.position)
            for each in current.execution.blockers.values()
            if each.due_at is not None
        ]

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        late = f" for {wording.length_text(for_seconds)}" if for_seconds else ""
        by = wording.of_blocker(current.execution, episode.subject.id, ", ")
        return f"A blocker of {current.name} is past due{late}{by}"

    def transitions(self, changes: base.Changes, since: datetime | None) -> base.Transitions:
        return base.of_blockers(changes)
