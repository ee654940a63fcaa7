"""Instants, days, weeks, ids and health scores."""

import re
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import combinations_with_replacement
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.values import values
from ledger.features.lines.model import health
from ledger.features.lines.model.health import Signal

INSTANTS = st.datetimes(
    min_value=datetime(2000, 1, 2), max_value=datetime(2099, 12, 30), timezones=st.just(UTC)
)
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@given(INSTANTS, OFFSETS)
def test_an_instant_is_read_back_unchanged_from_a_text_in_any_offset(
    instant: datetime, offset: timezone
) -> None:
    assert values.parse_instant(instant.astimezone(offset).isoformat()) == instant
    text = values.format_instant(instant)
    assert values.parse_instant(text) == instant
    assert text.endswith("Z")
    assert ("." in text) == bool(instant.microsecond)
    assert not text.endswith("0Z") or "." not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-04-15T09:12:44Z", "2026-04-15T09:12:44Z"),
        ("2026-04-15t09:12:44.500z", "2026-04-15T09:12:44.5Z"),
        ("2026-04-15T09:12:44.1234569+02:00", "2026-04-15T07:12:44.123456Z"),
        ("2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00Z"),
        ("2024-02-29T00:00:00-00:00", "2024-02-29T00:00:00Z"),
    ],
)
def test_an_instant_is_shown_in_utc(text: str, expected: str) -> None:
    assert values.format_instant(values.parse_instant(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-04-15", "2026-04-15T09:12:44", "2026-04-15 09:12:44Z", "2026-04-15T09:12Z",
        "2026-04-15T09:12:60Z", "2026-04-15T24:00:00Z", "2026-02-29T00:00:00Z",
        "2026-04-15T09:12:44+0200", "2026-04-15T09:12:44+24:00", "2026-04-15T09:12:44Z\n",
        "2026-04-15T09:12:4\u0664Z", "1899-12-31T23:59:59Z", "2100-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_a_malformed_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_instant(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:00:00-02:00"])
def test_an_instant_beyond_the_calendar_in_utc_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_instant(text)


def test_a_plain_date_is_midnight_utc() -> None:
    assert values.parse_bound("2026-04-15") == datetime(2026, 4, 15, tzinfo=UTC)


@given(INSTANTS)
def test_a_week_begins_on_the_monday_at_or_before_an_instant(instant: datetime) -> None:
    monday = values.week_of(instant)
    assert monday.isocalendar()[:2] == values.day_of(instant).isocalendar()[:2]
    assert monday.weekday() == 0
    assert monday <= values.day_of(instant) < monday + timedelta(days=7)


def test_days_and_weeks_are_utc() -> None:
    late = datetime(2026, 4, 20, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert values.day_of(late) == date(2026, 4, 19)
    assert values.week_of(late) == date(2026, 4, 13)


@given(st.integers(2000, 2099), st.integers(1, 10**12 - 1))
def test_ids_sort_by_year_then_number(year: int, number: int) -> None:
    text = values.format_id("RUN", year, number)
    later = values.format_id("RUN", 2099, 10**12 - 1)
    assert values.sort_key(text) <= values.sort_key(later)
    assert values.sort_key(text) == (year % 100) * 10**12 + number
    assert values.id_of_key(text[:3], values.sort_key(text)) == text


STATUSES: tuple[Any, ...] = ("green", "amber", "red")


@pytest.mark.parametrize("count", range(1, 8))
def test_the_score_is_bounded_and_falls_with_each_bad_signal(count: int) -> None:
    for mix in combinations_with_replacement(STATUSES, count):
        score = health.score(Signal("sla_compliance", status) for status in mix)
        assert score == max(0, 100 - 6 * mix.count("amber") - 31 * mix.count("red"))
    assert health.score([]) is None


@pytest.mark.parametrize(
    ("score", "status"),
    [(None, None), (100, "green"), (70, "green"), (69, "amber"), (50, "amber"), (49, "red")],
)
def test_the_status_follows_from_the_score(score: int | None, status: str | None) -> None:
    assert health.status(score) == status


@pytest.mark.parametrize("pattern", [values.LINE_ID, values.RUN_ID])
def test_an_id_has_ascii_digits_only(pattern: str) -> None:
    prefix = pattern[1:4]
    assert re.fullmatch(pattern, prefix + "-26-000001")
    assert re.fullmatch(pattern, prefix + "-26-00000\u0661") is None
