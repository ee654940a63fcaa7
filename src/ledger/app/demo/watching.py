"""The watches of the story: what they reported, and what people did about it.

The loop of watches runs at a few instants of the story. So some alerts were opened days ago, and
were resolved, or acknowledged, since.
"""

from datetime import datetime, timedelta

from ledger.app.demo.cast import cast
from ledger.app.demo.telling import Stage
from ledger.app.demo.views import await_end, views_at_end
from ledger.engine.values.principal import Principal
from ledger.features.watches.commands.alerts import Acknowledge
from ledger.features.watches.commands.watches import CreateWatch
from ledger.features.watches.loops.loop import Rounds
from ledger.features.watches.model.watch import STARTERS

_FIRST = timedelta(days=14)
"""How long before the end of the story the watches are set up."""

_LAST = timedelta(hours=3)
"""How long before the end of the story the last check is."""

_BLOCKED = timedelta(hours=2, minutes=5)
"""Other checks come after lines have been blocked for so long: by then the loop opens alerts."""

_MOST_CHECKS = 6
"""The most such checks, the latest ones."""

# The alerts that nobody acknowledged, the longest due first.
_UNACKNOWLEDGED = """
SELECT a.alert_id FROM ledger.alert AS a
WHERE a.resolved IS NULL AND a.organization_id = %s
  AND NOT EXISTS (SELECT FROM ledger.alert_acknowledgement AS k WHERE k.alert_id = a.alert_id)
ORDER BY a.rank DESC, a.due_at, a.alert_key LIMIT %s
"""

_NOTES = ("On it: I call them today.",)
"""The notes with which the lead acknowledges alerts after each check."""


class WatchCheck:
    """An act of the story in which the loop of watches checks."""

    def __init__(self, conninfo: str, organization_id: str, lead: str, at: datetime) -> None:
        self._conninfo, self._organization_id, self.at = conninfo, organization_id, at
        self._lead = Principal(
            lead, "user", frozenset({"watches:manage", "service_lines:manage"}), organization_id
        )

    def play(self, stage: Stage) -> None:
        """Run the loop, then let the lead acknowledge some alerts. Raises Unavailable."""
        with views_at_end(self._conninfo) as (connection, _):
            rounds, has_more = Rounds(stage, lambda: stage.at), True
            while has_more:
                done, has_more = rounds.run_round(connection)
                has_more = has_more or done > 0
                await_end(connection)
            found = connection.execute(
                _UNACKNOWLEDGED, (self._organization_id, len(_NOTES))
            ).fetchall()
        for (alert,), note in zip(found, _NOTES, strict=False):
            stage.execute(
                Acknowledge(alert, self._lead, note=note, assignee=self._lead.id, until=None)
            )


class WatchSetUp(WatchCheck):
    """The act in which the lead sets up the starter watches; the first check follows."""

    def play(self, stage: Stage) -> None:
        for settings in STARTERS:
            stage.execute(
                CreateWatch(
                    self._lead,
                    None,
                    organization_id=self._organization_id,
                    workspace_id=None,
                    settings=settings,
                )
            )
        super().play(stage)


def watch_acts(conninfo: str, organization_id: str, lead: str, now: datetime) -> list[WatchCheck]:
    """The acts of the watches in a story that ends now."""
    who, begin = (conninfo, organization_id, lead), now - _FIRST
    blocked = sorted(
        each.begin + _BLOCKED
        for line in cast(now)
        if line.organization_id == organization_id
        for each in line.interruptions
        if each.cause is not None
        and each.begin > begin
        and each.end is not None
        and each.end > each.begin + _BLOCKED
    )
    checks = [*blocked[-_MOST_CHECKS:], now - _LAST]
    return [WatchSetUp(*who, begin), *(WatchCheck(*who, at) for at in sorted(checks))]
