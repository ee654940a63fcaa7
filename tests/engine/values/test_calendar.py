"""Dates and months in every time zone."""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.engine.values.calendar import UTC_CALENDAR, Calendar, calendar_of, zone_names
from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import EARLIEST, parse_bound, parse_instant

DAY, TICK = timedelta(days=1), timedelta(microseconds=1)

CALENDARS = st.sampled_from(sorted(zone_names())).map(calendar_of)
DATES = st.dates(date(1900, 1, 2), date(2099, 12, 30))
INSTANTS = st.datetimes(datetime(1900, 1, 3), datetime(2099, 11, 1), timezones=st.just(UTC))
LENGTHS = st.timedeltas(timedelta(0), 60 * DAY)

TWICE = calendar_of("America/St_Johns")
"""A zone whose clocks were set back across midnight: on 2006-10-29 from 00:01 to 23:01."""

SKIPPED = calendar_of("Pacific/Apia")
"""A zone without the date 2011-12-30."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """The folder of the machine's own time zones; no zone is in memory yet."""
    calendar_of.cache_clear()
    zoneinfo.ZoneInfo.clear_cache()
    zoneinfo.reset_tzpath([tmp_path])
    yield tmp_path
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()
    calendar_of.cache_clear()


@given(CALENDARS, DATES)
@example(TWICE, date(2006, 10, 29))
@example(SKIPPED, date(2011, 12, 30))
@example(calendar_of("Pacific/Kwajalein"), date(1969, 10, 1))
@example(calendar_of("Africa/Monrovia"), date(1972, 1, 7))
def test_a_date_begins_at_the_first_instant_whose_local_date_is_not_before_it(
    calendar: Calendar, day: date
) -> None:
    begin = calendar.begin(day)

    def local_day(at: datetime) -> date:
        return at.astimezone(calendar.zone).date()

    assert begin.tzinfo is UTC
    assert local_day(begin) >= day
    before = [begin - TICK, *(begin - timedelta(minutes=10 * n + 1) for n in range(400))]
    assert max(map(local_day, before)) < day


@pytest.mark.parametrize(
    ("name", "day", "begin"),
    [
        ("UTC", "2026-11-03", "2026-11-03T00:00:00Z"),
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00Z"),
        ("Europe/Berlin", "2026-10-26", "2026-10-25T23:00:00Z"),
        # Clocks were set forward over midnight, in Toronto from 23:30 to 00:30.
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30:00Z"),
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"),
        ("Asia/Beirut", "2026-03-29", "2026-03-28T22:00:00Z"),
        ("Africa/Monrovia", "1972-01-07", "1972-01-07T00:44:30Z"),
        # Midnight came twice, with a minute and with an hour of the new date before the second.
        ("America/St_Johns", "2006-10-29", "2006-10-29T02:30:00Z"),
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00Z"),
        # The date never was, so it begins as the next date does.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00Z"),
        ("Pacific/Kwajalein", "1993-08-21", "1993-08-21T12:00:00Z"),
        ("Asia/Kolkata", "2099-12-31", "2099-12-30T18:30:00Z"),
    ],
)
def test_a_date_begins_where_its_zone_says(name: str, day: str, begin: str) -> None:
    assert calendar_of(name).begin(date.fromisoformat(day)) == parse_instant(begin)


@given(CALENDARS, INSTANTS)
def test_an_instant_belongs_to_the_last_date_that_has_begun(
    calendar: Calendar, at: datetime
) -> None:
    day = calendar.date_of(at)
    assert calendar.begin(day) <= at < calendar.begin(day + DAY)
    assert calendar.date_of(calendar.begin(day)) == day


def test_an_hour_that_clocks_show_again_belongs_to_the_date_that_has_begun() -> None:
    again = parse_instant("2006-10-29T02:40:00Z")
    assert f"{again.astimezone(TWICE.zone):%d %H:%M}" == "28 23:10"
    assert TWICE.date_of(again) == date(2006, 10, 29)
    assert TWICE.date_of(parse_instant("2006-10-29T02:29:59.999999Z")) == date(2006, 10, 28)


@given(CALENDARS, INSTANTS, LENGTHS)
@example(SKIPPED, datetime(2011, 12, 29, tzinfo=UTC), 3 * DAY)
@example(TWICE, datetime(2006, 10, 28, tzinfo=UTC), 2 * DAY)
def test_the_days_of_a_range_cover_it_without_gap_and_overlap(
    calendar: Calendar, start: datetime, length: timedelta
) -> None:
    end = start + length
    days = calendar.days(start, end)
    edges = [start, *(until for _, _, until in days)]
    assert [since for _, since, _ in days] == edges[:-1]
    assert edges[-1] == end
    for day, since, until in days:
        assert since < until
        assert calendar.date_of(since) == calendar.date_of(until - TICK) == day
    assert all(day < following for (day, *_), (following, *_) in pairwise(days))


@given(CALENDARS, INSTANTS, LENGTHS)
def test_the_months_of_a_range_are_those_of_its_days(
    calendar: Calendar, start: datetime, length: timedelta
) -> None:
    found: dict[str, tuple[datetime, datetime]] = {}
    for day, since, until in calendar.days(start, start + length):
        month = day.isoformat()[:7]
        found[month] = (found.get(month, (since, until))[0], until)
    months = calendar.months(start, start + length)
    assert months == [(month, *part) for month, part in found.items()]


def test_a_date_that_never_was_is_none_of_the_days() -> None:
    days = SKIPPED.days(SKIPPED.begin(date(2011, 12, 29)), SKIPPED.begin(date(2012, 1, 1)))
    assert [day.day for day, *_ in days] == [29, 31]
    assert [until - since for _, since, until in days] == [DAY, DAY]


def test_a_range_that_ends_at_its_start_or_before_has_no_days() -> None:
    at = parse_instant("2026-11-03T12:00:00Z")
    for end in (at, at - DAY):
        assert calendar_of("Europe/Berlin").days(at, end) == []
        assert UTC_CALENDAR.months(at, end) == []


@given(CALENDARS, DATES, INSTANTS)
def test_a_bound_that_is_a_date_means_its_beginning(
    calendar: Calendar, day: date, at: datetime
) -> None:
    assert calendar.instant(day.isoformat()) == calendar.begin(day)
    assert calendar.instant(at.isoformat()) == at
    assert UTC_CALENDAR.instant(day.isoformat()) == parse_bound(day.isoformat())


def test_no_bound_is_before_1900_in_utc() -> None:
    assert calendar_of("Asia/Tokyo").begin(date(1900, 1, 1)) < EARLIEST
    assert calendar_of("Asia/Tokyo").instant("1900-01-01") == EARLIEST


@pytest.mark.parametrize(
    "text", ["1899-12-31", "2100-01-01", "2026-02-30", "20260401", "2026-04-15T10:00", ""]
)
def test_a_text_that_is_neither_a_date_nor_an_instant_of_these_years_is_refused(text: str) -> None:
    for name in ("UTC", "Asia/Tokyo", "America/Los_Angeles"):
        with pytest.raises(ValueError):
            calendar_of(name).instant(text)


@pytest.mark.parametrize(
    "name",
    [
        *("", "Europe", "Europe/", "Europe/Berlin ", "Europe/Berlin\x00", "/Europe/Berlin"),
        *("europe/berlin", "utc", "EUROPE/BERLIN", "Europe\\Berlin", "Mars/Olympus"),
        *("../zones", "Europe/../UTC", "./UTC", "posix/UTC", "right/UTC", "__init__.py"),
        *("posixrules", "Factory", "localtime", "tzdata.zi", "zone.tab", "leapseconds"),
        *("+01:00", "UTC+1", "UTC,Europe/Berlin", "CET-1CEST", "Europe/Berlin" * 9999),
    ],
)
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as refused:
        calendar_of(name)
    assert [pointer for pointer, _ in refused.value.errors] == ["/time_zone"]


def test_each_zone_and_each_link_has_a_calendar_of_the_name_that_was_sent() -> None:
    names = zone_names()
    assert {"UTC", "Etc/UTC", "Zulu", "Asia/Calcutta", "US/Pacific", "EST5EDT"} < names
    at = parse_instant("2026-11-03T12:00:00Z")
    for name in names:
        assert calendar_of(name).name == name
        assert abs(calendar_of(name).date_of(at) - date(2026, 11, 3)) <= DAY


def test_calendars_of_the_same_name_are_equal() -> None:
    berlin = calendar_of("Europe/Berlin")
    calendar_of.cache_clear()
    assert {berlin: 1} == {calendar_of("Europe/Berlin"): 1}
    assert berlin != calendar_of("Europe/Vienna")
    assert calendar_of("UTC") is UTC_CALENDAR


def test_the_time_zones_of_the_machine_change_nothing(machine: Path) -> None:
    tokyo = files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    for folder, name in (("Europe", "Berlin"), ("Mars", "Olympus")):
        (machine / folder).mkdir()
        (machine / folder / name).write_bytes(tokyo)
    assert zoneinfo.ZoneInfo.no_cache("Mars/Olympus")

    day = date(2026, 1, 1)
    assert calendar_of("Europe/Berlin").begin(day) == parse_instant("2025-12-31T23:00:00Z")
    with pytest.raises(Invalid):
        calendar_of("Mars/Olympus")
