"""Periods as people name them: months, quarters and ranges of days, in a calendar."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from ledger.engine.values.calendar import Calendar

_DAY = timedelta(days=1)


class Period(NamedTuple):
    """A range of whole days."""

    first: date
    beyond: date
    """The day after the last one."""

    @property
    def last(self) -> date:
        return self.beyond - _DAY

    @property
    def name(self) -> str:
        first, last = self.first, self.last
        match self.months:
            case 1:
                return f"{first:%B %Y}"
            case 3 if first.month % 3 == 1:
                return f"Q{first.month // 3 + 1} {first.year}"
        return f"{first}" if first == last else f"{first} to {last}"

    @property
    def months(self) -> int:
        """The number of months if the period is whole months, else 0."""
        if self.first.day == self.beyond.day == 1:
            return 12 * (self.beyond.year - self.first.year) + self.beyond.month - self.first.month
        return 0

    def moved(self, times: int) -> "Period":
        """The period ``times`` of its own lengths later, or earlier if ``times`` is negative."""
        if months := self.months:
            return Period(*(plus_months(day, times * months) for day in self))
        length = (self.beyond - self.first) * times
        return Period(self.first + length, self.beyond + length)

    def within(self, other: "Period") -> "Period":
        """The part of the period that lies within another one."""
        return Period(max(self.first, other.first), min(self.beyond, other.beyond))


def plus_months(day: date, months: int) -> date:
    """The first day of the month that is ``months`` after the month of ``day``."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, 1)


def month_of(day: date) -> Period:
    return Period(day.replace(day=1), plus_months(day, 1))


def period_of(calendar: Calendar, start: datetime, end: datetime) -> Period:
    """The period of all days from one instant to another."""
    last = calendar.date_of(max(start, end - timedelta(microseconds=1)))
    return Period(calendar.date_of(start), last + _DAY)


def common_periods(calendar: Calendar, now: datetime) -> Sequence[tuple[str, Period]]:
    """The periods that people often choose, with their names."""
    month = month_of(calendar.date_of(now))
    begin = plus_months(month.first, -((month.first.month - 1) % 3))
    quarter = Period(begin, plus_months(begin, 3))
    return (
        ("This month", month),
        ("Last month", month.moved(-1)),
        ("This quarter", quarter),
        ("Last quarter", quarter.moved(-1)),
    )
