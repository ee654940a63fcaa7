"""Watches and alerts of every kind, as part of a workload."""

import random
from collections.abc import Sequence
from typing import Any

from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import EARLIEST
from ledger.engine.writer.command import Command, OwnCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.watches.commands.alerts import Acknowledge, ResolveAlert
from ledger.features.watches.commands.watches import CreateWatch, DeleteWatch, UpdateWatch
from ledger.features.watches.kinds import InState
from ledger.features.watches.kinds.base import AlertSubject
from ledger.features.watches.model.alert import Alert, AlertOpened
from ledger.features.watches.model.watch import WatchSettings
from tests.support.facts import LINE, ORGANIZATION, WORKSPACE

SETTINGS = WatchSettings(name="Blocked", condition=InState(("blocked",)), for_seconds=60)


class OpenAnAlert(OwnCommand):
    """Open an alert of a watch, even if its condition does not hold."""

    issues = "ALR"

    def __init__(self, watch: str, began_by: int, line: str = LINE, **more: Any) -> None:
        super().__init__(COMMAND_LINE)
        self._watch, self._began_by, self._line, self._more = watch, began_by, line, more

    def decide(self, group: Group) -> Receipt:
        alert = Alert(group.issue("ALR"))
        values = {
            "alert_id": alert.id,
            "watch_id": self._watch,
            "watch_name": SETTINGS.name,
            "severity": SETTINGS.severity,
            "subject": AlertSubject("service_line", self._line),
            "text": "A line has been blocked for 1 min.",
            "condition": SETTINGS.condition,
            "for_seconds": 60,
            "since": group.now,
            "due": group.now,
            "evidence": ("EVT-26-000001",),
            "revision": 1,
            "began_by": str(self._began_by),
        }
        body = AlertOpened(**values | self._more)
        tenant = (ORGANIZATION, WORKSPACE, self._line)
        return receipt(group.record(alert, body, body.due, self, tenant=tenant))


class WatchManager:
    """A source of random commands about watches and alerts of an organization."""

    def __init__(self, seed: int) -> None:
        self._dice, self._opened = random.Random(seed), 0
        self.watches: list[str] = []
        self.alerts: list[Alert] = []

    def set_up(self, writer: Writer, count: int) -> None:
        """Create watches, and open and acknowledge as many alerts."""
        self.watches += _subjects(writer, [self._create(n) for n in range(min(count, 40))])
        opening = [self._open() for _ in range(count)]
        self.alerts += map(_opened, _subjects(writer, opening))
        _subjects(writer, [self._acknowledge(alert) for alert in self.alerts])

    def act(self, writer: Writer, count: int) -> None:
        """Execute random commands. The writer rightly refuses some of them."""
        writer.submit([self._next() for _ in range(count)]).result(20)

    def _create(self, number: int) -> Command:
        return CreateWatch(
            COMMAND_LINE,
            None,
            organization_id=ORGANIZATION,
            workspace_id=(None, WORKSPACE)[number % 2],
            settings=SETTINGS,
        )

    def _open(self) -> Command:
        self._opened += 1
        return OpenAnAlert(self._dice.choice(self.watches), self._opened)

    def _acknowledge(self, alert: Alert) -> Command:
        return Acknowledge(alert.id, COMMAND_LINE, note="mine", assignee="USR-1", until=None)

    def _next(self) -> Command:
        watch, alert = self._dice.choice(self.watches), self._dice.choice(self.alerts)
        dice = self._dice.random()
        if dice < 0.3:
            return self._open()
        if dice < 0.5:
            return self._acknowledge(alert)
        if dice < 0.7:
            return ResolveAlert(alert, "disabled", alert.body.due, None, 0)
        if dice < 0.95:
            settings = {"name": f"Blocked {dice:.2f}", "enabled": dice < 0.9}
            return UpdateWatch(watch, COMMAND_LINE, changes=settings)
        return DeleteWatch(watch, COMMAND_LINE)


def _subjects(writer: Writer, commands: Sequence[Command]) -> list[str]:
    found = []
    for outcome in writer.submit(commands).result(20):
        assert isinstance(outcome, Receipt), outcome
        found.append(outcome.subject)
    return found


def _opened(alert_id: str) -> Alert:
    """An alert of this id, as far as a command that resolves it needs to know it."""
    alert = Alert(alert_id)
    alert.opened = AlertOpened(
        alert_id=alert_id,
        watch_id="WCH-26-000001",
        watch_name=SETTINGS.name,
        severity="warning",
        subject=AlertSubject("service_line", LINE),
        text="",
        condition=SETTINGS.condition,
        for_seconds=60,
        since=EARLIEST,
        due=EARLIEST,
        revision=1,
        began_by="0",
    )
    return alert
