"""When a watch with hours is due: by the local clock of the zone, minute by minute."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.engine.values.values import LATEST
from ledger.features.watches.model.watch_hours import WEEKDAYS, WatchHours, due_at
from tests.support import watch_model

# Instants around which clocks are set, by half an hour in Lord Howe, by a whole day in Apia, at
# midnight in Santiago, by minutes and seconds in Monrovia.
CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("America/Santiago", "2026-09-06T04:00:00Z"),
    ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
    ("Asia/Kathmandu", "2026-01-01T00:00:00Z"),
    ("Africa/Monrovia", "1972-01-07T00:44:30Z"),
    ("UTC", "2025-12-31T00:00:00Z"),
]
HOUR = 3600


def hours_of(time_zone: str, days: list[str], start: int, end: int) -> dict[str, Any]:
    """Hours from a minute of the day to another."""
    texts = [f"{minute // 60:02d}:{minute % 60:02d}" for minute in (start, end)]
    return {"time_zone": time_zone, "days": days, "from": texts[0], "to": texts[1]}


def due(since: datetime, seconds: int, hours: dict[str, Any]) -> datetime:
    values = {**hours, "from_": hours["from"], "days": tuple(hours["days"])}
    del values["from"]
    return due_at(since, seconds, WatchHours(**values))


@settings(max_examples=80)
@given(
    st.sampled_from(CHANGES),
    st.timedeltas(timedelta(days=-2), timedelta(days=2)),
    st.one_of(st.integers(0, 3), st.integers(0, 6 * HOUR)),
    st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=7, unique=True),
    st.integers(0, 1380),
    st.integers(60, 1440),
)
@example(("UTC", "2025-12-31T00:00:00Z"), timedelta(0), 48 * HOUR, [*WEEKDAYS], 0, 1440)
@example(("Pacific/Apia", "2011-12-30T10:00:00Z"), timedelta(hours=-1), HOUR, ["fri"], 0, 1440)
def test_a_watch_is_due_when_the_clock_of_its_zone_has_shown_so_much_of_its_hours(
    change: tuple[str, str],
    away: timedelta,
    seconds: int,
    days: list[str],
    start: int,
    length: int,
) -> None:
    time_zone, at = change
    hours = hours_of(time_zone, days, start, min(1440, start + length))
    since = datetime.fromisoformat(at) + away
    expected = watch_model.due_at(since, seconds, hours, 30 if "Monrovia" in time_zone else 60)
    assert due(since, seconds, hours) == expected


def test_time_that_is_full_when_the_hours_end_is_due_when_they_begin_again() -> None:
    hours = hours_of("UTC", ["mon"], 9 * 60, 17 * 60)
    monday = datetime(2026, 11, 30, 9, tzinfo=UTC)
    assert due(monday, 8 * HOUR, hours) == monday + timedelta(days=7)
    assert due(monday + timedelta(hours=8), 0, hours) == monday + timedelta(days=7)
    assert due(monday + timedelta(minutes=5), 0, hours) == monday + timedelta(minutes=5)


@pytest.mark.parametrize("seconds", [HOUR, 365 * 86_400])
def test_a_watch_that_would_be_due_after_all_years_that_there_are_is_never_due(
    seconds: int,
) -> None:
    hours = hours_of("Europe/Berlin", ["sun"], 3 * 60, 3 * 60 + 1)
    begin = datetime(2026, 11, 30, tzinfo=UTC)
    assert (due(begin, seconds, hours) == LATEST) == (seconds > HOUR)
