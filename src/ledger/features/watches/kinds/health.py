"""A watch of the health of lines."""

from datetime import datetime
from typing import Annotated, get_args

from ledger.engine.values.values import EARLIEST
from ledger.features.lines.model import health
from ledger.features.lines.model.health import HealthLevel
from ledger.features.watches.kinds import base, wording


class HealthBelow(base.Condition, frozen=True, tag="health"):
    """The health of a line has this status, or a worse one."""

    status: Annotated[
        HealthLevel, base.Blank("Health", "red", {"red": "red", "amber": "amber or red"})
    ]

    words = (("WatchedHealth", get_args(HealthLevel)),)
    keeps = True
    choice = "The health of a line is amber or red"
    sentence = "the health of {lines} has been {status} for {time}"
    at_once = "the health of {lines} is {status}"
    seconds = base.HOUR
    starter = base.Starter("Red health for an hour", "critical")
    may_hold = base.HAS_RANK.format(condition="r.health_status IN ('amber', 'red')")
    earliest = """
        SELECT line_id, %(now)s FROM page
        WHERE health_status IN ('amber', 'red') AND state <> 'closed'"""

    def episodes(self, current: base.LineNow) -> base.Episodes:
        line = current.execution
        return base.of_line(
            current, line.crossed.get(self.status) if line.is_below(self.status) else None
        )

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        is_red = current.execution.is_below("red")
        worse = self.status if is_red == (self.status == "red") else "red"
        return f"The health of {current.name} {wording.been(worse, for_seconds)}"

    def transitions(self, changes: base.Changes, since: datetime | None) -> base.Transitions:
        holds, at = since is not None, since or EARLIEST
        for change in changes:
            if health.is_below(change.health_score, self.status) != holds:
                assert change.event is not None, "the event of a change tells when it happened"
                holds, at = not holds, max(at, change.event.occurred_at)
                yield base.Transition(at, holds)
