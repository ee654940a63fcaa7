"""Idleness: when a line goes idle, and the facts that wake it (contract, State)."""

from datetime import timedelta

import pytest

from tests.support.facts import fact
from tests.support.ledger import Ledger, new_id

BLOCK = {"blocker_id": "b", "cause": "capacity_issue"}


def begin(line: str, type: str = "run.requested", **attributes: object) -> dict[str, object]:
    return fact(type, new_id("RUN"), {"service_line_id": line}, **attributes)


def state(ledger: Ledger, line: str) -> tuple[str, str]:
    detail = ledger.detail(line)
    return detail["state"], detail["state_since"]


def fresh(ledger: Ledger, model: str = "agent_runtime") -> str:
    return ledger.line(model, time=ledger.at())


@pytest.mark.parametrize(
    ("model", "threshold"),
    [
        ("agent_runtime", 900),
        ("capacity", 86_400),
        ("ongoing_sla", 86_400),
        ("timeboxed_outcome", 86_400),
        ("infra_managed", 86_400),
        ("observability", 86_400),
    ],
)
def test_a_quiet_line_goes_idle_when_its_threshold_has_run_out(
    ledger: Ledger, model: str, threshold: int
) -> None:
    ledger.clock.advance(minutes=3)
    line = fresh(ledger, model)
    since = ledger.at(seconds=threshold)
    ledger.clock.advance(seconds=threshold, microseconds=-1)
    ledger.sweep()
    assert state(ledger, line)[0] == "running"
    ledger.clock.advance(microseconds=1)
    ledger.sweep()
    ledger.sweep()
    ledger.clock.advance(days=1)
    ledger.sweep()

    assert ledger.topics(line) == ["execution.activated", "execution.idle"]
    assert state(ledger, line) == ("idle", since)
    stored = ledger.events(line)[-1]["state"]
    assert stored["occurred_at"] == since
    assert stored["actor"]["type"] == "system"
    assert stored["reported_by"] == stored["actor"]["id"]


def test_the_last_activity_restarts_the_idle_threshold(ledger: Ledger) -> None:
    line = fresh(ledger)
    ledger.clock.advance(seconds=800)
    ledger.accept(fact("execution.checked_in", line, time=ledger.ago(seconds=100)))
    due = ledger.at(seconds=800)
    ledger.clock.advance(seconds=799)
    ledger.sweep()
    assert state(ledger, line)[0] == "running"
    ledger.clock.advance(hours=1)
    ledger.sweep()
    assert state(ledger, line) == ("idle", due)


@pytest.mark.parametrize("ended", ["run.completed", "run.failed", "run.cancelled"])
def test_a_line_with_an_open_run_does_not_go_idle_before_the_run_has_ended(
    ledger: Ledger, ended: str
) -> None:
    line = fresh(ledger)
    pending, running = ledger.run(line, started=False), ledger.run(line)
    ledger.accept(fact("run.completed", running))
    ledger.clock.advance(days=2)
    ledger.sweep()
    assert state(ledger, line)[0] == "running"
    if ended == "run.completed":
        ledger.accept(fact("run.started", pending))
    ledger.accept(fact(ended, pending, time=ledger.at()))
    due = ledger.at(seconds=900)
    ledger.clock.advance(seconds=900)
    ledger.sweep()
    assert state(ledger, line) == ("idle", due)


@pytest.mark.parametrize(
    ("stop", "go"),
    [
        ("service_line.paused", "service_line.resumed"),
        ("execution.blocked", "execution.unblocked"),
    ],
)
def test_a_paused_or_blocked_line_does_not_go_idle_and_going_on_restarts_the_threshold(
    ledger: Ledger, stop: str, go: str
) -> None:
    line = fresh(ledger)
    ledger.accept(fact(stop, line, BLOCK if "block" in stop else {}))
    ledger.clock.advance(days=1)
    ledger.sweep()
    assert state(ledger, line)[0] in ("paused", "blocked")

    data = {"blocker_id": "b"} if "block" in go else {}
    ledger.accept(fact(go, line, data, time=ledger.at()))
    assert state(ledger, line) == ("running", ledger.at())
    due = ledger.at(seconds=900)
    ledger.clock.advance(seconds=899)
    ledger.sweep()
    assert state(ledger, line)[0] == "running"
    ledger.clock.advance(seconds=1)
    ledger.sweep()
    assert state(ledger, line) == ("idle", due)


@pytest.mark.parametrize(
    ("stop", "go"),
    [
        ("service_line.paused", "service_line.resumed"),
        ("execution.blocked", "execution.unblocked"),
    ],
)
def test_an_idle_line_that_was_paused_or_blocked_runs_afterwards(
    ledger: Ledger, stop: str, go: str
) -> None:
    line = fresh(ledger)
    ledger.clock.advance(hours=1)
    ledger.sweep()
    ledger.accept(fact(stop, line, BLOCK if "block" in stop else {}))
    ledger.accept(fact(go, line, {"blocker_id": "b"} if "block" in go else {}))
    assert state(ledger, line)[0] == "running"


def idle(ledger: Ledger) -> str:
    line = fresh(ledger)
    ledger.clock.advance(hours=1)
    ledger.sweep()
    assert state(ledger, line)[0] == "idle"
    return line


def test_a_recent_check_in_wakes_a_line_and_an_old_check_in_does_not(ledger: Ledger) -> None:
    line = idle(ledger)
    since = state(ledger, line)[1]
    ledger.clock.advance(seconds=1)
    ledger.accept(fact("execution.checked_in", line, time=ledger.ago(seconds=900)))
    assert state(ledger, line) == ("idle", since)
    assert ledger.detail(line)["last_activity_at"] == ledger.ago(seconds=900)
    ledger.clock.advance(seconds=1)
    recent = ledger.clock.now - timedelta(seconds=900) + timedelta(microseconds=1)
    ledger.accept(fact("execution.checked_in", line, time=recent.isoformat()))
    assert state(ledger, line)[0] == "running"
    assert ledger.topics(line)[-2:] == ["execution.active", "execution.checked_in"]


@pytest.mark.parametrize("type", ["run.requested", "run.started"])
def test_a_fact_that_opens_a_run_wakes_the_line_however_old_it_is(
    ledger: Ledger, type: str
) -> None:
    line = idle(ledger)
    since = state(ledger, line)[1]
    (item,) = ledger.accept(begin(line, type, time=ledger.ago(days=3)))
    # The effective time of a change is never before that of the previous change.
    assert state(ledger, line) == ("running", since)
    assert len(item.event_ids) == 2


def test_a_void_of_a_check_in_is_no_activity(ledger: Ledger) -> None:
    line = fresh(ledger)
    check_in = fact("execution.checked_in", line, time=ledger.at())
    ledger.accept(check_in)
    last = ledger.at()
    ledger.clock.advance(hours=1)
    ledger.sweep()
    ledger.accept(fact("execution.check_in_voided", line, {"fact_id": check_in["id"]}))
    detail = ledger.detail(line)
    assert (detail["state"], detail["last_activity_at"]) == ("idle", last)


def test_a_woken_line_goes_idle_again(ledger: Ledger) -> None:
    line = idle(ledger)
    ledger.accept(fact("execution.checked_in", line, time=ledger.at()))
    due = ledger.at(seconds=900)
    ledger.clock.advance(hours=1)
    ledger.sweep()
    assert state(ledger, line) == ("idle", due)
    assert ledger.topics(line) == [
        "execution.activated",
        "execution.idle",
        "execution.active",
        "execution.checked_in",
        "execution.idle",
    ]


def test_a_sweep_that_reads_an_outdated_view_does_not_make_an_active_line_idle(
    ledger: Ledger,
) -> None:
    line = fresh(ledger)
    ledger.clock.advance(hours=1)
    ledger.catch_up()
    ledger.accept(fact("execution.checked_in", line))
    ledger.sweeper.run_once()
    assert "execution.idle" not in ledger.topics(line)
