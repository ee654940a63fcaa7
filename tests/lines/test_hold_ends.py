"""The end of an operator's hold: who lifts it, when, and before what (contract, State)."""

from datetime import timedelta
from typing import Any

import pytest

from ledger.app.settings import Settings
from ledger.engine.values.errors import InvalidState
from ledger.engine.values.values import format_instant
from ledger.engine.writer import group
from ledger.engine.writer.command import Command
from ledger.engine.writer.periodic import sweepers_paused
from ledger.engine.writer.request import Receipt
from ledger.features.lines.commands.lines import LiftHold, Pause, Resume
from ledger.features.lines.routes.holds import MOST_LINES
from tests.support.facts import activation, fact
from tests.support.ledger import REPORTER, STRANGER, Ledger, new_id, working
from tests.support.views import until

STATE = (409, "invalid_state")
BLOCK = {"blocker_id": "b", "cause": "capacity_issue"}
HOUR = timedelta(hours=1)
STARTED = ["execution.activated", "execution.paused"]


def held(ledger: Ledger, **more: Any) -> str:
    """A new line with an operator's hold of an hour."""
    line = ledger.line(**more)
    assert ledger.pause(line, until=ledger.clock.now + HOUR).outcome == "recorded"
    return line


def over(ledger: Ledger, **more: Any) -> str:
    """A line whose hold ended 2 s ago, and is still on."""
    line = held(ledger, **more)
    ledger.clock.advance(hours=1, seconds=2)
    return line


def last(ledger: Ledger, line: str) -> Any:
    """The last event of the line's own stream."""
    return ledger.events(line)[-1]["state"]


def by_rule(event: dict[str, Any]) -> bool:
    """True if the ledger lifted a hold."""
    return bool(event["state"]["actor"]["id"] == "pause-until")


def start(line: str, **attributes: Any) -> dict[str, Any]:
    return fact("run.started", new_id("RUN"), {"service_line_id": line}, **attributes)


# The sweeper.


def test_the_sweeper_lifts_the_operators_hold_alone_once_and_at_its_end(ledger: Ledger) -> None:
    line = held(ledger)
    ledger.accept(fact("service_line.paused", line), fact("execution.blocked", line, BLOCK))
    until = ledger.at(hours=1)
    ledger.clock.advance(hours=1, microseconds=-1)
    ledger.sweep()
    assert not by_rule(ledger.events(line)[-1])
    ledger.clock.advance(seconds=3)
    ledger.sweep()
    ledger.sweep()
    assert list(map(by_rule, ledger.events(line))) == [False] * 4 + [True]
    detail, event = ledger.detail(line), last(ledger, line)
    assert (detail["state"], [hold["hold"] for hold in detail["holds"]]) == (
        "paused",
        ["service_line"],
    )
    assert len(detail["blockers"]) == 1
    assert event["body"] == {"hold": "operator", "reason": "until"}
    assert (event["occurred_at"], event["reported_by"]) == (until, "pause-until")
    assert event["actor"] == {"type": "system", "id": "pause-until"}
    assert event.keys() & {"fact", "causation_id", "request_id"} == set()


def test_a_round_lifts_more_holds_than_one_request_puts_on(own_ledger: Ledger) -> None:
    ledger, lines = own_ledger, [new_id("LIN") for _ in range(MOST_LINES + 1)]
    until = ledger.clock.now + HOUR
    ledger.report(*map(activation, lines))
    pauses = [Pause(line, REPORTER, reason="because", until=until) for line in lines]
    ledger.writer.submit(pauses).result()
    ledger.clock.advance(hours=1)
    ledger.sweep()
    assert sum(map(by_rule, ledger.events(*lines))) == len(lines)


def test_a_line_whose_hold_has_ended_runs_from_then_on_and_goes_idle_a_threshold_later(
    ledger: Ledger,
) -> None:
    line, until = held(ledger), ledger.at(hours=1)
    ledger.clock.advance(hours=1)
    ledger.sweep()
    assert (ledger.detail(line)["state"], ledger.detail(line)["state_since"]) == ("running", until)
    due = ledger.at(seconds=900)
    ledger.clock.advance(hours=1)
    ledger.sweep()
    assert (ledger.detail(line)["state"], ledger.detail(line)["state_since"]) == ("idle", due)


def test_a_hold_whose_end_was_brought_forward_is_lifted_at_its_new_end(ledger: Ledger) -> None:
    line, until = held(ledger), ledger.clock.now + HOUR / 2
    ledger.catch_up()
    ledger.pause(line, until=until, replace=True)
    ledger.clock.advance(minutes=31)
    ledger.sweep()
    assert [e["state"]["occurred_at"] for e in ledger.events(line) if by_rule(e)] == [
        format_instant(until)
    ]


def extend(ledger: Ledger, line: str) -> None:
    ledger.pause(line, until=ledger.clock.now + 2 * HOUR, replace=True)


def keep(ledger: Ledger, line: str) -> None:
    ledger.pause(line, replace=True)


def resume(ledger: Ledger, line: str) -> None:
    ledger.resume(line)


def pause_again(ledger: Ledger, line: str) -> None:
    ledger.resume(line)
    ledger.pause(line)


def close(ledger: Ledger, line: str) -> None:
    ledger.accept(fact("service_line.closed", line))


@pytest.mark.parametrize("meanwhile", [extend, keep, resume, pause_again, close])
def test_a_sweep_that_reads_an_outdated_view_leaves_what_was_decided_meanwhile(
    ledger: Ledger, meanwhile: Any
) -> None:
    line = held(ledger)
    ledger.catch_up()
    meanwhile(ledger, line)
    before = ledger.topics(line)
    ledger.clock.advance(hours=1)
    ledger.sweeper.run_once()
    assert ledger.topics(line) == before
    ledger.clock.advance(hours=1)
    ledger.sweep()
    lifted = [event["state"]["occurred_at"] for event in ledger.events(line) if by_rule(event)]
    assert lifted == ([ledger.at()] if meanwhile is extend else [])


def test_two_nodes_lift_a_hold_once(own_ledger: Ledger, settings: Settings) -> None:
    line = over(own_ledger)
    with working(own_ledger.conninfo, settings, own_ledger.clock) as other:
        writers = (own_ledger.writer, other.writer)
        futures = [writer.submit([LiftHold(line)] * 3) for writer in writers]
        outcomes = [outcome for future in futures for outcome in future.result()]
    lifted = [o for o in outcomes if isinstance(o, Receipt) and not o.duplicate]
    assert (len(outcomes), len(lifted)) == (6, 1)
    assert own_ledger.topics(line) == [*STARTED, "execution.resumed"]


def test_no_hold_is_lifted_by_the_present_time_during_a_story(own_ledger: Ledger) -> None:
    line = over(own_ledger)
    with sweepers_paused(own_ledger.conninfo):
        assert own_ledger.sweep() == 0
        early = {"time": own_ledger.ago(minutes=30)}
        own_ledger.accept(fact("execution.checked_in", line, **early))
        assert own_ledger.topics(line) == [*STARTED, "execution.checked_in"]
    until(lambda: own_ledger.sweep() == 1, "the lock of the story to be let go")


def test_an_end_lies_behind_the_decision_by_400_days_at_most(ledger: Ledger) -> None:
    line, longest = ledger.line(), timedelta(days=400)
    for length in (timedelta(0), longest + timedelta(microseconds=1), longest):
        ledger.clock.advance(seconds=1)
        paused = ledger.pause(line, until=ledger.clock.now + length)
        assert paused.refusal == ((None, None) if length == longest else (422, "invalid_request"))


# Facts and commands from the end on.


def test_a_run_may_start_as_soon_as_the_hold_has_ended(ledger: Ledger) -> None:
    line, until = held(ledger), ledger.at(hours=1)
    assert ledger.refusal(start(line)) == STATE
    ledger.clock.advance(hours=1)
    run = start(line, time=until)
    (item,) = ledger.accept(run)
    lifted, started = ledger.events(line, str(run["subject"]))[-2:]
    assert [e["topic"].partition("/")[0] for e in (lifted, started)] == [
        "execution.resumed",
        "run.started",
    ]
    assert item.event_ids == (
        f"EVT-26-{started['notification_id']:06d}",
        f"EVT-26-{lifted['notification_id']:06d}",
    )
    state = lifted["state"]
    assert (state["causation_id"], state["occurred_at"]) == (item.event_ids[0], until)
    assert (state["actor"]["id"], state["reported_by"]) == ("pause-until",) * 2
    assert "fact" not in state
    (again,) = ledger.report(run)
    assert (again.outcome, again.event_ids) == ("duplicate", item.event_ids)


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("execution.checked_in", {"hours": 1}),
        ("execution.blocked", BLOCK),
        ("service_line.paused", {}),
        ("service_line.updated", {"name": "x"}),
        ("health.signal_reported", {"signal": "sla_compliance", "status": "red"}),
        ("service_line.closed", {}),
    ],
)
def test_a_fact_about_the_line_lifts_the_hold_first(
    ledger: Ledger, type: str, data: dict[str, Any]
) -> None:
    line = over(ledger)
    (item,) = ledger.accept(fact(type, line, data))
    lifted, own = ledger.events(line)[-2:]
    assert lifted["topic"] == "execution.resumed/1"
    assert own["state"]["fact"]["source"]
    assert lifted["state"]["causation_id"] == item.event_ids[0]
    ledger.sweep()
    assert len(list(filter(by_rule, ledger.events(line)))) == 1


@pytest.mark.parametrize("type", ["run.started", "run.cancelled"])
def test_a_fact_about_a_run_of_the_line_lifts_the_hold_first(ledger: Ledger, type: str) -> None:
    line = ledger.line()
    run = ledger.run(line, started=False)
    ledger.pause(line, until=ledger.clock.now + HOUR)
    ledger.clock.advance(hours=1)
    (item,) = ledger.accept(fact(type, run))
    assert ledger.topics(line, run)[-2:] == ["execution.resumed", type]
    assert last(ledger, line)["causation_id"] == item.event_ids[0]


@pytest.mark.parametrize("ahead", [200, 2])
def test_the_lifting_before_a_closing_names_the_closing_as_its_cause(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(group, "_AHEAD", ahead)
    line = ledger.line()
    runs = [ledger.run(line) for _ in range(3)]
    ledger.pause(line, until=ledger.clock.now + HOUR)
    ledger.clock.advance(hours=1)
    (item,) = ledger.accept(fact("service_line.closed", line))
    events = ledger.events(line, *runs)[-5:]
    assert [event["topic"].partition("/")[0] for event in events] == [
        "execution.resumed",
        *["run.cancelled"] * 3,
        "execution.closed",
    ]
    assert {event["state"].get("causation_id") for event in events[:-1]} == {item.event_ids[0]}
    assert len(item.event_ids) == 1


def test_a_late_fact_of_a_time_before_the_end_sees_the_hold(ledger: Ledger) -> None:
    line = over(ledger)
    early = {"time": ledger.ago(seconds=2, microseconds=1)}
    assert ledger.refusal(start(line, **early)) == STATE
    ledger.accept(fact("execution.checked_in", line, **early))
    assert ledger.topics(line) == [*STARTED, "execution.checked_in"]
    ledger.accept(fact("execution.checked_in", line, time=ledger.ago(seconds=2)))
    assert ledger.topics(line)[3:] == ["execution.resumed", "execution.checked_in"]


def test_a_fact_of_a_time_after_the_end_that_arrives_before_it_sees_the_hold(
    ledger: Ledger,
) -> None:
    line = held(ledger)
    ledger.clock.advance(minutes=59)
    assert ledger.refusal(start(line, time=ledger.at(minutes=2))) == STATE


def test_a_refusal_by_the_lines_state_leaves_the_hold_lifted_without_a_cause(
    ledger: Ledger,
) -> None:
    line = over(ledger)
    (refused,) = ledger.report(fact("execution.unblocked", line, {"blocker_id": "b"}))
    assert refused.refusal == STATE
    assert ledger.topics(line) == [*STARTED, "execution.resumed"]
    assert "causation_id" not in last(ledger, line)
    ledger.accept(fact("execution.checked_in", line))
    assert "causation_id" not in ledger.events(line)[2]["state"]


def test_a_fact_that_is_wrong_or_a_strangers_lifts_nothing(ledger: Ledger) -> None:
    line = over(ledger)
    activated = activation(line, organization_id=STRANGER.organization_id)
    for event, by, status in (
        (fact("execution.checked_in", line, {"hours": -1}), REPORTER, 422),
        (fact("execution.checked_in", line), STRANGER, 404),
        (start(line), STRANGER, 404),
        (activated, STRANGER, 409),
    ):
        assert ledger.report(event, by=by)[0].status == status
    assert ledger.topics(line) == STARTED


def test_a_resume_after_the_end_is_refused_and_the_hold_is_lifted(ledger: Ledger) -> None:
    line, until = held(ledger), ledger.at(hours=1)
    ledger.clock.advance(hours=1)
    assert isinstance(ledger.writer.execute(Resume(line, REPORTER, reason="late")), InvalidState)
    assert ledger.topics(line) == [*STARTED, "execution.resumed"]
    event = last(ledger, line)
    assert (event["reported_by"], event["occurred_at"]) == ("pause-until", until)


@pytest.mark.parametrize("replace", [False, True])
def test_a_pause_after_the_end_puts_a_new_hold_on(ledger: Ledger, replace: bool) -> None:
    line, until = over(ledger), ledger.at(hours=1)
    paused = ledger.pause(line, until=ledger.clock.now + HOUR, replace=replace)
    assert paused.outcome == "recorded"
    assert ledger.topics(line) == [*STARTED, "execution.resumed", "execution.paused"]
    assert "causation_id" not in ledger.events(line)[2]["state"]
    (hold,) = ledger.detail(line)["holds"]
    assert (hold["since"], hold["until"]) == (ledger.at(), until)


def test_commands_of_one_append_about_one_line_lift_its_hold_once(ledger: Ledger) -> None:
    line, other = held(ledger), over(ledger)
    until = ledger.clock.now + HOUR
    commands: list[Command] = []
    for each in (line, other):
        commands += [
            LiftHold(each),
            Pause(each, REPORTER, reason="r", until=until),
            Pause(each, REPORTER, reason="s", until=until, replace=True),
            LiftHold(each),
            Resume(each, REPORTER, reason="t"),
            Resume(each, REPORTER, reason="t"),
        ]
    outcomes = ledger.writer.submit(commands).result()
    expected = ["execution.resumed", "execution.paused", "execution.hold_changed"]
    for each in (line, other):
        assert ledger.topics(each) == [*STARTED, *expected, "execution.resumed"]
    assert [type(outcome) for outcome in outcomes[5::6]] == [InvalidState] * 2
