"""The days of a range, whole and in part, and sums over days (contract, Reading, usage)."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.domain.timeline import Amounts, Range
from ledger.domain.values import RUN_STATUSES

DAY = timedelta(days=1)
SECONDS_OF_DAY = st.sampled_from([0, 0, 1, 12, 86_399])
INSTANTS = st.builds(
    lambda day, second, micro: (
        datetime(2026, 2, 20, tzinfo=UTC) + timedelta(days=day, seconds=second, microseconds=micro)
    ),
    st.integers(0, 15),
    SECONDS_OF_DAY,
    st.sampled_from([0, 0, 1, 999_999]),
)


@given(INSTANTS, INSTANTS)
@settings(max_examples=150, deadline=None)
def test_a_range_has_each_day_that_it_overlaps_marked_as_whole_or_not(
    first: datetime, second: datetime
) -> None:
    start, end = min(first, second), max(first, second)
    if start == end:
        end += timedelta(microseconds=1)
    expected = []
    for number in range(-2, 20):
        midnight = datetime(2026, 2, 20, tzinfo=UTC) + number * DAY
        shared = min(end, midnight + DAY) - max(start, midnight)
        if shared > timedelta():
            expected.append((midnight.date(), shared == DAY))
    assert list(Range(start, end).days()) == expected


@given(INSTANTS, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_the_days_of_a_range_are_utc_days_whatever_the_offset(start: datetime, hours: int) -> None:
    elsewhere = start.astimezone(timezone(timedelta(hours=5, minutes=30)))
    end = start + timedelta(hours=9 * hours, seconds=1)
    assert list(Range(elsewhere, end).days()) == list(Range(start, end).days())


@pytest.mark.parametrize("second", [0, 1, 86_399])
def test_an_empty_range_has_no_whole_day(second: int) -> None:
    at = datetime(2026, 4, 15, tzinfo=UTC) + timedelta(seconds=second)
    assert [whole for _, whole in Range(at, at).days() if whole] == []


def test_a_range_within_one_day_has_this_day_in_part() -> None:
    at = datetime.combine(date(2026, 4, 15), time(9), UTC)
    assert list(Range(at, at + timedelta(hours=1)).days()) == [(date(2026, 4, 15), False)]
    whole = Range(at - timedelta(hours=9), at + timedelta(hours=15))
    assert list(whole.days()) == [(date(2026, 4, 15), True)]


PART = st.tuples(
    st.lists(st.tuples(st.none() | st.sampled_from("abc"), st.integers(-300, 300)), max_size=5),
    st.dictionaries(st.sampled_from(RUN_STATUSES), st.integers(-2, 9)),
    st.integers(0, 2**53),
)


@given(st.lists(PART, max_size=6))
@settings(max_examples=200, deadline=None)
def test_added_amounts_have_exact_sums(parts: list[tuple[Any, Any, int]]) -> None:
    total = Amounts()
    hours: dict[str | None, int] = {}
    for hour_parts, runs, tokens in parts:
        part = Amounts()
        part.add_hours(hour_parts)
        part.add_runs(runs)
        part.tokens = tokens
        total.add(part)
        for resource, amount in hour_parts:
            hours[resource] = hours.get(resource, 0) + amount
    shown = total.shown()
    assert shown["runs"] == {s: sum(runs.get(s, 0) for _, runs, _ in parts) for s in RUN_STATUSES}
    assert shown["tokens_used"] == sum(tokens for _, _, tokens in parts)
    assert shown["hours"] == sum(hours.values()) / 100
    by_resource = {row["resource_id"]: row["hours"] for row in shown["hours_by_resource"]}
    assert by_resource == {r: h / 100 for r, h in hours.items() if h}


def test_hours_are_ordered_by_resource_and_hours_without_a_resource_come_last() -> None:
    amounts = Amounts()
    amounts.add_hours([(None, 150), ("b", 25), ("é", 1), ("a", 10), ("gone", 5), ("gone", -5)])
    assert amounts.shown()["hours_by_resource"] == [
        {"resource_id": "a", "hours": 0.1},
        {"resource_id": "b", "hours": 0.25},
        {"resource_id": "é", "hours": 0.01},
        {"resource_id": None, "hours": 1.5},
    ]
    assert amounts.shown()["hours"] == 1.86


def test_an_addition_leaves_the_added_part_as_it_was() -> None:
    part, total = Amounts(), Amounts()
    part.add_hours([("a", 5)])
    part.add_runs({"failed": 1})
    for _ in range(3):
        total.add(part)
    assert (part.hours, part.runs["failed"]) == ({"a": 5}, 1)
    assert (total.hours, total.runs["failed"]) == ({"a": 15}, 3)
