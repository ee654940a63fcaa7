"""Watches of sums: a line has used more than a limit in the present day, week or month."""

from typing import Any

import pytest

from ledger.features.watches.kinds import UsageOver
from tests.support.facts import fact
from tests.support.ledger import Ledger
from tests.watches.test_rounds import ends, opened, say


def check_in(ledger: Ledger, line: str, hours: float, **more: Any) -> dict[str, Any]:
    sent = fact("execution.checked_in", line, {"hours": hours}, **{"time": ledger.at()} | more)
    ledger.accept(sent)
    return sent


def void(ledger: Ledger, line: str, sent: dict[str, Any]) -> None:
    say(ledger, "execution.check_in_voided", line, {"fact_id": sent["id"]})


def test_a_line_is_over_from_the_event_that_passes_the_limit_until_a_void(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line("capacity", name="Atlas")
    own_ledger.watch(UsageOver("hours", "week", 40))
    check_in(own_ledger, line, 39.5)
    own_ledger.clock.advance(minutes=1)
    exact = check_in(own_ledger, line, 0.5, time=own_ledger.ago(hours=30))
    assert opened(own_ledger) == []
    own_ledger.clock.advance(minutes=1)
    check_in(own_ledger, line, 0.25)
    own_ledger.clock.advance(minutes=1)
    check_in(own_ledger, line, 1)
    own_ledger.clock.advance(seconds=1)
    (alert,) = opened(own_ledger)
    assert alert["since"][:19] == own_ledger.ago(seconds=61)[:19]
    assert alert["text"] == "Atlas has used more than 40 hours this week."
    assert [event["notification_id"] for event in own_ledger.events(line)][3] == int(
        alert["evidence"][0].split("-")[2]
    )
    check_in(own_ledger, line, 1)
    assert len(opened(own_ledger)) == 1
    void(own_ledger, line, exact)
    assert ends(own_ledger) == []
    own_ledger.clock.advance(minutes=1)
    void(own_ledger, line, check_in(own_ledger, line, 1))
    assert ends(own_ledger) == []


def test_a_void_ends_the_alert_and_a_later_event_begins_another(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line("capacity")
    own_ledger.watch(UsageOver("hours", "day", 4))
    sent = check_in(own_ledger, line, 5)
    own_ledger.clock.advance(minutes=1)
    assert len(opened(own_ledger)) == 1
    void(own_ledger, line, sent)
    own_ledger.clock.advance(minutes=1)
    ((reason, at),) = ends(own_ledger)
    assert (reason, at[:16]) == ("recovered", own_ledger.ago(minutes=1)[:16])
    check_in(own_ledger, line, 6)
    own_ledger.clock.advance(seconds=1)
    assert len(opened(own_ledger)) == 2


def test_the_end_of_the_period_ends_the_alert(own_ledger: Ledger) -> None:
    line = own_ledger.line("capacity")
    own_ledger.watch(UsageOver("hours", "day", 4))
    check_in(own_ledger, line, 5)
    own_ledger.clock.advance(seconds=1)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(hours=11, minutes=59, seconds=58)
    assert ends(own_ledger) == []
    own_ledger.clock.advance(seconds=1)
    assert ends(own_ledger) == [("recovered", "2026-04-16T00:00:00Z")]


def test_a_void_after_the_period_does_not_move_the_end(own_ledger: Ledger) -> None:
    line = own_ledger.line("capacity")
    own_ledger.watch(UsageOver("hours", "day", 4))
    sent = check_in(own_ledger, line, 5)
    own_ledger.clock.advance(seconds=1)
    assert len(opened(own_ledger)) == 1
    own_ledger.clock.advance(hours=13)
    void(own_ledger, line, sent)
    assert ends(own_ledger) == [("recovered", "2026-04-16T00:00:00Z")]


def test_a_closing_whose_time_is_after_the_period_resolves_at_once(own_ledger: Ledger) -> None:
    line = own_ledger.line("capacity")
    own_ledger.watch(UsageOver("hours", "day", 4))
    check_in(own_ledger, line, 5)
    own_ledger.clock.advance(hours=11, minutes=59)
    assert len(opened(own_ledger)) == 1
    closed_at = own_ledger.at(minutes=3)
    say(own_ledger, "service_line.closed", line, time=closed_at)
    own_ledger.clock.advance(seconds=1)
    assert ends(own_ledger) == [("line_closed", closed_at)]


@pytest.mark.parametrize(("measure", "limit"), [("runs", 1), ("tokens_used", 150)])
def test_runs_and_tokens_are_counted_as_usage_counts_them(
    own_ledger: Ledger, measure: Any, limit: float
) -> None:
    line = own_ledger.line()
    for _ in range(2):
        run = own_ledger.run(line, time=own_ledger.at())
        say(own_ledger, "run.completed", run, {"tokens_used": 100})
    own_ledger.clock.advance(seconds=1)
    own_ledger.watch(UsageOver(measure, "month", limit))
    assert len(opened(own_ledger)) == 1
    own_ledger.watch(UsageOver(measure, "month", 2 * limit))
    assert len(opened(own_ledger)) == 1
