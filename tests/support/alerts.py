"""Real alerts for the tests of their delivery: watches, and the loop that opens and resolves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.watches.commands.alerts import Acknowledge
from ledger.features.watches.commands.watches import CreateWatch
from ledger.features.watches.kinds import InState
from ledger.features.watches.loops.loop import WatchLoop
from ledger.features.watches.model.watch import WatchSettings
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.ledger import new_id
from tests.support.views import head, led, query, until, view_positions
from tests.support.webhooks import WebhookLedger

_ALERTS = """
SELECT originator_id FROM ledger.ledger_events
WHERE topic LIKE 'alert.opened/%' ORDER BY notification_id
"""


class Alarms:
    """A loop of watches over a ledger whose views follow the log by themselves."""

    def __init__(self, ledger: WebhookLedger) -> None:
        self.ledger = ledger
        self._loop = WatchLoop(led(ledger.conninfo, "watches"), ledger.writer, ledger.clock, 3600)

    def close(self) -> None:
        self._loop.disconnect()

    def watch(self, **settings: Any) -> str:
        """A new watch of lines that are blocked."""
        values = {"name": "Blocked", "condition": InState(("blocked",)), "for_seconds": 0}
        command = CreateWatch(
            COMMAND_LINE,
            None,
            organization_id=ORGANIZATION,
            workspace_id=None,
            settings=WatchSettings(**values | settings),
        )
        return self.ledger.execute(command).subject

    def lines(self, count: int = 1, **more: Any) -> list[str]:
        lines = [new_id("LIN") for _ in range(count)]
        self.ledger.report(*(activation(line, "capacity", **more) for line in lines))
        return lines

    def block(self, *lines: str, reason: str = "Not approved.") -> list[str]:
        """Block lines; return the ids of the alerts that this opens."""
        data = {"blocker_id": "b", "cause": "approval_gap", "reason": reason}
        self.ledger.report(*(fact("execution.blocked", line, data) for line in lines))
        before = set(self.alerts())
        self.run_rounds()
        return [alert for alert in self.alerts() if alert not in before]

    def unblock(self, *lines: str) -> None:
        """Unblock lines, which resolves their alerts."""
        data = {"blocker_id": "b"}
        self.ledger.report(*(fact("execution.unblocked", line, data) for line in lines))
        self.run_rounds()

    def acknowledge(self, alert: str, **more: Any) -> str:
        """Acknowledge an alert; return the id of the event."""
        values: dict[str, Any] = {"note": None, "assignee": None, "until": None}
        return self.ledger.execute(Acknowledge(alert, COMMAND_LINE, **values | more)).event_ids[0]

    def run_rounds(self) -> None:
        """Let the loop do rounds until there is nothing to do."""
        done, has_more = 1, False
        while done or has_more:
            until(self._has_caught_up, "the views")
            done, has_more = self._loop._round()

    def alerts(self) -> list[str]:
        """The alerts so far, in the order in which they opened."""
        return [row[0] for row in query(self.ledger.conninfo, _ALERTS)]

    def _has_caught_up(self) -> bool:
        end = head(self.ledger.conninfo)
        return all(position >= end for position, _ in view_positions(self.ledger.conninfo).values())


@contextmanager
def alarms(ledger: WebhookLedger) -> Iterator[Alarms]:
    found = Alarms(ledger)
    try:
        yield found
    finally:
        found.close()
