"""The rehearsal's own judgement: no loss, no doubled fact and no gap escapes it."""

import pytest

from ledger.app.settings import Settings
from scripts.rehearse.load import ClientGroup, Load, checked_in
from scripts.rehearse.notes import Note, Notes
from scripts.rehearse.scenario import Goal, Outcome, Scenario, judge
from scripts.rehearse.stage import LINE
from scripts.rehearse.tally import Tally, tally
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import edge_of


def load_of(*written_at: float) -> Load:
    """The load of one group of clients, acknowledged at these instants, from 0 to 10."""
    load = Load("test", "token", [ClientGroup("front", ("http://127.0.0.1:1",))], LINE)
    load.groups["front"].written_at += written_at
    load.began_at, load.ended_at = 0.0, 10.0
    return load


def test_lost_and_moved_facts_and_positions_that_were_used_again_are_counted(conninfo: str) -> None:
    load = load_of()
    with edge_of(Settings(master_key=MASTER_KEY), conninfo) as edge:
        line = edge.fresh()
        for name in ("kept", "moved"):
            outcome = edge.accept(checked_in(line, name, load.source))[0]
            load.acknowledged[name] = outcome["position"]
    assert tally(load, conninfo) == Tally(2, lost=0, doubled=0, reused=0)
    load.acknowledged["moved"] += 1
    load.acknowledged["gone"] = load.acknowledged["kept"]
    assert tally(load, conninfo) == Tally(3, lost=2, doubled=0, reused=1)


@pytest.mark.parametrize(
    ("written_at", "gap"),
    [
        ([1, 2, 9], 7.0),
        ([4, 7.5], 4.0),
        ([1, 2], 8.0),
        ([], 10.0),
        ([3, 6, 9, 30], 3.0),
    ],
)
def test_the_longest_gap_counts_the_beginning_and_the_end(
    written_at: list[float], gap: float
) -> None:
    assert load_of(*written_at).gap(("front",)) == gap


def outcome_of(goal: Goal, counted: Tally, **found: float) -> Outcome:
    scenario = Scenario("name", "title", lambda course: None, goal)
    return Outcome(scenario, counted, **found)


CLEAN = Tally(9, lost=0, doubled=0, reused=0)


@pytest.mark.parametrize(
    ("outcome", "missed"),
    [
        (outcome_of(Goal(writes=1.0), CLEAN, writes=0.9), 0),
        (outcome_of(Goal(writes=1.0), CLEAN, writes=1.1), 1),
        (outcome_of(Goal(reads=1.0), CLEAN, writes=9.0, reads=2.0), 1),
        (outcome_of(Goal(), CLEAN._replace(lost=1)), 1),
        (outcome_of(Goal(loses=True), CLEAN._replace(lost=1)), 0),
        (outcome_of(Goal(loses=True), CLEAN._replace(lost=1, reused=1)), 1),
        (outcome_of(Goal(loses=True), CLEAN._replace(doubled=1)), 1),
        (outcome_of(Goal(alerts=("LedgerNodeDown",)), CLEAN), 1),
    ],
)
def test_an_outcome_beyond_the_goal_is_missed(outcome: Outcome, missed: int) -> None:
    judge(outcome, has_alerts=True)
    assert len(outcome.missed) == missed


def test_two_roots_of_one_size_contradict_each_other_under_one_origin_alone() -> None:
    notes = Notes([], "token")
    notes.collected = {Note("a/1", 7, "x", ""), Note("a/2", 7, "y", ""), Note("a/1", 8, "z", "")}
    assert notes.contradictions() == []
    notes.collected.add(Note("a/1", 7, "y", ""))
    assert notes.contradictions() == ["a/1: two roots of size 7"]
