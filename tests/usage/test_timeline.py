"""Each instant lies in one interval, with the state at that instant (contract, Reading)."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.engine.values.timeline import StateInterval, TurningPoint, intervals, totals
from ledger.engine.values.values import CAUSES, STATES
from tests.support.domain import START, minute


class Case(NamedTuple):
    """A line's turning points, and the bounds and the clock of a read."""

    changes: list[TurningPoint]
    start: datetime | None
    end: datetime | None
    now: datetime


CHANGES = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(STATES), st.frozensets(st.sampled_from(CAUSES))),
    min_size=1,
    max_size=25,
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Turns as the statement returns them: in effective order, none at or after the end."""
    changes = [
        TurningPoint(minute(at), *rest) for at, *rest in sorted(draw(CHANGES), key=lambda t: t[0])
    ]
    start, end = draw(st.none() | st.integers(-10, 69)), draw(st.none() | st.integers(-10, 70))
    if start is not None and end is not None and start >= end:
        start, end = end, start + 1
    inside = [change for change in changes if end is None or change.since < minute(end)]
    now = (inside[-1].since if inside else START) + timedelta(minutes=draw(st.integers(0, 15)))
    return Case(inside, *(None if b is None else minute(b) for b in (start, end)), now)


def held_at(changes: list[TurningPoint], at: datetime) -> tuple[str, tuple[str, ...]] | None:
    """The state and causes of the last turning point up to an instant; None before the first."""
    past = [change for change in changes if change.since <= at]
    if not past:
        return None
    return past[-1].state, tuple(cause for cause in CAUSES if cause in past[-1].causes)


def found_at(found: list[StateInterval], at: datetime) -> list[tuple[str, tuple[str, ...]]]:
    """The state and the causes of each interval that contains an instant."""
    return [
        (interval.state, interval.causes)
        for interval in found
        if interval.since <= at and (interval.until is None or at < interval.until)
    ]


@given(cases())
@settings(max_examples=150, deadline=None)
def test_intervals_give_the_state_and_the_causes_at_each_instant_of_the_range(case: Case) -> None:
    found = intervals(*case)
    lasts = case.end is None or case.end > case.now
    for half in range(-40, 160):
        at = START + timedelta(seconds=30 * half)
        inside = (case.start is None or at >= case.start) and (lasts or at < case.end)  # type: ignore[operator]
        held = held_at(case.changes, at)
        assert found_at(found, at) == ([held] if inside and held else [])


@given(cases())
@settings(max_examples=150, deadline=None)
def test_neighbouring_intervals_touch_and_differ_and_all_intervals_cover_the_range(
    case: Case,
) -> None:
    found = intervals(*case)
    for interval, following in pairwise(found):
        assert interval.until == following.since
        assert (interval.state, interval.causes) != (following.state, following.causes)
        assert interval.length == following.since - interval.since > timedelta()
    began = case.changes and max(case.changes[0].since, case.start or case.changes[0].since)
    if not case.changes or (case.end is not None and began >= case.end):
        assert found == []
        return
    assert found[0].since == began
    lasts = case.end is None or case.end > case.now
    assert found[-1].until == (None if lasts else case.end)
    until = max(case.now, found[-1].since) if lasts else case.end
    assert until is not None
    assert sum((interval.length for interval in found), timedelta()) == until - began


@given(cases())
@settings(max_examples=150, deadline=None)
def test_the_intervals_of_a_range_are_those_of_the_whole_life_cut_at_its_bounds(case: Case) -> None:
    cut = []
    for interval in intervals(case.changes, None, None, case.now):
        since = interval.since if case.start is None else max(interval.since, case.start)
        bounds = [at for at in (interval.until, case.end) if at is not None]
        until = min(bounds) if bounds else None
        if interval.until is None and until is not None and until > case.now:
            until = None
        if until is None or since < until:
            length = max(timedelta(), (until or case.now) - since)
            cut.append(interval._replace(since=since, until=until, length=length))
    assert intervals(*case) == cut


@given(cases())
@settings(max_examples=100, deadline=None)
def test_totals_are_the_sums_of_the_intervals(case: Case) -> None:
    found = intervals(*case)
    by_state, by_cause = totals(found)
    assert (tuple(by_state), tuple(by_cause)) == (STATES, CAUSES)
    for state, length in by_state.items():
        assert length == sum((i.length for i in found if i.state == state), timedelta())
    for cause, length in by_cause.items():
        assert length == sum((i.length for i in found if cause in i.causes), timedelta())


RUNNING = [TurningPoint(START, "running", frozenset())]


def test_an_open_interval_that_begins_after_now_has_no_length() -> None:
    (interval,) = intervals(RUNNING, None, None, minute(-3))
    assert (interval.since, interval.until, interval.length) == (START, None, timedelta())


def test_a_future_interval_counts_up_to_its_own_end() -> None:
    found = intervals(
        [*RUNNING, TurningPoint(minute(5), "paused", frozenset())], None, None, minute(1)
    )
    assert [(i.state, i.until, i.length) for i in found] == [
        ("running", minute(5), timedelta(minutes=5)),
        ("paused", None, timedelta()),
    ]


def test_an_open_interval_counts_up_to_now_though_later_changes_changed_nothing() -> None:
    changes = [
        *RUNNING,
        TurningPoint(minute(5), "paused", frozenset()),
        TurningPoint(minute(5), "running", frozenset()),
    ]
    (interval,) = intervals(changes, None, None, minute(1))
    assert (interval.since, interval.until, interval.length) == (START, None, timedelta(minutes=1))


@pytest.mark.parametrize("at", [-5, 0, 4, 10, 20])
def test_an_empty_range_has_no_interval(at: float) -> None:
    assert intervals(RUNNING, minute(at), minute(at), minute(10)) == []
