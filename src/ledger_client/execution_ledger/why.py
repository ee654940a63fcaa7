"""Why a line is in its state, from the line as the API returns it."""

from datetime import datetime
from typing import NamedTuple

from execution_ledger.types import Hold, LineDetail, ReportedBlocker


class Why(NamedTuple):
    """Why a line is in its state. As a text, it has a sentence for each reason."""

    line: str
    name: str | None
    state: str
    since: datetime
    blockers: list[ReportedBlocker]
    """The open blockers, the oldest first."""
    holds: list[Hold]
    health_score: int | None

    @classmethod
    def of(cls, line: LineDetail) -> "Why":
        """The reasons from a line that was read."""
        blockers = sorted(line.blockers, key=lambda blocker: blocker.since)
        return cls(
            line.service_line_id,
            line.name,
            line.state,
            line.state_since,
            blockers,
            line.holds,
            line.health.score,
        )

    def __str__(self) -> str:
        sentences = [f"{self.line} is {self.state} since {_minute(self.since)}."]
        for hold in self.holds:
            until = f" until {_minute(hold.until)}" if hold.until else ""
            sentences.append(f"Hold of the {hold.hold}{until}: {hold.reason or 'no reason given'}.")
        for blocker in self.blockers:
            who = f", with {blocker.assignee}" if blocker.assignee else ""
            due = f", due {_minute(blocker.due_at)}" if blocker.due_at else ""
            reason = blocker.reason or "no reason given"
            sentences.append(f"Blocker {blocker.id} ({blocker.cause}{who}{due}): {reason}.")
        return "\n".join(sentences)


def _minute(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%MZ")
