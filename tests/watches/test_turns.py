"""Organizations rotate in rounds: none waits for all that another one has due."""

from typing import Any

import pytest

from ledger.features.watches.commands.watches import UpdateWatch
from ledger.features.watches.kinds import BlockerOpen, InState
from ledger.features.watches.loops import loop, store
from tests.support.facts import activation, fact
from tests.support.ledger import ADMIN, Ledger, new_id
from tests.support.soak import repeated
from tests.watches.test_rounds import BLOCK, alert_events

OTHER, ELSEWHERE = "ORG-26-000077", "WS-26-000077"
BLOCKED = InState(("blocked",))
ROUND = 100


def many(ledger: Ledger, count: int, **block: Any) -> list[str]:
    """New lines that are blocked, a second after each other, the last one first."""
    lines = [new_id("LIN") for _ in range(count)]
    ledger.accept(*(activation(line, "capacity", time=ledger.ago(hours=5)) for line in lines))
    seconds = zip(reversed(lines), range(count), strict=True)
    ledger.accept(
        *(
            fact("execution.blocked", line, BLOCK | block, time=ledger.at(seconds=second - 9_000))
            for line, second in seconds
        )
    )
    return lines


def one(ledger: Ledger) -> str:
    """A line of the other organization that is blocked now, and so is due last of all."""
    line = new_id("LIN")
    tenant = {"organization_id": OTHER, "workspace_id": ELSEWHERE}
    ledger.accept(activation(line, "capacity", time=ledger.ago(hours=1), **tenant), by=ADMIN)
    ledger.accept(fact("execution.blocked", line, BLOCK, time=ledger.at()), by=ADMIN)
    return line


def alerts(ledger: Ledger) -> list[tuple[str, str]]:
    """(kind, line) of each event of an alert of a line, in the order of the log."""
    return [
        (event["topic"].split("/")[0], event["state"]["service_line_id"])
        for event in ledger.events()
        if event["topic"].startswith("alert.")
    ]


@pytest.mark.parametrize("is_new", repeated([True, False]))
def test_an_alert_opens_after_a_round_of_another_organization_that_has_thousands_due(
    own_ledger: Ledger, is_new: bool
) -> None:
    watches = [(BLOCKED, 0), (BLOCKED, 1), (BlockerOpen(), 0), (BlockerOpen(), 1)]
    if is_new:
        # The watches find what holds already: lines are due by then.
        many(own_ledger, 700)
        mine = one(own_ledger)
    for condition, seconds in watches:
        own_ledger.watch(condition, seconds)
    own_ledger.watch(BLOCKED, organization=OTHER)
    if not is_new:
        # The facts make them due.
        own_ledger.run_watches()
        many(own_ledger, 700)
        mine = one(own_ledger)
    own_ledger.clock.advance(seconds=1)
    own_ledger.run_watches()
    opened = [line for _, line in alerts(own_ledger)]
    assert len(opened) == 2801
    assert opened.index(mine) <= ROUND


def test_an_alert_opens_after_a_round_of_another_organization_that_disables_its_watches(
    own_ledger: Ledger,
) -> None:
    watches = [own_ledger.watch(BLOCKED, seconds) for seconds in range(5)]
    own_ledger.watch(BLOCKED, organization=OTHER)
    many(own_ledger, 300)
    own_ledger.clock.advance(seconds=5)
    own_ledger.run_watches()
    before = len(alerts(own_ledger))
    assert before == 1500
    for watch in watches:
        own_ledger.execute(UpdateWatch(watch, ADMIN, changes={"enabled": False}))
    mine = one(own_ledger)
    own_ledger.clock.advance(seconds=1)
    own_ledger.run_watches()
    later = alerts(own_ledger)[before:]
    assert later.index(("alert.opened", mine)) <= ROUND
    assert len(later) == 1501
    assert {each["reason"] for each in alert_events(own_ledger, "resolved")} == {"disabled"}


@pytest.mark.parametrize(
    "bound", [{"_MOST_PASSES": 1}, {"_JUDGING_SECONDS": 0}, {"_DECIDING_SECONDS": 0}]
)
def test_lines_that_a_round_does_not_come_to_are_looked_at_by_the_next_ones_the_oldest_due_first(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, bound: dict[str, int]
) -> None:
    for name, value in bound.items():
        monkeypatch.setattr(loop, name, value)
    monkeypatch.setattr(loop, "SLOT_FACTS", 10)
    monkeypatch.setattr(loop, "SLOT_SECONDS", 60)
    monkeypatch.setattr(store, "MOST_DUE", 25)
    lines = many(own_ledger, 60)
    own_ledger.watch(BLOCKED)
    own_ledger.watch(BLOCKED, organization=OTHER)
    mine = one(own_ledger)
    own_ledger.clock.advance(seconds=1)
    own_ledger.catch_up()
    done, has_more = own_ledger.watch_loop._round()
    assert (done, has_more) == (0, True), "the lines are put"
    for _ in range(2):
        # Another leader continues where the last one has stopped.
        done, has_more = own_ledger.watch_loop._round()
        assert (done, has_more) in {(11, True), (10, True)}
        own_ledger.watch_loop.disconnect()
        own_ledger.catch_up()
    assert [line for _, line in alerts(own_ledger)].index(mine) <= 10
    own_ledger.run_watches()
    opened = [line for _, line in alerts(own_ledger) if line != mine]
    assert opened == lines[::-1]


def test_pages_of_checks_go_round_organizations(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(own_ledger, 40)
    mine = one(own_ledger)
    monkeypatch.setattr(store, "_PAGE", 1)
    own_ledger.watch(BLOCKED)
    own_ledger.watch(BLOCKED, organization=OTHER)
    own_ledger.clock.advance(seconds=1)
    own_ledger.run_watches()
    opened = [line for _, line in alerts(own_ledger)]
    assert len(opened) == 41
    assert opened.index(mine) <= 2
