"""Alerts that watches open and resolve, by each kind of condition (contract, Watches)."""

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
)
from ledger.features.watches.model.watch import LineChoice
from ledger.features.watches.model.watch_hours import WatchHours
from tests.support.facts import fact
from tests.support.ledger import ADMIN, Ledger

HOUR = 3600
BLOCK = {"blocker_id": "b", "cause": "approval_gap", "reason": "Not approved."}


def alert_events(ledger: Ledger, *kinds: str) -> list[dict[str, Any]]:
    """The bodies of the stored events of alerts of these kinds, with their times and streams."""
    return [
        event["state"]["body"]
        | {"occurred_at": event["state"]["occurred_at"], "stream": event["originator_id"]}
        for event in ledger.events()
        if event["topic"].split("/")[0] in {f"alert.{kind}" for kind in kinds}
    ]


def opened(ledger: Ledger) -> list[dict[str, Any]]:
    ledger.run_watches()
    return alert_events(ledger, "opened")


def ends(ledger: Ledger) -> list[tuple[str, str]]:
    ledger.run_watches()
    return [(each["reason"], each["occurred_at"]) for each in alert_events(ledger, "resolved")]


def say(ledger: Ledger, type: str, subject: str, data: Any = None, **attributes: Any) -> str:
    """Report a fact of now, by the clock, or of ``time``; return the id of its event."""
    (item,) = ledger.accept(fact(type, subject, data, **{"time": ledger.at()} | attributes))
    return item.event_ids[0]


def block(ledger: Ledger, line: str, blocker: str = "b", **attributes: Any) -> str:
    return say(ledger, "execution.blocked", line, BLOCK | {"blocker_id": blocker}, **attributes)


def unblock(ledger: Ledger, line: str, blocker: str = "b", **attributes: Any) -> None:
    say(ledger, "execution.unblocked", line, {"blocker_id": blocker}, **attributes)


def test_an_alert_opens_when_a_line_has_been_blocked_for_as_long_as_the_watch_says(
    own_ledger: Ledger,
) -> None:
    ledger = own_ledger
    line = ledger.line("ongoing_sla", name="Payments gateway")
    ledger.watch(InState(("blocked",)), 2 * HOUR, severity="critical", name="Blocked")
    since = ledger.at()
    event = block(ledger, line)
    assert opened(ledger) == []
    ledger.clock.advance(hours=2, microseconds=-1)
    assert opened(ledger) == []
    ledger.clock.advance(seconds=3)
    (alert,) = opened(ledger)
    due = ledger.ago(seconds=3, microseconds=-1)
    assert alert["since"] == since
    assert (alert["due"], alert["occurred_at"]) == (due, due)
    assert alert["evidence"] == [event]
    assert alert["subject"] == {"type": "service_line", "id": line}
    assert (alert["severity"], alert["watch_name"]) == ("critical", "Blocked")
    assert alert["text"] == (
        "Payments gateway has been blocked for 2 h by an approval gap: Not approved."
    )
    ledger.clock.advance(hours=1)
    assert len(opened(ledger)) == 1
    unblock(ledger, line, time=ledger.ago(minutes=5))
    assert ends(ledger) == [("recovered", ledger.ago(minutes=5))]


def test_a_state_that_ended_before_anybody_looked_opens_no_alert(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)), HOUR)
    block(own_ledger, line)
    own_ledger.clock.advance(hours=2)
    unblock(own_ledger, line, time=own_ledger.at())
    assert opened(own_ledger) == []


def test_each_episode_has_an_alert_of_its_own_also_where_no_round_saw_the_end(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)), 60)
    block(own_ledger, line)
    own_ledger.clock.advance(minutes=2)
    assert len(opened(own_ledger)) == 1
    ended = own_ledger.at()
    unblock(own_ledger, line)
    own_ledger.clock.advance(seconds=30)
    block(own_ledger, line)
    own_ledger.clock.advance(seconds=90)
    first, second = opened(own_ledger)
    assert ends(own_ledger) == [("recovered", ended)]
    assert first["evidence"] != second["evidence"]


def test_an_episode_without_length_does_not_break_another(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)), HOUR)
    since, event = own_ledger.at(), block(own_ledger, line)
    own_ledger.clock.advance(minutes=30)
    unblock(own_ledger, line)
    block(own_ledger, line, time=own_ledger.ago(minutes=10))
    own_ledger.clock.advance(minutes=31)
    (alert,) = opened(own_ledger)
    assert (alert["since"], alert["evidence"]) == (since, [event])


def test_paused_or_blocked_is_one_episode_and_blocked_alone_ends_by_pausing(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    both = own_ledger.watch(InState(("paused", "blocked")), HOUR)
    one = own_ledger.watch(InState(("blocked",)), HOUR)
    since = own_ledger.at()
    block(own_ledger, line)
    own_ledger.clock.advance(minutes=30)
    own_ledger.pause(line)
    own_ledger.clock.advance(minutes=31)
    (alert,) = opened(own_ledger)
    assert (alert["watch_id"], alert["since"]) == (both, since)
    own_ledger.clock.advance(seconds=1)
    resumed = own_ledger.at()
    own_ledger.resume(line)
    own_ledger.clock.advance(hours=1)
    _, second = opened(own_ledger)
    assert (second["watch_id"], second["since"]) == (one, resumed)
    assert ends(own_ledger) == []


def test_each_open_blocker_has_an_alert_and_pausing_changes_nothing(own_ledger: Ledger) -> None:
    line = own_ledger.line(name="Atlas")
    own_ledger.watch(BlockerOpen(("approval_gap",)), HOUR)
    block(own_ledger, line, "one")
    block(own_ledger, line, "two")
    own_ledger.pause(line)
    own_ledger.clock.advance(hours=1)
    alerts = opened(own_ledger)
    assert [alert["subject"]["id"] for alert in alerts] == ["one", "two"]
    assert alerts[0]["text"] == ("Atlas has been blocked for 1 h by an approval gap: Not approved.")
    unblock(own_ledger, line, "one")
    unblocked = own_ledger.at()
    assert ends(own_ledger) == [("recovered", unblocked)]


def test_a_blocker_is_past_due_from_its_due_time_on(own_ledger: Ledger) -> None:
    line = own_ledger.line(name="Atlas")
    own_ledger.watch(PastDue())
    due = own_ledger.at(hours=1)
    more = {"assignee": "Amara Okafor", "due_at": due}
    say(own_ledger, "execution.blocked", line, BLOCK | more)
    assert opened(own_ledger) == []
    own_ledger.clock.advance(hours=1)
    (alert,) = opened(own_ledger)
    assert (alert["since"], alert["due"]) == (due, due)
    assert alert["text"] == (
        "A blocker of Atlas is past due, an approval gap: Not approved."
        " Amara Okafor should act by 15 Apr 13:00 UTC."
    )


def test_a_quiet_line_opens_an_alert_which_the_next_activity_ends(own_ledger: Ledger) -> None:
    line = own_ledger.line("capacity", name="Atlas", time=own_ledger.at())
    own_ledger.watch(NoActivity(), 5 * 24 * HOUR)
    own_ledger.clock.advance(days=4)
    since = own_ledger.at()
    say(own_ledger, "execution.checked_in", line, {"hours": 1})
    assert opened(own_ledger) == []
    own_ledger.clock.advance(days=1)
    own_ledger.sweep()  # going idle is no change of the line
    own_ledger.clock.advance(days=4)
    (alert,) = opened(own_ledger)
    assert (alert["since"], alert.get("evidence", [])) == (since, [])
    assert alert["text"] == "Atlas has had no activity for 5 days."
    say(own_ledger, "execution.checked_in", line, {"hours": 1}, time=own_ledger.ago(days=6))
    assert ends(own_ledger) == []
    own_ledger.clock.advance(hours=1)
    say(own_ledger, "execution.checked_in", line, {"hours": 1}, time=own_ledger.ago(days=1))
    assert ends(own_ledger) == [("recovered", own_ledger.at())]


def test_a_run_that_is_pending_or_running_too_long_opens_an_alert(own_ledger: Ledger) -> None:
    line = own_ledger.line(name="Atlas")
    own_ledger.watch(RunOpen(("pending", "running")), HOUR)
    run = own_ledger.run(line, started=False, time=own_ledger.at())
    own_ledger.clock.advance(hours=1)
    (alert,) = opened(own_ledger)
    assert alert["subject"] == {"type": "run", "id": run}
    assert alert["text"] == f"Run {run} of Atlas has been pending for 1 h."
    say(own_ledger, "run.started", run, {"service_line_id": line})
    started = own_ledger.at()
    assert ends(own_ledger) == [("recovered", started)]
    own_ledger.clock.advance(hours=1)
    assert [alert["since"] for alert in opened(own_ledger)][1] == started
    say(own_ledger, "run.completed", run, {})
    assert ends(own_ledger)[1] == ("recovered", own_ledger.at())


def test_so_many_runs_that_failed_in_a_row_open_one_alert(own_ledger: Ledger) -> None:
    line = own_ledger.line(name="Atlas")
    own_ledger.watch(RunsFailing(2))
    runs = [own_ledger.run(line, time=own_ledger.at()) for _ in range(4)]
    for run in runs[:3]:
        own_ledger.clock.advance(minutes=1)
        say(own_ledger, "run.failed", run, {"error": {"message": "secret"}})
    (alert,) = opened(own_ledger)
    assert alert["since"] == own_ledger.ago(minutes=1)
    assert alert["text"] == "The last 2 runs of Atlas failed."
    own_ledger.clock.advance(minutes=1)
    say(own_ledger, "run.completed", runs[3], {})
    assert ends(own_ledger) == [("recovered", own_ledger.at())]


def test_health_that_gets_worse_and_better_opens_and_ends_an_alert(own_ledger: Ledger) -> None:
    def report(status: str, name: str = "sla_compliance") -> None:
        data = {"signal": name, "status": status}
        say(own_ledger, "health.signal_reported", line, data)

    line = own_ledger.line("ongoing_sla", name="Atlas")
    own_ledger.watch(HealthBelow("red"), 60)
    report("red")
    report("red", "incident_frequency")
    own_ledger.clock.advance(seconds=61)
    (alert,) = opened(own_ledger)
    assert alert["text"] == "The health of Atlas has been red for 1 min."
    report("green", "incident_frequency")
    assert ends(own_ledger) == [("recovered", own_ledger.at())]


def test_a_closing_resolves_the_alerts_of_its_line(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)))
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=1)
    say(own_ledger, "service_line.closed", line, {"reason": "done"})
    assert ends(own_ledger) == [("line_closed", own_ledger.at())]


def test_a_new_revision_checks_anew_and_resolves_the_alerts_of_the_old_one(
    own_ledger: Ledger,
) -> None:
    def change(**changes: Any) -> str:
        own_ledger.clock.advance(minutes=1)
        own_ledger.execute(UpdateWatch(watch, ADMIN, changes=changes))
        return own_ledger.at()

    line, watch = own_ledger.line(), own_ledger.watch(InState(("blocked",)))
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    change(name="Another name")
    assert ends(own_ledger) == []
    changed = change(for_seconds=30)
    assert ends(own_ledger) == [("changed", changed)]
    assert len(opened(own_ledger)) == 2
    disabled = change(enabled=False)
    assert ends(own_ledger)[1:] == [("disabled", disabled)]
    change(enabled=True)
    assert len(opened(own_ledger)) == 3
    own_ledger.clock.advance(minutes=1)
    own_ledger.execute(DeleteWatch(watch, ADMIN))
    assert ends(own_ledger)[2:] == [("deleted", own_ledger.at())]
    own_ledger.clock.advance(hours=1)
    assert len(opened(own_ledger)) == 3


def test_a_line_that_leaves_the_lines_of_a_watch_resolves_its_alert(own_ledger: Ledger) -> None:
    line = own_ledger.line(project_tags=["PROJ-26-000001"])
    own_ledger.watch(InState(("running",)), lines=LineChoice(project_tag=("PROJ-26-000001",)))
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=1)
    say(own_ledger, "service_line.updated", line, {"project_tags": []})
    left = own_ledger.at()
    own_ledger.clock.advance(minutes=1)
    assert ends(own_ledger) == [("changed", left)]


@pytest.mark.parametrize(("gap", "number"), [(50, 1), (70, 2)])
def test_an_alert_is_kept_for_a_while_and_joined_by_an_episode_that_begins_then(
    own_ledger: Ledger, gap: int, number: int
) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)), keep_seconds=60)
    block(own_ledger, line)
    own_ledger.run_watches()
    own_ledger.clock.advance(minutes=5)
    unblock(own_ledger, line)
    own_ledger.run_watches()
    own_ledger.clock.advance(seconds=gap)
    block(own_ledger, line)
    assert len(opened(own_ledger)) == number
    own_ledger.clock.advance(minutes=5)
    unblock(own_ledger, line)
    own_ledger.clock.advance(minutes=5)
    assert ends(own_ledger)[-1] == ("recovered", own_ledger.ago(minutes=4))
    assert len(ends(own_ledger)) == number


def test_reminders_come_until_somebody_acknowledges(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)), remind_seconds=600)
    begun = own_ledger.clock.now
    block(own_ledger, line)
    (alert,) = opened(own_ledger)
    own_ledger.clock.advance(seconds=600)
    own_ledger.run_watches()
    own_ledger.clock.advance(seconds=1300)  # two have become due since
    own_ledger.run_watches()
    times = [each["occurred_at"] for each in alert_events(own_ledger, "reminded")]
    assert times == [own_ledger.ago(seconds=1300), own_ledger.ago(seconds=100)]
    assert [each["n"] for each in alert_events(own_ledger, "reminded")] == [1, 2]
    until = own_ledger.clock.now.replace(second=0, microsecond=0) + (own_ledger.clock.now - begun)
    item = own_ledger.execute(
        Acknowledge(alert["stream"], ADMIN, note="I am on it", assignee=None, until=until)
    )
    assert item.outcome == "recorded"
    own_ledger.clock.now = until
    own_ledger.run_watches()
    assert len(alert_events(own_ledger, "reminded")) == 2
    own_ledger.clock.advance(seconds=600)
    own_ledger.run_watches()
    assert len(alert_events(own_ledger, "reminded")) == 3


def test_hours_of_a_watch_count_alone(own_ledger: Ledger) -> None:
    hours = WatchHours(time_zone="UTC", days=("wed", "thu"), from_="09:00", to="13:00")
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)), 2 * HOUR, hours=hours)
    block(own_ledger, line)  # Wednesday, 12:00
    own_ledger.clock.advance(hours=20)
    assert opened(own_ledger) == []
    own_ledger.clock.advance(hours=2)
    (alert,) = opened(own_ledger)
    assert alert["due"] == "2026-04-16T10:00:00Z"


def test_a_new_watch_finds_what_holds_already_and_a_backdated_fact_what_was_due_long_ago(
    own_ledger: Ledger,
) -> None:
    first, second = own_ledger.line(), own_ledger.line()
    block(own_ledger, first, time=own_ledger.ago(minutes=50))
    own_ledger.watch(InState(("blocked",)), 60)
    assert [alert["since"] for alert in opened(own_ledger)] == [own_ledger.ago(minutes=50)]
    block(own_ledger, second, time=own_ledger.ago(minutes=30))
    assert [alert["since"] for alert in opened(own_ledger)][1:] == [own_ledger.ago(minutes=30)]


def test_a_watch_of_a_workspace_checks_its_lines_alone(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.line(workspace_id="WS-26-000002")
    own_ledger.watch(InState(("running",)), workspace="WS-26-000001")
    assert [alert["subject"]["id"] for alert in opened(own_ledger)] == [line]
    own_ledger.watch(InState(("running",)), organization="ORG-26-000009")
    assert len(opened(own_ledger)) == 1


def test_another_leader_opens_nothing_twice(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(InState(("blocked",)))
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    own_ledger.watch_loop.disconnect()
    own_ledger.reader.execute("DELETE FROM ledger.watch_look")
    own_ledger.reader.execute("DELETE FROM ledger.watch_due")
    assert len(opened(own_ledger)) == 1
    block(own_ledger, line, "another")
    assert len(opened(own_ledger)) == 1


def test_a_blocker_that_is_opened_again_for_another_cause_does_not_join_the_alert(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    own_ledger.watch(BlockerOpen(("approval_gap",)), keep_seconds=300)
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=1)
    ended = own_ledger.at(seconds=300)
    unblock(own_ledger, line)
    say(own_ledger, "execution.blocked", line, BLOCK | {"cause": "capacity_issue"})
    own_ledger.clock.advance(minutes=6)
    assert ends(own_ledger) == [("recovered", ended)]


def test_a_blocker_that_is_opened_again_at_once_is_another_episode(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    own_ledger.watch(BlockerOpen())
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=1)
    ended = own_ledger.at()
    unblock(own_ledger, line, time=ended)
    event = block(own_ledger, line, time=ended)
    assert opened(own_ledger)[1]["evidence"] == [event]
    assert ends(own_ledger) == [("recovered", ended)]


def test_a_run_that_fails_after_a_good_one_opens_an_alert_of_its_own_at_any_time_of_its_end(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    own_ledger.watch(RunsFailing(1))
    first, good, second = (own_ledger.run(line, time=own_ledger.at()) for _ in range(3))
    say(own_ledger, "run.failed", first)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=2)
    ended = own_ledger.at()
    say(own_ledger, "run.completed", good)
    say(own_ledger, "run.failed", second, time=own_ledger.ago(minutes=1))
    assert [alert["since"] for alert in opened(own_ledger)][1:] == [own_ledger.ago(minutes=1)]
    assert ends(own_ledger) == [("recovered", ended)]


def test_a_pause_ends_the_alert_of_a_quiet_line_at_any_time_that_it_names(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line("capacity", time=own_ledger.ago(hours=1))
    own_ledger.watch(NoActivity(), 300)
    say(own_ledger, "execution.checked_in", line, {"hours": 1})
    own_ledger.clock.advance(minutes=6)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(seconds=1)
    say(own_ledger, "service_line.paused", line, time=own_ledger.ago(minutes=20))
    assert ends(own_ledger) == [("recovered", own_ledger.at())]


def test_an_alert_that_is_kept_ends_when_its_line_leaves_the_lines_of_the_watch(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line(project_tags=["a"])
    own_ledger.watch(InState(("blocked",)), keep_seconds=3600, lines=LineChoice(project_tag=("a",)))
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=1)
    unblock(own_ledger, line)
    own_ledger.clock.advance(minutes=1)
    say(own_ledger, "service_line.updated", line, {"project_tags": []})
    assert ends(own_ledger) == [("changed", own_ledger.at())]


def test_a_watch_that_is_disabled_and_then_deleted_ends_its_alerts_as_deleted(
    own_ledger: Ledger,
) -> None:
    line, watch = own_ledger.line(), own_ledger.watch(InState(("blocked",)))
    block(own_ledger, line)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(minutes=1)
    own_ledger.execute(UpdateWatch(watch, ADMIN, changes={"enabled": False}))
    own_ledger.clock.advance(minutes=1)
    own_ledger.execute(DeleteWatch(watch, ADMIN))
    assert ends(own_ledger) == [("deleted", own_ledger.at())]
