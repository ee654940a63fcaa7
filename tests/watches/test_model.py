"""Random histories of lines and watches: each alert is as the model says (``watch_model``)."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from ledger.features.watches.commands.alerts import Acknowledge
from ledger.features.watches.commands.watches import DeleteWatch, UpdateWatch
from ledger.features.watches.kinds import (
    BlockerOpen,
    HealthBelow,
    InState,
    NoActivity,
    PastDue,
    RunOpen,
    RunsFailing,
    SourceSilent,
    UsageOver,
)
from ledger.features.watches.kinds.base import Condition
from ledger.features.watches.model.watch import LineChoice
from ledger.features.watches.model.watch_hours import WatchHours
from tests.support.facts import fact
from tests.support.ledger import ADMIN, Ledger, new_id
from tests.support.soak import repeated
from tests.support.watch_model import WatchModel

CAUSES = ["approval_gap", "capacity_issue", "policy_violation"]
LEASE = {"lease_seconds": 30}
NAMED = {"name": "A name"}
BEHIND = [-200, -30, 0, 0, 0, 1, 5, 60, 300, 900, 4_000]
LONG_BEHIND = [-200, 0, 0, 0, 0, 60, 4_000, 30_000, 90_000, 600_000]
"""How long ago used hours and tokens are of, some of them of an earlier day, week or month."""
AHEAD = [0, 0, 1, 3, 30, 60, 300, 900, 2_000]
NEAR_MIDNIGHT = [-250, -20, 0, 0, 30, 400]
SOURCES = ["/tests", "/agents", "/timesheets"]
BEGIN = datetime(2026, 4, 29, 12, tzinfo=UTC)
"""A Wednesday: the month ends with the second day, the week with the fifth."""

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
    SourceSilent(("/tests",)),
    SourceSilent(("/agents", "/timesheets")),
    SourceSilent(("/never", "/timesheets")),
    UsageOver("hours", "day", 0.3),
    UsageOver("hours", "week", 0.6),
    UsageOver("hours", "month", 1.0),
    UsageOver("runs", "day", 1.0),
    UsageOver("runs", "week", 2.0),
    UsageOver("tokens_used", "day", 40.0),
    UsageOver("tokens_used", "week", 100.0),
    UsageOver("tokens_used", "month", 90.0),
]
"""Conditions of each kind."""
HOURS = [
    WatchHours(time_zone="Asia/Kathmandu", days=("wed", "thu"), from_="17:50", to="18:10"),
    WatchHours(time_zone="UTC", days=("mon", "wed", "sat"), from_="12:05", to="12:40"),
]


class Histories:
    """Random facts, commands and rounds. The model gets all except what rounds record."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.dice = ledger, random.Random(seed)
        self.model, self.read = WatchModel(), 0
        self.watches: dict[str, Condition] = {}
        self.events: list[tuple[Any, ...]] = []
        """The openings, reminders and ends of alerts, as stored."""
        self.alerts: dict[str, tuple[Any, ...]] = {}
        """The identity of each alert by its stream."""
        models = ["agent_runtime", "timeboxed_outcome", "ongoing_sla"]
        self.lines = [self._line(model) for model in models]
        self.runs = {line: list[str]() for line in self.lines}
        self.sent: list[dict[str, Any]] = []
        for kind in [UsageOver] * 4 + [SourceSilent] + [object] * 6:
            self._create([each for each in CONDITIONS if isinstance(each, kind)])

    def _line(self, model: str) -> str:
        workspace = self.dice.choice(["WS-26-000001", "WS-26-000002"])
        return self.ledger.line(model, project_tags=self._tags(), workspace_id=workspace)

    def _tags(self) -> list[str]:
        return self.dice.choice([["a"], ["a"], ["a", "b"], ["b"], []])

    def live(self, steps: int) -> None:
        for _ in range(steps):
            for _ in range(self.dice.choice([0, 1, 2, 4])):
                self._report()
            if self.dice.random() < 0.3:
                self._command()
            if self.dice.random() < 0.06:
                self._pass_time(max(0, self._until_midnight() + self.dice.choice(NEAR_MIDNIGHT)))
            else:
                self._pass_time(self.dice.choice(AHEAD))
            if self.dice.random() < 0.3:
                self.ledger.sweep()
            if self.dice.random() < 0.5:
                self.run_and_compare()

    def _pass_time(self, seconds: int) -> None:
        if seconds == 30:
            self.ledger.listen(seconds)
            self.ledger.lease_watch.run_once()
        else:
            self.ledger.clock.advance(seconds=seconds, microseconds=self.dice.choice([0, 7]))

    def _until_midnight(self) -> int:
        day = timedelta(days=1)
        return (day - (self.ledger.clock.now - BEGIN.replace(hour=0)) % day) // timedelta(seconds=1)

    # Facts and commands.

    def _report(self) -> None:
        """Report a fact: some were reported before, or are about check-ins and tokens."""
        pick, chance = self.dice.choice, self.dice.random()
        if chance < 0.1 and self.sent:
            sent = pick(self.sent)
        elif chance < 0.5:
            sent = self._used()
        else:
            sent = self._fact()
        self.sent.append(sent)
        self.ledger.report(sent)

    def _used(self) -> dict[str, Any]:
        """A fact that adds to the sums of a line, or takes something back."""
        pick, line = self.dice.choice, self.dice.choice([self.lines[0], *self.lines])
        at = self.ledger.clock.now - timedelta(seconds=pick(LONG_BEHIND))
        begun, run = new_id("RUN"), pick(self.runs[line][-4:] or [new_id("RUN")])
        tokens = {"tokens_used": pick([0, 10, 40, 90, 150])}
        checked_in = [
            each
            for each in self.sent
            if each["type"] == "execution.checked_in" and each["subject"] == line
        ]
        chosen = self.dice.choices(
            [
                fact("execution.checked_in", line, {"hours": pick([0.1, 0.2, 0.25, 1])}),
                fact("run.started", begun, {"service_line_id": line} | pick([{}, {}, LEASE])),
                fact("run.completed", run, tokens),
                fact("run.failed", run, tokens),
                fact("run.usage_corrected", run, tokens),
            ],
            [4, 2, 3, 1, 3],
        )[0]
        source = pick(SOURCES)
        if checked_in and self.dice.random() < 0.25:
            voided = pick(checked_in[-3:])
            chosen = fact("execution.check_in_voided", line, {"fact_id": voided["id"]})
            source = voided["source"]
        if chosen["type"] == "run.started":
            self.runs[line].append(begun)
        return chosen | {"time": at.isoformat(), "source": source}

    def _fact(self) -> dict[str, Any]:
        pick, line = self.dice.choice, self.dice.choice(self.lines)
        at = self.ledger.clock.now - timedelta(seconds=pick(BEHIND))
        blocker = {"blocker_id": pick(["x", "x", "y"])}
        due = self.ledger.at(seconds=pick([-100, 20, 400]))
        blocked = blocker | {"cause": pick(CAUSES), "reason": "because"}
        blocked |= pick([{}, {"due_at": due, "assignee": "Amara"}])
        run = pick([*self.runs[line][-3:], new_id("RUN")])
        begun = {"service_line_id": line} | pick([{}, LEASE])
        signal = {"signal": pick(["sla_compliance", "agent_error_rate"])}
        signal |= {"status": pick(["green", "amber", "red", "red"])}
        kinds: list[tuple[float, dict[str, Any]]] = [
            (0.4, fact("service_line.updated", line, {"project_tags": self._tags()})),
            (1, fact("service_line.paused", line)),
            (2, fact("service_line.resumed", line)),
            (3, fact("execution.blocked", line, blocked)),
            (3, fact("execution.unblocked", line, blocker)),
            (0.3, fact("directory.named", pick(["WS-26-000001", "PROJ-26-000001"]), NAMED)),
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
        return chosen | {"time": at.isoformat(), "source": pick(SOURCES)}

    def _command(self) -> None:
        ledger, pick = self.ledger, self.dice.choice
        line = pick(self.lines)
        until = ledger.clock.now + timedelta(seconds=pick([20, 100, 1_000]))
        action = pick(
            ["pause", "resume", "create", "patch", "patch", "delete", "acknowledge", "beat"]
        )
        if action == "pause":
            ledger.pause(line, until=pick([None, until, until]), replace=pick([True, False]))
        elif action == "resume":
            ledger.resume(line)
        elif action == "create":
            self._create(CONDITIONS)
        elif action == "patch" and self.watches:
            watch = pick([*self.watches])
            changes = self._patch(isinstance(self.watches[watch], SourceSilent))
            ledger.execute(UpdateWatch(watch, ADMIN, changes=changes))
        elif action == "delete" and self.dice.random() < 0.3 and self.watches:
            ledger.execute(DeleteWatch(pick([*self.watches]), ADMIN))
        elif action == "beat" and self.runs[line]:
            ledger.beat(pick(self.runs[line][-3:]))
        elif action == "acknowledge" and self.alerts:
            alert, holds_until = pick(list(self.alerts)), pick([None, until])
            item = ledger.execute(
                Acknowledge(alert, ADMIN, note=None, assignee=None, until=holds_until)
            )
            if item.outcome == "recorded":
                self.model.acknowledge(self.alerts[alert], holds_until)

    def _create(self, conditions: Sequence[Condition]) -> None:
        pick = self.dice.choice
        condition = pick(conditions)
        seconds = pick([300, 900]) if condition.least_seconds else pick([0, 1, 60, 400])
        keep = pick([0, 0, 30, 300]) if condition.keeps else 0
        watch = self.ledger.watch(
            condition,
            seconds,
            name=f"Watch {len(self.watches)}",
            workspace=pick([None, None, None, "WS-26-000001"]),
            severity=pick(["info", "warning", "critical"]),
            keep_seconds=keep,
            remind_seconds=pick([0, 300]),
            hours=pick([None, None, None, None, *HOURS]),
            lines=LineChoice() if isinstance(condition, SourceSilent) else self._filter(),
        )
        self.watches[watch] = condition

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

    def _patch(self, is_of_sources: bool) -> dict[str, Any]:
        pick = self.dice.choice
        lines = {} if is_of_sources else {"lines": self._filter()}
        return pick(
            [
                {"enabled": False},
                {"enabled": True},
                {"enabled": True},
                {"name": f"Name {self.dice.random()}"},
                {"severity": "critical", "remind_seconds": 600},
                {"for_seconds": pick([300, 301])},
                lines,
                {"hours": pick([None, *HOURS])},
            ]
        )

    # Rounds.

    def run_and_compare(self) -> None:
        """Do what is to be done now, and compare."""
        # The instants of recorded events are some microseconds ahead of the clock, each later than
        # the previous one. A step of the clock keeps all that is due on the same side of both.
        self.ledger.clock.advance(milliseconds=1)
        self._read()
        self.ledger.run_watches()
        self.model.round(self.ledger.clock.now)
        self._read()
        expected = sorted(map(repr, _events_of(self.model)))
        found = sorted(map(repr, self.events))
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
            began = _began_by(body["began_by"], since)
            tenant_names = ("organization_id", "workspace_id", "service_line_id")
            tenant = tuple(state.get(name) for name in tenant_names)
            identity = body["watch_id"], body["revision"], tenant[2], subject, began
            assert identity not in self.alerts.values()
            self.alerts[stream] = identity
            names = ("watch_id", "watch_name", "severity", "condition", "for_seconds", "evidence")
            opening = {name: body.get(name, []) for name in names}
            self.events.append(
                (
                    "opened",
                    identity,
                    *sorted(
                        (
                            opening
                            | {"subject": subject, "since": since, "due": due}
                            | {"occurred_at": at, "tenant": tenant}
                        ).items()
                    ),
                )
            )
        elif event["topic"] == "alert.reminded/1":
            self.events.append(("reminded", self.alerts[stream], body["n"], at))
        elif event["topic"] == "alert.resolved/1":
            self.events.append(("resolved", self.alerts[stream], body["reason"], at))


def _began_by(text: str, since: datetime) -> Any:
    """The key of an episode in the model: a position, a period with a position, or its begin."""
    period, _, position = text.rpartition("@")
    if not position.isdigit():
        return since
    return (date.fromisoformat(period), int(position)) if period else int(position)


def _events_of(model: WatchModel) -> Iterator[tuple[Any, ...]]:
    for alert in model.alerts:
        yield ("opened", alert.identity, *sorted(alert.opening.items()))
        for number, at in enumerate(alert.reminders, 1):
            yield ("reminded", alert.identity, number, at)
        if alert.resolved is not None:
            yield ("resolved", alert.identity, *alert.resolved)


@pytest.mark.parametrize("seed", repeated(range(100)))
def test_alerts_open_repeat_and_end_as_the_model_says(own_ledger: Ledger, seed: int) -> None:
    own_ledger.clock.now = BEGIN
    own_ledger.listen()
    histories = Histories(own_ledger, seed)
    histories.live(60)
    histories.run_and_compare()
