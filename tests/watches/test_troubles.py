"""Rounds that fail, lag or know less than the last one: no alert is lost, and none is twice."""

import pytest

from ledger.features.watches.kinds import BlockerOpen, InState, RunOpen, RunsFailing
from ledger.features.watches.loops import loop
from tests.support.ledger import Ledger
from tests.support.rebuilding import rebuild, view
from tests.support.views import until
from tests.watches.test_rounds import alert_events, block, ends, opened, say, unblock

FORBID = (
    "ALTER TABLE ledger.ledger_events ADD CONSTRAINT forbidden CHECK (originator_id !~ '^ALR') "
    "NOT VALID"
)
ALLOW = "ALTER TABLE ledger.ledger_events DROP CONSTRAINT forbidden"


def test_an_alert_that_the_writer_could_not_record_opens_in_a_later_round(
    own_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)))
    block(own_ledger, line)
    own_ledger.reader.execute(FORBID)
    assert opened(own_ledger) == []
    own_ledger.reader.execute(ALLOW)
    own_ledger.clock.advance(seconds=5)
    assert len(opened(own_ledger)) == 1
    caplog.clear()


def test_views_of_another_version_are_not_judged_by(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)))
    own_ledger.run_watches()
    block(own_ledger, line)
    own_ledger.catch_up()
    change = "UPDATE ledger.projection SET version = version {} WHERE name = 'execution'"
    own_ledger.reader.execute(change.format("- 1").encode())
    assert own_ledger.watch_loop.run_once() == 0
    own_ledger.reader.execute(change.format("+ 1").encode())
    assert len(opened(own_ledger)) == 1


@pytest.mark.parametrize("name", ["execution", "run", "watch"])
def test_alerts_open_and_end_once_when_a_view_is_rebuilt_between_two_rounds(
    own_ledger: Ledger, name: str
) -> None:
    lines = [own_ledger.line() for _ in range(2)]
    own_ledger.watch(InState(("blocked",)))
    own_ledger.watch(RunOpen(("running",)))
    block(own_ledger, lines[0])
    own_ledger.run(lines[1], time=own_ledger.at())
    assert len(opened(own_ledger)) == 2
    own_ledger.clock.advance(minutes=1)
    ended = own_ledger.at()
    unblock(own_ledger, lines[0])
    block(own_ledger, lines[1])
    rebuild(own_ledger.conninfo, view(name))
    own_ledger.projector.disconnect()
    until(own_ledger.projector.lead, "the lead")
    assert len(opened(own_ledger)) == 3
    assert ends(own_ledger) == [("recovered", ended)]


def test_an_alert_that_is_over_is_resolved_by_a_leader_that_does_not_know_who_looked_before(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)))
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=1)
    ended = own_ledger.at()
    unblock(own_ledger, line)
    own_ledger.watch_loop.disconnect()
    own_ledger.reader.execute("DELETE FROM ledger.watch_look")
    own_ledger.reader.execute("DELETE FROM ledger.watch_due")
    own_ledger.clock.advance(minutes=1)
    assert ends(own_ledger) == [("recovered", ended)]


def test_no_more_alerts_are_open_than_a_watch_may_have_also_while_the_views_lag(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_UNRESOLVED", 2)
    lines = [own_ledger.line() for _ in range(4)]
    own_ledger.watch(InState(("blocked",)))
    own_ledger.run_watches()
    for line in lines:
        block(own_ledger, line)
    own_ledger.catch_up()
    assert own_ledger.watch_loop.run_once() == 2
    own_ledger.clock.advance(minutes=1)
    assert own_ledger.watch_loop.run_once() == 0
    assert len(opened(own_ledger)) == 2
    assert own_ledger.rows("SELECT waiting FROM ledger.watch_overflow") == [{"waiting": 2}]
    unblock(own_ledger, lines[0])
    own_ledger.clock.advance(seconds=1)
    alerts = opened(own_ledger)
    assert [alert["subject"]["id"] for alert in alerts] == lines[:3]


def test_each_alert_that_waits_is_counted_also_where_several_are_of_one_line(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_UNRESOLVED", 1)
    line = own_ledger.line()
    own_ledger.watch(BlockerOpen())
    for blocker in "abcd":
        block(own_ledger, line, blocker)
    assert len(opened(own_ledger)) == 1
    assert own_ledger.rows("SELECT waiting FROM ledger.watch_overflow") == [{"waiting": 3}]


@pytest.mark.parametrize("changes_leader", [False, True])
def test_lines_beyond_those_that_wait_are_found_again_once_there_is_room(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, changes_leader: bool
) -> None:
    monkeypatch.setattr(loop, "MAX_UNRESOLVED", 1)
    monkeypatch.setattr(loop, "MOST_WAITING", 2)
    lines = [own_ledger.line() for _ in range(6)]
    for line in lines:
        block(own_ledger, line)
    own_ledger.watch(InState(("blocked",)))
    for number in range(1, 7):
        alerts = opened(own_ledger)
        assert len(alerts) == number
        waiting = own_ledger.rows("SELECT waiting FROM ledger.watch_overflow")
        assert [row["waiting"] for row in waiting] == [min(2, 6 - number)] * (number < 6)
        if changes_leader:
            own_ledger.watch_loop.disconnect()
            own_ledger.clock.advance(minutes=2)
            own_ledger.run_watches()
        own_ledger.clock.advance(seconds=1)
        unblock(own_ledger, alerts[-1]["subject"]["id"])
        own_ledger.clock.advance(minutes=2)


def test_two_watches_of_failing_runs_open_their_alerts_in_one_round(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(RunsFailing(1))
    own_ledger.watch(RunsFailing(2))
    own_ledger.run_watches()
    for _ in range(2):
        say(own_ledger, "run.failed", own_ledger.run(line, time=own_ledger.at()))
    own_ledger.catch_up()
    assert own_ledger.watch_loop.run_once() == 2
    assert len(alert_events(own_ledger, "opened")) == 2


def test_a_round_without_any_change_writes_nothing(own_ledger: Ledger) -> None:
    own_ledger.watch(InState(("blocked",)))
    assert opened(own_ledger) == []
    stored = "SELECT xmin::text, position FROM ledger.watch_look ORDER BY organization_id"
    before = own_ledger.rows(stored)
    own_ledger.clock.advance(hours=1)
    own_ledger.run_watches()
    assert own_ledger.rows(stored) == before
