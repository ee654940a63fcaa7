"""Random histories of lines and watches: each alert is as the model says (``watch_model``)."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.application.commands.alerts import Acknowledge
from ledger.application.commands.watches import DeleteWatch, UpdateWatch
from ledger.domain.watch import (
    BlockerOpen,
    Condition,
    HealthBelow,
    InState,
    LineChoice,
    NoActivity,
    PastDue,
    RunOpen,
    RunsFailing,
)
from ledger.domain.watch_hours import WatchHours
from tests.support.facts import fact
from tests.support.ledger import ADMIN, Ledger, new_id
from tests.support.soak import repeated
from tests.support.watch_model import WatchModel

CAUSES = ["approval_gap", "capacity_issue", "policy_violation"]
TAGS = ["a", "b"]
BEHIND = [-200, -30, 0, 0, 0, 1, 5, 60, 300, 900, 4_000]
AHEAD = [0, 0, 1, 3, 30, 60, 300, 900, 2_000]

CONDITIONS: list[Condition] = [
    InState(("running",)),
    InState(("idle",)),
    InState(("paused",)),
    InState(("blocked",)),
    InState(("paused", "blocked")),
    BlockerOpen(),
    BlockerOpen(("approval_gap",)),
    PastDue(),
    NoActivity(),
    RunOpen(("pending",)),
    RunOpen(("running",)),
    RunOpen(("pending", "running")),
    RunsFailing(1),
    RunsFailing(2),
    HealthBelow("amber"),
    HealthBelow("red"),
]
KEEPING = (InState, BlockerOpen, HealthBelow, RunsFailing)
HOURS = [
    WatchHours(time_zone="Asia/Kathmandu", days=("wed", "thu"), from_="17:50", to="18:10"),
    WatchHours(time_zone="UTC", days=("mon", "wed", "sat"), from_="12:05", to="12:40"),
]


class Histories:
    """Random facts, commands and rounds; the model is told of all but what rounds record."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.dice = ledger, random.Random(seed)
        self.model, self.read = WatchModel(), 0
        self.watches: list[str] = []
        self.told: list[tuple[Any, ...]] = []
        """The openings, reminders and ends of alerts, as stored."""
        self.alerts: dict[str, tuple[Any, ...]] = {}
        """The identity of each alert by its stream."""
        models = ["agent_runtime", "timeboxed_outcome", "ongoing_sla"]
        self.lines = [self._line(model) for model in models]
        self.runs = {line: list[str]() for line in self.lines}
        for _ in range(8):
            self._create()

    def _line(self, model: str) -> str:
        workspace = self.dice.choice(["WS-26-000001", "WS-26-000002"])
        return self.ledger.line(model, project_tags=self._tags(), workspace_id=workspace)

    def _tags(self) -> list[str]:
        return self.dice.choice([["a"], ["a"], ["a", "b"], ["b"], []])

    def live(self, steps: int) -> None:
        for _ in range(steps):
            for _ in range(self.dice.choice([0, 1, 2, 4])):
                self.ledger.report(self._fact())
            if self.dice.random() < 0.3:
                self._command()
            self._pass_time(self.dice.choice(AHEAD))
            if self.dice.random() < 0.3:
                self.ledger.sweep()
            if self.dice.random() < 0.5:
                self.look()

    def _pass_time(self, seconds: int) -> None:
        if seconds == 30:
            self.ledger.listen(seconds)
            self.ledger.lease_watch.run_once()
        else:
            self.ledger.clock.advance(seconds=seconds, microseconds=self.dice.choice([0, 7]))

    # Facts and commands.

    def _fact(self) -> dict[str, Any]:
        pick, line = self.dice.choice, self.dice.choice(self.lines)
        at = self.ledger.clock.now - timedelta(seconds=pick(BEHIND))
        blocker = {"blocker_id": pick(["x", "x", "y"])}
        due = self.ledger.at(seconds=pick([-100, 20, 400]))
        blocked = blocker | {"cause": pick(CAUSES), "reason": "because"}
        blocked |= pick([{}, {"due_at": due, "assignee": "Amara"}])
        run = pick([*self.runs[line][-3:], new_id("RUN")])
        begun = {"service_line_id": line} | pick([{}, {"lease_seconds": 30}])
        signal = {"signal": pick(["sla_compliance", "agent_error_rate"])}
        signal |= {"status": pick(["green", "amber", "red", "red"])}
        kinds: list[tuple[float, dict[str, Any]]] = [
            (0.4, fact("service_line.updated", line, {"project_tags": self._tags()})),
            (1, fact("service_line.paused", line)),
            (2, fact("service_line.resumed", line)),
            (3, fact("execution.blocked", line, blocked)),
            (3, fact("execution.unblocked", line, blocker)),
            (2, fact("execution.checked_in", line, {"hours": 1})),
            (3, fact("health.signal_reported", line, signal)),
            (2, fact("run.requested", run, begun)),
            (4, fact("run.started", run, begun)),
            (2, fact("run.completed", run)),
            (4, fact("run.failed", run, {"error": {"message": "secret"}})),
            (1, fact("run.cancelled", run)),
            (0.1, fact("service_line.closed", line)),
        ]
        chosen = self.dice.choices([each for _, each in kinds], [weight for weight, _ in kinds])[0]
        if chosen["type"] in ("run.requested", "run.started"):
            self.runs[line].append(run)
        elif chosen["type"] == "service_line.closed":
            self.lines[self.lines.index(line)] = new = self._line(
                pick(["agent_runtime", "capacity"])
            )
            self.runs[new] = []
        return chosen | {"time": at.isoformat()}

    def _command(self) -> None:
        ledger, pick = self.ledger, self.dice.choice
        line = pick(self.lines)
        until = ledger.clock.now + timedelta(seconds=pick([20, 100, 1_000]))
        action = pick(["pause", "resume", "create", "patch", "patch", "delete", "acknowledge"])
        if action == "pause":
            ledger.pause(line, until=pick([None, until, until]), replace=pick([True, False]))
        elif action == "resume":
            ledger.resume(line)
        elif action == "create":
            self._create()
        elif action == "patch" and self.watches:
            ledger.execute(UpdateWatch(pick(self.watches), ADMIN, given=self._patch()))
        elif action == "delete" and self.dice.random() < 0.3 and self.watches:
            ledger.execute(DeleteWatch(pick(self.watches), ADMIN))
        elif action == "acknowledge" and self.alerts:
            alert, holds_until = pick(list(self.alerts)), pick([None, until])
            item = ledger.execute(
                Acknowledge(alert, ADMIN, note=None, assignee=None, until=holds_until)
            )
            if item.outcome == "recorded":
                self.model.acknowledge(self.alerts[alert], holds_until)

    def _create(self) -> None:
        pick = self.dice.choice
        condition = pick(CONDITIONS)
        seconds = pick([300, 900]) if isinstance(condition, NoActivity) else pick([0, 1, 60, 400])
        keep = pick([0, 0, 30, 300]) if isinstance(condition, KEEPING) else 0
        self.watches.append(
            self.ledger.watch(
                condition,
                seconds,
                name=f"Watch {len(self.watches)}",
                workspace=pick([None, None, None, "WS-26-000001"]),
                severity=pick(["info", "warning", "critical"]),
                keep_seconds=keep,
                remind_seconds=pick([0, 300]),
                hours=pick([None, None, None, *HOURS]),
                lines=self._filter(),
            )
        )

    def _filter(self) -> LineChoice:
        return self.dice.choice(
            [
                LineChoice(),
                LineChoice(),
                LineChoice(project_tag=("a",)),
                LineChoice(execution_model=("agent_runtime", "capacity")),
                LineChoice(service_line_id=(self.lines[0],), product_line=("agent_gateway",)),
            ]
        )

    def _patch(self) -> dict[str, Any]:
        pick = self.dice.choice
        return pick(
            [
                {"enabled": False},
                {"enabled": True},
                {"enabled": True},
                {"name": f"Name {self.dice.random()}"},
                {"severity": "critical", "remind_seconds": 600},
                {"for_seconds": pick([300, 301])},
                {"lines": self._filter()},
                {"hours": pick([None, *HOURS])},
            ]
        )

    # Rounds.

    def look(self) -> None:
        """Do what is to be done now, and compare."""
        # The instants of recorded events are some microseconds ahead of the clock, each later than
        # the one before: what is due lies on neither side of the clock by these alone.
        self.ledger.clock.advance(milliseconds=1)
        self._read()
        self.ledger.look()
        self.model.round(self.ledger.clock.now)
        self._read()
        expected = sorted(map(repr, _told_by(self.model)))
        found = sorted(map(repr, self.told))
        missing = [each for each in expected if each not in found]
        more = [each for each in found if each not in expected]
        assert (missing, more, len(found)) == ([], [], len(expected)), "\n".join(
            [self.ledger.at(), "Missing:", *missing, "Found instead:", *more]
        )

    def _read(self) -> None:
        for event in self.ledger.events(after=self.read):
            self.read = event["notification_id"]
            if event["originator_id"].startswith("ALR"):
                self._tell(event)
            else:
                self.model.take(event)

    def _tell(self, event: dict[str, Any]) -> None:
        stream, state, body = event["originator_id"], event["state"], event["state"]["body"]
        assert body["alert_id"] == stream
        at = datetime.fromisoformat(state["occurred_at"])
        subject = body["subject"]["type"], body["subject"]["id"]
        if event["topic"] == "alert.opened/1":
            since, due = (datetime.fromisoformat(body[name]) for name in ("since", "due"))
            began: Any = int(body["began_by"]) if body["began_by"].isdigit() else since
            tenant = state["organization_id"], state["workspace_id"], state["service_line_id"]
            identity = body["watch_id"], body["revision"], tenant[2], subject, began
            assert identity not in self.alerts.values()
            self.alerts[stream] = identity
            names = ("watch_id", "watch_name", "severity", "condition", "for_seconds", "evidence")
            told = {name: body.get(name, []) for name in names}
            self.told.append(
                (
                    "opened",
                    identity,
                    *sorted(
                        (
                            told
                            | {"subject": subject, "since": since, "due": due}
                            | {"occurred_at": at, "tenant": tenant}
                        ).items()
                    ),
                )
            )
        elif event["topic"] == "alert.reminded/1":
            self.told.append(("reminded", self.alerts[stream], body["n"], at))
        elif event["topic"] == "alert.resolved/1":
            self.told.append(("resolved", self.alerts[stream], body["reason"], at))


def _told_by(model: WatchModel) -> Iterator[tuple[Any, ...]]:
    for alert in model.alerts:
        yield ("opened", alert.identity, *sorted(alert.told.items()))
        for number, at in enumerate(alert.reminders, 1):
            yield ("reminded", alert.identity, number, at)
        if alert.resolved is not None:
            yield ("resolved", alert.identity, *alert.resolved)


@pytest.mark.parametrize("seed", repeated(range(100)))
def test_alerts_open_repeat_and_end_as_the_model_says(own_ledger: Ledger, seed: int) -> None:
    own_ledger.listen()
    histories = Histories(own_ledger, seed)
    histories.live(60)
    histories.look()
