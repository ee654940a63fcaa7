"""The hours in which the time of a watch counts: weekdays and hours of the day in a time zone.

An instant is within the hours if the clock of the zone then shows a time within them, on one of
their days. So an hour that clocks skip does not count, and one that they repeat counts twice.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import msgspec

from ledger.engine.values.calendar import calendar_of
from ledger.engine.values.recorded import outside
from ledger.engine.values.values import LATEST, instant_of, micros_of

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)

_SECOND = 1_000_000
"""In microseconds, in which this module counts."""
_DAY = 86_400 * _SECOND


class WatchHours(msgspec.Struct, frozen=True, kw_only=True, rename=outside):
    """Hours of the day, as ``09:00``, on weekdays in a time zone; ``to`` is exclusive."""

    time_zone: str
    days: tuple[Weekday, ...]
    from_: str
    to: str


def due_at(since: datetime, seconds: int, hours: WatchHours | None) -> datetime:
    """Within the hours; ``LATEST`` if so much time never passes."""
    if hours is None:
        return min(since + timedelta(seconds=seconds), LATEST)
    start, left = micros_of(since), seconds * _SECOND
    first = since.astimezone(UTC).year
    for year in range(first, LATEST.year):
        if year > first and left >= _sum(hours, year):
            left -= _sum(hours, year)
            continue
        passed = _year(hours, year)
        at = passed.after(start, left)
        if at is not None:
            return instant_of(at)
        left -= passed.until_end(start)
    return LATEST


class _Passed(NamedTuple):
    """The spans of a UTC year that lie within some hours, in order."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    before: tuple[int, ...]
    """The sum of the spans before each; last the sum of all."""

    def by(self, at: int) -> int:
        """How much of the hours has passed in the year by an instant."""
        index = bisect_right(self.begins, at)
        if not index:
            return 0
        return self.before[index - 1] + min(at, self.ends[index - 1]) - self.begins[index - 1]

    def until_end(self, at: int) -> int:
        return self.before[-1] - self.by(at)

    def after(self, since: int, left: int) -> int | None:
        """The instant within the hours by which so much more has passed; None: not in the year."""
        # Time that is full when a span ends is due when the next one begins.
        index = bisect_right(self.before, self.by(since) + left) - 1
        index = max(index, bisect_right(self.ends, since))
        if index >= len(self.begins):
            return None
        return max(self.begins[index] + self.by(since) + left - self.before[index], since)


@lru_cache(65_536)
def _sum(hours: WatchHours, year: int) -> int:
    """How much of the hours a UTC year has: a minute a week may need all years that there are."""
    return _year(hours, year).before[-1]


@lru_cache(512)
def _year(hours: WatchHours, year: int) -> _Passed:
    begins, ends, before = list[int](), list[int](), [0]
    for begin, end in _spans(hours, year):
        if ends and ends[-1] == begin:
            before[-1] += end - begin
            ends[-1] = end
            continue
        begins.append(begin)
        ends.append(end)
        before.append(before[-1] + end - begin)
    return _Passed(tuple(begins), tuple(ends), tuple(before))


def _spans(hours: WatchHours, year: int) -> Iterator[tuple[int, int]]:
    start, to = _minutes(hours.from_), _minutes(hours.to)
    for begin, end, offset in _segments(hours.time_zone, year):
        day = (begin + offset) // _DAY
        while day * _DAY < end + offset:
            if WEEKDAYS[(day + 3) % 7] in hours.days:  # 1970-01-01 was a Thursday.
                local = day * _DAY - offset
                span = max(begin, local + start), min(end, local + to)
                if span[0] < span[1]:
                    yield span
            day += 1


def _minutes(text: str) -> int:
    hour, minute = text.split(":")
    return (int(hour) * 60 + int(minute)) * 60 * _SECOND


def _segments(time_zone: str, year: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, offset from UTC) of the parts of a UTC year, no longer than a day each."""
    begin = micros_of(datetime(year, 1, 1, tzinfo=UTC))
    last = micros_of(datetime(year + 1, 1, 1, tzinfo=UTC))
    while begin < last:
        end, offset = begin + _DAY, _offset(time_zone, begin)
        if _offset(time_zone, end) != offset:
            # Clocks are set at a whole second.
            instants = range(begin, end, _SECOND)
            other = _offset(time_zone, end)
            changed = instants[
                bisect_left(instants, True, key=lambda at: _offset(time_zone, at) == other)
            ]
            yield begin, changed, offset
            begin, offset = changed, other
        yield begin, end, offset
        begin = end


def _offset(time_zone: str, at: int) -> int:
    offset = instant_of(at).astimezone(calendar_of(time_zone).zone).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)
