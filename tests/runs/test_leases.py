"""Leases: what begins one anew, when a run fails by it, and what is taken afterwards."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ledger.engine.log.leases import CHECK_DUE
from ledger.features.runs import loops
from ledger.features.runs.commands import ExpireLease, Heartbeat
from tests.support.facts import fact
from tests.support.ledger import NARROW, REPORTER, STRANGER, Ledger, instant, new_id
from tests.support.log_checker import check

STATE = (409, "invalid_state")
UNKNOWN = (404, "not_found")


@pytest.fixture
def ledger(own_ledger: Ledger) -> Ledger:
    """A ledger of the test's own, whose service listens."""
    own_ledger.listen()
    return own_ledger


def leased(
    ledger: Ledger, line: str, seconds: int = 30, *, started: bool = True, **more: Any
) -> str:
    kind = "run.started" if started else "run.requested"
    data = {"service_line_id": line, "lease_seconds": seconds}
    (item,) = ledger.accept(fact(kind, new_id("RUN"), data, **more))
    assert item.subject is not None
    return item.subject


def failure(ledger: Ledger, run: str) -> dict[str, Any]:
    """The stored failure of a run that its lease failed."""
    event = ledger.events(run)[-1]
    assert event["topic"] == "run.failed/1"
    state: dict[str, Any] = event["state"]
    assert state["body"]["lease_expired"] is True
    return state


@pytest.mark.parametrize("started", [True, False])
def test_a_run_of_which_nothing_arrives_fails_at_the_end_of_its_lease_and_once(
    ledger: Ledger, started: bool
) -> None:
    line = ledger.line(time=ledger.at())
    run = leased(ledger, line, 30, started=started, time=ledger.ago(hours=2))
    begun, end = instant(ledger.at()), ledger.at(seconds=30)
    ledger.listen(29.9)
    assert ledger.lease_watch.run_once() == 0
    ledger.listen(3)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.lease_watch.run_once() == 0

    stored = failure(ledger, run)
    renewed_at = instant(stored["body"]["last_heard_at"])
    assert timedelta(0) <= renewed_at - begun < timedelta(seconds=0.01)
    assert instant(stored["occurred_at"]) == renewed_at + timedelta(seconds=30)
    assert stored["actor"]["type"] == "system"
    assert stored["reported_by"] == stored["actor"]["id"]
    assert "fact" not in stored
    view = ledger.run_view(run)
    assert (view["status"], view["lease_seconds"]) == ("failed", 30)
    assert instant(view["completed_at"]) == instant(stored["occurred_at"]) >= instant(end)
    assert (view["duration_ms"] is None) == (not started)
    detail = ledger.detail(line)
    assert (detail["open_runs"], detail["last_activity_at"]) == (0, stored["occurred_at"])
    assert ledger.rows("SELECT * FROM ledger.lease") == []
    assert check(ledger.conninfo).findings == []


def test_heartbeats_keep_a_run_open_and_leave_nothing_in_the_log(ledger: Ledger) -> None:
    run = leased(ledger, ledger.line(), 30)
    head = ledger.head()
    for _ in range(4):
        ledger.listen(25)
        assert ledger.beat(run).refusal == (None, None)
        assert ledger.lease_watch.run_once() == 0
    last = ledger.at()
    ledger.listen(31)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.topics(after=head) == ["run.failed"]
    assert ledger.rows("SELECT * FROM ledger.ledger_events WHERE originator_id ~ '^REF'") == []
    stored = failure(ledger, run)
    assert stored["body"]["last_heard_at"] == last
    assert instant(stored["occurred_at"]) == instant(last) + timedelta(seconds=30)


def test_the_start_of_a_requested_run_begins_its_lease_anew_and_keeps_its_length(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    short, longer = (leased(ledger, line, 30, started=False) for _ in range(2))
    ledger.listen(20)
    ledger.accept(
        # The times are those of long ago: a lease counts from arrival.
        fact("run.started", short, time=ledger.ago(hours=3)),
        fact("run.started", longer, {"lease_seconds": 60}, time=ledger.ago(hours=3)),
    )
    assert [ledger.run_view(run)["lease_seconds"] for run in (short, longer)] == [30, 60]
    ledger.listen(29)
    assert ledger.lease_watch.run_once() == 0
    ledger.listen(2)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.run_view(short)["status"] == "failed"
    ledger.listen(30)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.run_view(longer)["status"] == "failed"


def test_a_start_may_give_the_first_lease_of_a_requested_run(ledger: Ledger) -> None:
    line = ledger.line()
    run = ledger.run(line, started=False)
    assert ledger.beat(run).refusal == STATE
    ledger.accept(fact("run.started", run, {"lease_seconds": 5}))
    assert ledger.beat(run).refusal == (None, None)
    ledger.listen(6)
    assert ledger.lease_watch.run_once() == 1


def test_a_heartbeat_is_refused_without_trace_where_no_open_lease_is_seen(ledger: Ledger) -> None:
    line = ledger.line()
    run, bare, ended = leased(ledger, line), ledger.run(line), leased(ledger, line)
    ledger.accept(fact("run.completed", ended))
    events = len(ledger.events())
    assert ledger.beat(new_id("RUN")).refusal == UNKNOWN
    assert ledger.beat(run, by=STRANGER).refusal == UNKNOWN
    assert ledger.beat(run, by=NARROW).refusal == UNKNOWN
    assert ledger.beat(bare).refusal == STATE
    assert ledger.beat(ended).refusal == STATE
    ledger.listen(31)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.beat(run).refusal == STATE
    assert len(ledger.events()) == events + 1


@pytest.mark.parametrize("ending", ["run.completed", "run.failed", "run.cancelled", "closing"])
def test_an_ending_ends_the_lease(ledger: Ledger, ending: str) -> None:
    line = ledger.line()
    run = leased(ledger, line)
    subject, kind = (line, "service_line.closed") if ending == "closing" else (run, ending)
    ledger.accept(fact(kind, subject))
    assert ledger.rows("SELECT * FROM ledger.lease") == []
    ledger.listen(60)
    assert ledger.lease_watch.run_once() == 0


@pytest.mark.parametrize("ending", ["run.completed", "run.failed"])
@pytest.mark.parametrize("ago", [{"hours": 5}, {"minutes": -4}])
def test_one_late_ending_of_any_time_replaces_the_failure(
    ledger: Ledger, ending: str, ago: dict[str, float]
) -> None:
    line = ledger.line(time=ledger.ago(days=1))
    run = leased(ledger, line, time=ledger.ago(minutes=1))
    ledger.listen(31)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.refusal(fact("run.cancelled", run)) == STATE
    assert ledger.refusal(fact("run.started", run)) == STATE

    late = {"tokens_used": 7, "duration_ms": 12}
    ledger.accept(fact(ending, run, late, time=ledger.ago(**ago)))

    view = ledger.run_view(run)
    assert view["status"] == ending.removeprefix("run.")
    assert view["completed_at"] == ledger.ago(**ago)
    assert (view["duration_ms"], view["tokens_used"]) == (12, 7)
    assert ledger.events(run)[-1]["state"]["body"]["late"] is True
    detail = ledger.detail(line)
    assert (detail["open_runs"], detail["metrics"]["last_run_duration_ms"]) == (0, 12)
    for kind in ("run.completed", "run.failed", "run.cancelled"):
        assert ledger.refusal(fact(kind, run)) == STATE
    assert check(ledger.conninfo).findings == []


def test_a_run_that_never_started_may_only_fail_late(ledger: Ledger) -> None:
    run = leased(ledger, ledger.line(), started=False)
    ledger.listen(31)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.refusal(fact("run.completed", run)) == STATE
    ledger.accept(fact("run.failed", run, {"error": {"code": "late"}}))
    assert ledger.run_view(run)["status"] == "failed"


def test_on_a_closed_line_a_late_ending_lies_no_later_than_the_closing(ledger: Ledger) -> None:
    line = ledger.line()
    run = leased(ledger, line)
    ledger.listen(31)
    assert ledger.lease_watch.run_once() == 1
    ledger.accept(fact("service_line.closed", line, time=ledger.at()))
    ledger.clock.advance(minutes=1)
    assert ledger.refusal(fact("run.completed", run, time=ledger.ago(seconds=59))) == STATE
    ledger.accept(fact("run.completed", run, time=ledger.ago(seconds=60)))
    assert ledger.run_view(run)["status"] == "completed"
    assert check(ledger.conninfo).findings == []


def test_a_recent_late_ending_wakes_an_idle_line_and_an_old_one_does_not(ledger: Ledger) -> None:
    for age, state in ((0, "running"), (901, "idle")):
        line = ledger.line(time=ledger.at())
        run = leased(ledger, line)
        ledger.listen(31)
        assert ledger.lease_watch.run_once() == 1
        ledger.clock.advance(hours=1)
        ledger.sweep()
        assert ledger.detail(line)["state"] == "idle"
        ledger.accept(fact("run.completed", run, time=ledger.ago(seconds=age)))
        assert ledger.detail(line)["state"] == state


def test_the_last_runs_duration_forgets_a_failure_that_a_late_ending_took_back(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    first = ledger.run(line)
    ledger.accept(fact("run.completed", first, {"duration_ms": 1}, time=ledger.ago(seconds=50)))
    lost, other = (leased(ledger, line, time=ledger.ago(seconds=60)) for _ in range(2))
    ledger.listen(31)
    assert ledger.lease_watch.run_once() == 2

    def last() -> int:
        duration: int = ledger.metrics(line)["last_run_duration_ms"]
        return duration

    assert last() == ledger.run_view(other)["duration_ms"]
    ledger.accept(fact("run.completed", other, {"duration_ms": 2}, time=ledger.ago(hours=1)))
    assert last() == ledger.run_view(lost)["duration_ms"]
    ledger.accept(fact("run.completed", lost, {"duration_ms": 3}, time=ledger.ago(hours=1)))
    assert last() == 1


def test_of_an_expiry_and_a_later_ending_the_ending_is_the_last_run(ledger: Ledger) -> None:
    line = ledger.line()
    leased(ledger, line, time=ledger.at())
    other = ledger.run(line)
    ledger.listen(31)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.metrics(line)["last_run_duration_ms"] == 30_000
    ledger.accept(fact("run.completed", other, {"duration_ms": 4}, time=ledger.at()))
    assert ledger.metrics(line)["last_run_duration_ms"] == 4


# Time in which the service could take no heartbeat.


def test_an_outage_puts_off_the_end_of_every_lease_that_had_not_ended(ledger: Ledger) -> None:
    line = ledger.line()
    over = leased(ledger, line, 5)
    ledger.listen(4)
    run = leased(ledger, line, 30)
    beat = ledger.at()
    ledger.listen(2)
    ledger.clock.advance(minutes=10)  # nobody listens

    # The watch runs before any node listens again: only what had ended before the outage fails.
    assert ledger.lease_watch.run_once() == 1
    assert ledger.run_view(over)["status"] == "failed"
    ledger.listen()
    assert ledger.lease_watch.run_once() == 0
    ledger.listen(27)
    assert ledger.lease_watch.run_once() == 0
    ledger.listen(2)
    assert ledger.lease_watch.run_once() == 1
    stored = failure(ledger, run)
    expected = instant(beat) + timedelta(seconds=30, minutes=10)
    assert abs(instant(stored["occurred_at"]) - expected) < timedelta(seconds=0.01)
    assert abs(instant(stored["body"]["last_heard_at"]) - instant(beat)) < timedelta(seconds=0.01)


def test_a_lease_that_began_during_an_outage_is_put_off_by_the_rest_of_it(ledger: Ledger) -> None:
    ledger.clock.advance(minutes=1)
    run = leased(ledger, ledger.line(), 30)  # as `ledger import` reports it
    ledger.clock.advance(minutes=1)
    ledger.listen()
    ledger.listen(29)
    assert ledger.lease_watch.run_once() == 0
    ledger.listen(2)
    assert ledger.lease_watch.run_once() == 1
    assert ledger.run_view(run)["status"] == "failed"


def test_nothing_expires_where_nobody_has_ever_listened(own_ledger: Ledger) -> None:
    run = leased(own_ledger, own_ledger.line(), 5)
    own_ledger.clock.advance(hours=1)
    assert own_ledger.lease_watch.run_once() == 0
    own_ledger.listen()
    own_ledger.listen(4)
    assert own_ledger.lease_watch.run_once() == 0
    own_ledger.listen(2)
    assert own_ledger.lease_watch.run_once() == 1
    assert own_ledger.run_view(run)["status"] == "failed"


def test_a_heartbeat_in_the_group_of_an_expiry_saves_the_run(ledger: Ledger) -> None:
    saved, lost = leased(ledger, line := ledger.line()), leased(ledger, line)
    ledger.listen(31)
    commands = [Heartbeat(saved, REPORTER), ExpireLease(saved), ExpireLease(lost)]
    assert len(ledger.writer.submit(commands).result(20)) == 3
    assert [ledger.run_view(run)["status"] for run in (saved, lost)] == ["running", "failed"]


def test_many_leases_of_one_organization_keep_no_other_organizations_lease_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "_LEASES_AT_ONCE", 4)
    line = ledger.line()
    other = ledger.line(by=STRANGER, organization_id="ORG-26-000002")
    many = [leased(ledger, line, seconds) for seconds in (30, 29, 28, 27, 26, 25)]
    data = {"service_line_id": other, "lease_seconds": 31}
    (item,) = ledger.accept(fact("run.started", new_id("RUN"), data), by=STRANGER)
    late = item.subject or ""
    ledger.listen(33)
    assert ledger.lease_watch.run_once() == 4
    failed = [run for run in (*many, late) if ledger.run_view(run)["status"] == "failed"]
    assert failed == [*many[-3:], late], "the oldest three of one, and the other's only one"
    assert ledger.lease_watch.run_once() == 3


def test_due_leases_are_found_in_the_index_however_many_there_are(ledger: Ledger) -> None:
    # Most leases of three organizations are due; most of the table is not touched.
    due = """
        INSERT INTO ledger.lease (run_id, seconds, heard_at, ends_at, due_at, organization_id)
        SELECT 'RUN-26-' || 100000 + n, 5, at, at + interval '5 s', at + interval '5 s',
            'ORG-26-00000' || n % 3
        FROM generate_series(1, 30000) AS n,
            (SELECT listened_at - interval '9 s' FROM ledger.listening) AS begun (at)
        """
    with psycopg.connect(ledger.conninfo) as connection:
        connection.execute(due.encode())
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {CHECK_DUE}".encode()
        ((plans,),) = connection.execute(explain, {"limit": 10}).fetchall()
        connection.rollback()
    scans = [
        node
        for node in nodes(plans[0]["Plan"])
        if node.get("Relation Name") == "lease" and node["Actual Loops"] and "Plans" not in node
    ]
    indexes = {"lease_organization_id_due_at_idx", "lease_pkey"}
    assert {node.get("Index Name") for node in scans} == indexes
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) < 100


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
