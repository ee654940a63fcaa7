"""Watches of sources, which are due when a source has reported nothing for long."""

from datetime import timedelta
from typing import Any

from ledger.engine.values.values import format_instant
from ledger.features.watches.commands.watches import DeleteWatch
from ledger.features.watches.kinds import SourceSilent
from tests.support.facts import fact
from tests.support.ledger import ADMIN, Ledger
from tests.watches.test_rounds import ends, opened, say

HOUR = 3600


def silent(*sources: str) -> SourceSilent:
    return SourceSilent(sources)


def subjects(ledger: Ledger) -> list[tuple[str, str, str]]:
    return [
        (alert["subject"]["type"], alert["subject"]["id"], alert["since"])
        for alert in opened(ledger)
    ]


def check_in(ledger: Ledger, line: str, source: str, **more: Any) -> None:
    say(ledger, "execution.checked_in", line, {"hours": 1}, source=source, **more)


def next_minute(ledger: Ledger) -> str:
    return format_instant(ledger.clock.now.replace(second=0, microsecond=0) + timedelta(minutes=1))


def test_a_source_that_has_been_silent_for_so_long_opens_an_alert_until_it_reports(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line("capacity")
    own_ledger.clock.advance(seconds=20)
    check_in(own_ledger, line, "/timesheets")
    check_in(own_ledger, line, "/planning")
    since = next_minute(own_ledger)
    own_ledger.watch(silent("/timesheets"), 2 * HOUR, name="Timesheets")
    own_ledger.clock.advance(hours=2)
    assert opened(own_ledger) == []
    own_ledger.clock.advance(minutes=1)
    (alert,) = opened(own_ledger)
    assert subjects(own_ledger) == [("source", "/timesheets", since)]
    assert alert["text"] == "Source /timesheets has been silent for 2 h."
    check_in(own_ledger, line, "/planning")
    assert ends(own_ledger) == []
    check_in(own_ledger, line, "/timesheets", time=own_ledger.ago(days=3))
    own_ledger.clock.advance(seconds=1)
    ((reason, at),) = ends(own_ledger)
    assert (reason, at[:19]) == ("recovered", own_ledger.ago(seconds=1)[:19])


def test_a_source_that_never_reported_is_silent_since_the_watch_was_made(
    own_ledger: Ledger,
) -> None:
    own_ledger.clock.advance(seconds=1)
    made = own_ledger.at()
    own_ledger.watch(silent("/never"), 300)
    own_ledger.clock.advance(seconds=301)
    assert subjects(own_ledger) == [("source", "/never", made)]


def test_a_repeated_or_refused_fact_is_no_sign_of_life(own_ledger: Ledger) -> None:
    line = own_ledger.line("capacity")
    sent = fact("execution.checked_in", line, {"hours": 1}, source="/timesheets")
    own_ledger.accept(sent)
    since = next_minute(own_ledger)
    own_ledger.watch(silent("/timesheets"), 600)
    own_ledger.clock.advance(minutes=9)
    own_ledger.report(sent, sent | {"id": "other", "data": {"hours": -1}})
    own_ledger.clock.advance(minutes=3)
    assert subjects(own_ledger) == [("source", "/timesheets", since)]


def test_a_watch_of_a_workspace_hears_its_facts_alone(own_ledger: Ledger) -> None:
    here, there = (
        own_ledger.line("capacity"),
        own_ledger.line("capacity", workspace_id="WS-26-000002"),
    )
    check_in(own_ledger, here, "/timesheets")
    own_ledger.watch(silent("/timesheets"), 600, workspace="WS-26-000001")
    own_ledger.watch(silent("/timesheets"), 600)
    own_ledger.clock.advance(minutes=9)
    check_in(own_ledger, there, "/timesheets")
    own_ledger.clock.advance(minutes=3)
    (alert,) = opened(own_ledger)
    assert alert["watch_id"] == "WCH-26-000001"


def test_an_alert_ends_with_the_first_fact_however_many_came_before_anybody_looked(
    own_ledger: Ledger,
) -> None:
    here, there = (
        own_ledger.line("capacity"),
        own_ledger.line("capacity", workspace_id="WS-26-000002"),
    )
    own_ledger.watch(silent("/timesheets"), 600)
    own_ledger.watch(silent("/timesheets"), 600, workspace="WS-26-000002")
    own_ledger.clock.advance(hours=1)
    assert len(opened(own_ledger)) == 2
    first = own_ledger.at()
    check_in(own_ledger, here, "/timesheets")
    own_ledger.clock.advance(seconds=30)
    second = own_ledger.at()
    check_in(own_ledger, there, "/timesheets")
    own_ledger.clock.advance(minutes=2)
    check_in(own_ledger, there, "/timesheets")
    assert sorted(at[:19] for _, at in ends(own_ledger)) == [first[:19], second[:19]]


def test_a_deleted_watch_resolves_the_alerts_of_its_sources(own_ledger: Ledger) -> None:
    watch = own_ledger.watch(silent("/never"), 300)
    own_ledger.clock.advance(seconds=301)
    assert len(opened(own_ledger)) == 1
    own_ledger.execute(DeleteWatch(watch, ADMIN))
    own_ledger.clock.advance(seconds=1)
    ((reason, _),) = ends(own_ledger)
    assert reason == "deleted"
    own_ledger.clock.advance(hours=1)
    assert len(opened(own_ledger)) == 1


def test_each_source_of_a_watch_has_an_alert_of_its_own(own_ledger: Ledger) -> None:
    own_ledger.watch(silent("/one", "/two"), 300, remind_seconds=600)
    own_ledger.clock.advance(seconds=301)
    assert [subject for _, subject, _ in subjects(own_ledger)] == ["/one", "/two"]
    own_ledger.clock.advance(seconds=601)
    own_ledger.run_watches()
    assert own_ledger.topics().count("alert.reminded") == 2
