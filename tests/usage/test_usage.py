"""The days of a period, whole and in part, and sums over them (contract, Reading, usage)."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.engine.values.timeline import Amounts, StateSpans
from ledger.engine.values.values import RUN_STATUSES

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


@given(st.lists(INSTANTS, min_size=2, max_size=6, unique=True))
@settings(max_examples=200, deadline=None)
def test_a_day_within_one_period_counts_as_a_whole_and_any_other_day_in_part(
    instants: list[datetime],
) -> None:
    bounds = sorted(instants)
    whole, parts = dict[date, int](), []
    for number in range(-2, 20):
        midnight = datetime(2026, 2, 20, tzinfo=UTC) + number * DAY
        within = [
            at
            for at, (begin, end) in enumerate(pairwise(bounds), 1)
            if begin <= midnight and midnight + DAY <= end
        ]
        if within:
            whole[midnight.date()] = within[0]
        elif min(bounds[-1], midnight + DAY) > max(bounds[0], midnight):
            parts.append(midnight.date())
    binds = StateSpans(bounds).parameters
    assert dict(zip(binds["days"], binds["numbers"], strict=True)) == whole
    assert binds["parts"] == parts
    assert (binds["from"], binds["to"], binds["bounds"]) == (bounds[0], bounds[-1], bounds)


@pytest.mark.parametrize("second", [0, 1, 86_399])
def test_an_empty_period_has_no_whole_day(second: int) -> None:
    at = datetime(2026, 4, 15, tzinfo=UTC) + timedelta(seconds=second)
    assert StateSpans([at, at]).parameters["days"] == []


PART = st.tuples(
    st.lists(
        st.tuples(st.none() | st.sampled_from("abc"), st.integers(-300, 300), st.integers(-2, 2)),
        max_size=5,
    ),
    st.dictionaries(st.sampled_from(RUN_STATUSES), st.integers(-2, 9)),
    st.integers(0, 2**53),
    st.lists(st.tuples(st.sampled_from("mn"), st.tuples(*[st.integers(0, 9)] * 5)), max_size=3),
)


@given(st.lists(PART, max_size=6))
@settings(max_examples=200, deadline=None)
def test_added_amounts_have_exact_sums(parts: list[tuple[Any, Any, int, Any]]) -> None:
    total = Amounts()
    hours: dict[str | None, int] = {}
    for hour_parts, runs, tokens, models in parts:
        part = Amounts()
        part.add_hours(hour_parts)
        part.add_runs(runs)
        part.tokens = tokens
        part.add_models(models)
        total.add(part)
        for resource, amount, _ in hour_parts:
            hours[resource] = hours.get(resource, 0) + amount
    made = total.rendered()
    assert made["runs"] == {s: sum(runs.get(s, 0) for _, runs, _, _ in parts) for s in RUN_STATUSES}
    assert made["tokens_used"] == sum(tokens for _, _, tokens, _ in parts)
    assert made["check_ins"] == sum(count for hour_parts, *_ in parts for *_, count in hour_parts)
    assert sum(row["tokens_used"] for row in made["tokens_by_model"]) == made["tokens_used"]
    for model in "mn":
        found = [numbers for *_, models in parts for named, numbers in models if named == model]
        sums = [sum(numbers) for numbers in zip(*found, strict=True)]
        rows = [list(row.values())[2:] for row in made["tokens_by_model"] if row["model"] == model]
        assert rows == ([sums] if any(sums) else [])
    assert made["hours"] == sum(hours.values()) / 100
    by_resource = {row["resource_id"]: row["hours"] for row in made["hours_by_resource"]}
    assert by_resource == {r: h / 100 for r, h in hours.items() if h}


def test_hours_are_ordered_by_resource_and_hours_without_a_resource_come_last() -> None:
    amounts = Amounts()
    amounts.add_hours(
        [(None, 150, 1), ("b", 25, 1), ("é", 1, 1), ("a", 10, 1), ("gone", 5, 1), ("gone", -5, -1)]
    )
    assert amounts.rendered()["hours_by_resource"] == [
        {"resource_id": "a", "hours": 0.1},
        {"resource_id": "b", "hours": 0.25},
        {"resource_id": "é", "hours": 0.01},
        {"resource_id": None, "hours": 1.5},
    ]
    assert amounts.rendered()["hours"] == 1.86


def test_an_addition_leaves_the_added_part_as_it_was() -> None:
    part, total = Amounts(), Amounts()
    part.add_hours([("a", 5, 1)])
    part.add_models([("m", (1, 2, 0, 0, 0))])
    part.add_runs({"failed": 1})
    for _ in range(3):
        total.add(part)
    assert (part.hours, part.check_ins, part.runs["failed"]) == ({"a": 5}, 1, 1)
    assert (total.hours, total.check_ins, total.runs["failed"]) == ({"a": 15}, 3, 3)
    assert (part.models, total.models) == ({"m": [1, 2, 0, 0, 0]}, {"m": [3, 6, 0, 0, 0]})


def test_models_are_ordered_by_their_tokens_and_tokens_without_a_model_come_last() -> None:
    amounts = Amounts()
    amounts.tokens = 100
    amounts.add_models([("b", (10, 10, 1, 2, 3)), ("c", (0, 0, 0, 0, 0)), ("a", (20, 0, 0, 0, 0))])
    amounts.add_models([("d", (30, 0, 0, 0, 0))])
    rows = amounts.tokens_by_model
    assert [(row["model"], row["tokens_used"]) for row in rows] == [
        ("d", 30), ("a", 20), ("b", 20), (None, 30),
    ]  # fmt: skip
    assert list(rows[2].values())[2:] == [10, 10, 1, 2, 3]
    assert list(rows[3].values())[2:] == [None] * 5
