"""Closing a line: its effects, and the late facts that are still accepted (contract, State)."""

import pytest

from tests.support.facts import fact
from tests.support.ledger import Ledger, new_id

STATE = (409, "invalid_state")
BLOCK = {"blocker_id": "b", "cause": "capacity_issue"}


def test_a_closing_clears_holds_and_blockers_and_cancels_open_runs(ledger: Ledger) -> None:
    line = ledger.line()
    time = ledger.at()
    running, pending, done = (ledger.run(line, started=s, time=time) for s in (True, False, True))
    ledger.accept(fact("run.completed", done))
    ledger.accept(fact("service_line.paused", line), fact("execution.blocked", line, BLOCK))
    ledger.pause(line)
    ledger.clock.advance(minutes=1)

    ledger.accept(fact("service_line.closed", line, {"reason": "over"}, time=ledger.at()))

    detail = ledger.detail(line)
    assert (detail["state"], detail["closed_at"]) == ("closed", ledger.at())
    assert detail["state_since"] == ledger.at()
    assert detail["blockers"] == detail["holds"] == []
    assert detail["open_runs"] == 0
    assert [ledger.run_view(r)["status"] for r in (running, pending, done)] == [
        "cancelled",
        "cancelled",
        "completed",
    ]
    assert ledger.run_view(running)["duration_ms"] == 60_000
    assert ledger.run_view(pending)["duration_ms"] is None
    assert ledger.run_view(pending)["completed_at"] == ledger.at()
    assert ledger.rows("SELECT * FROM ledger.open_run WHERE line_id = %s", line) == []


def test_a_closing_takes_effect_no_earlier_than_the_last_change(ledger: Ledger) -> None:
    line = ledger.line()
    run = ledger.run(line)
    ledger.accept(
        fact("service_line.paused", line, time=ledger.ago(minutes=5)),
        fact("service_line.closed", line, time=ledger.ago(minutes=9)),
    )
    assert ledger.detail(line)["closed_at"] == ledger.ago(minutes=5)
    assert ledger.run_view(run)["completed_at"] == ledger.ago(minutes=5)
    ledger.accept(fact("execution.checked_in", line, time=ledger.ago(minutes=5)))


@pytest.mark.parametrize("ending", ["run.completed", "run.failed"])
def test_a_run_cancelled_by_a_closing_accepts_one_late_ending(ledger: Ledger, ending: str) -> None:
    line = ledger.line()
    run, other = ledger.run(line, time=ledger.ago(minutes=9)), ledger.run(line)
    ledger.accept(fact("service_line.closed", line, time=ledger.ago(minutes=3)))
    late = fact(ending, run, {"tokens_used": 7}, time=ledger.ago(minutes=3))
    assert ledger.refusal(late | {"time": ledger.ago(minutes=2)}) == STATE
    assert ledger.refusal(fact("run.cancelled", run, time=ledger.ago(minutes=4))) == STATE

    ledger.accept(late)

    view = ledger.run_view(run)
    assert view["status"] == ending.removeprefix("run.")
    assert view["completed_at"] == ledger.ago(minutes=3)
    assert (view["duration_ms"], view["tokens_used"]) == (360_000, 7)
    assert ledger.refusal(fact(ending, run, time=ledger.ago(minutes=4))) == STATE
    line_detail = ledger.detail(line)
    assert line_detail["open_runs"] == 0
    assert line_detail["metrics"]["last_run_duration_ms"] == 360_000
    assert ledger.run_view(other)["status"] == "cancelled"
    ((row),) = ledger.rows("SELECT open_runs FROM ledger.line_activity WHERE line_id = %s", line)
    assert row["open_runs"] == 0


def test_a_pending_run_cancelled_by_a_closing_may_only_fail(ledger: Ledger) -> None:
    line = ledger.line()
    run = ledger.run(line, started=False)
    ledger.accept(fact("service_line.closed", line))
    time = ledger.ago(minutes=1)
    assert ledger.refusal(fact("run.completed", run, time=time)) == STATE
    assert ledger.refusal(fact("run.started", run, time=time)) == STATE
    ledger.accept(fact("run.failed", run, time=time))
    assert ledger.run_view(run)["status"] == "failed"


def test_a_run_that_ended_before_the_closing_accepts_no_late_ending(ledger: Ledger) -> None:
    line = ledger.line()
    run = ledger.run(line)
    ledger.accept(
        fact("run.cancelled", run, time=ledger.ago(minutes=1)), fact("service_line.closed", line)
    )
    assert ledger.refusal(fact("run.completed", run, time=ledger.ago(minutes=2))) == STATE


def test_late_check_ins_and_voids_count_on_a_closed_line(ledger: Ledger) -> None:
    line = ledger.line("capacity")
    first, late = (fact("execution.checked_in", line, {"hours": h}) for h in (3, 5))
    ledger.accept(first, fact("service_line.closed", line))
    ledger.accept(late | {"time": ledger.at()})
    assert ledger.metrics(line)["hours_total"] == 8
    void = {"fact_id": first["id"]}
    ledger.accept(fact("execution.check_in_voided", line, void, time=ledger.at()))
    assert ledger.metrics(line)["hours_total"] == 5
    assert ledger.detail(line)["state"] == "closed"


def test_a_closed_line_never_goes_idle(ledger: Ledger) -> None:
    line = ledger.line()
    ledger.accept(fact("service_line.closed", line))
    ledger.clock.advance(hours=1)
    ledger.sweep()
    assert ledger.topics(line)[-1] == "execution.closed"


@pytest.mark.parametrize("requested_before", [True, False])
def test_a_run_its_closing_and_its_late_ending_may_share_a_batch(
    ledger: Ledger, requested_before: bool
) -> None:
    line = ledger.line()
    run = ledger.run(line, started=False) if requested_before else new_id("RUN")
    data = {"service_line_id": line}
    late = fact("run.completed", run, time=ledger.ago(minutes=5))
    items = ledger.report(
        fact("run.started", run, data, time=ledger.ago(minutes=9)),
        fact("service_line.closed", line, time=ledger.ago(minutes=1)),
        late,
    )
    assert [item.outcome for item in items] == ["recorded"] * 3


def test_a_start_repeated_in_the_batch_of_a_closing_does_not_prevent_the_late_ending(
    ledger: Ledger,
) -> None:
    line, run = ledger.line(), new_id("RUN")
    start = fact("run.started", run, {"service_line_id": line}, time=ledger.ago(minutes=9))
    items = ledger.report(start, fact("service_line.closed", line), start)
    assert [item.outcome for item in items] == ["recorded", "recorded", "duplicate"]
    ledger.accept(fact("run.completed", run, time=ledger.ago(minutes=5)))


def test_all_of_many_runs_are_cancelled_before_the_closing_that_causes_it(ledger: Ledger) -> None:
    # The cancellations are written in several statements, before the closing is decided.
    line, runs = ledger.line(), [new_id("RUN") for _ in range(450)]
    begun = (fact("run.requested", run, {"service_line_id": line}) for run in runs)
    assert {item.outcome for item in ledger.report(*begun)} == {"recorded"}
    before = ledger.head()

    late = fact("run.failed", runs[0], time=ledger.ago(minutes=1))
    closed, failed = ledger.report(fact("service_line.closed", line), late)

    assert closed.outcome == failed.outcome == "recorded"
    *cancelled, closing, ending = ledger.events(line, *runs, after=before)
    assert {event["originator_id"] for event in cancelled} == set(runs)
    assert {event["state"]["causation_id"] for event in cancelled} == set(closed.event_ids)
    assert closing["topic"].startswith("execution.closed/")
    assert (ending["originator_id"], ending["originator_version"]) == (runs[0], 3)
    detail = ledger.detail(line)
    assert (detail["state"], detail["open_runs"]) == ("closed", 0)
