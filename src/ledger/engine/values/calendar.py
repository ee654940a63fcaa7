"""Dates and months in a time zone.

Zones come from the package ``tzdata`` alone, never from the machine, so that all nodes agree.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import EARLIEST, is_date, parse_bound

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Calendar:
    """The dates of a time zone; calendars of the same name are equal.

    A date begins at the first instant whose local date is not before it, and lasts until the next
    date begins. So each date is one span of time, even where clocks are set back across
    midnight and show the end of a date twice: the second time belongs to the new date.
    """

    name: str
    zone: tzinfo = field(compare=False)

    def begin(self, day: date) -> datetime:
        """The first instant, in UTC, whose local date is not before this date."""
        return _begin(self.zone, day)

    def date_of(self, at: datetime) -> date:
        """The date to which an instant belongs: the last that begins no later."""
        day = _local(self.zone, at).date()
        while self.begin(day + _DAY) <= at:
            day += _DAY
        return day

    def days(self, start: datetime, end: datetime) -> list[tuple[date, datetime, datetime]]:
        """The dates in ``[start, end)``, each with the start and the end of its part.

        A date that the zone skipped is not among them (2011-12-30 in Pacific/Apia).
        """
        return self._parts(start, end, self.date_of(start), lambda day: day + _DAY)

    def months(self, start: datetime, end: datetime) -> list[tuple[str, datetime, datetime]]:
        """The months (``2026-11``) in ``[start, end)``, in the form of ``days``."""
        first = self.date_of(start).replace(day=1)
        parts = self._parts(start, end, first, lambda day: (day + 31 * _DAY).replace(day=1))
        return [(f"{month:%Y-%m}", since, until) for month, since, until in parts]

    def instant(self, text: str) -> datetime:
        """Parse as ``parse_bound`` does; a plain date means its beginning. Raises ValueError.

        East of UTC, 1900 begins in UTC's 1899. The result is never before ``EARLIEST``.
        """
        bound = parse_bound(text)
        return max(self.begin(bound.date()), EARLIEST) if is_date(text) else bound

    def _parts(
        self, start: datetime, end: datetime, first: date, after: Callable[[date], date]
    ) -> list[tuple[date, datetime, datetime]]:
        parts = []
        while start < end:
            following = after(first)
            until = min(self.begin(following), end)
            if start < until:
                parts.append((first, start, until))
            start, first = until, following
        return parts


UTC_CALENDAR = Calendar("UTC", UTC)


@cache
def calendar_of(name: str) -> Calendar:
    """The calendar of an IANA time zone, or of a link to one. Raises Invalid (`/time_zone`)."""
    if name == UTC_CALENDAR.name:
        return UTC_CALENDAR
    if name not in zone_names():
        raise Invalid.at("/time_zone", "must be an IANA time zone, such as Europe/Berlin")
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return Calendar(name, ZoneInfo.from_file(data, key=name))


@cache
def zone_names() -> frozenset[str]:
    names = files("tzdata").joinpath("zones").read_text("utf-8").split()
    return frozenset(names) - {"Factory"}  # not a zone: a placeholder until one is chosen


@lru_cache(8192)
def _begin(zone: tzinfo, day: date) -> datetime:
    midnight = datetime.combine(day, time.min)
    # Where clocks are set back there may be two midnights; fold=0 is the first.
    late = midnight.replace(tzinfo=zone).astimezone(UTC)
    early = midnight.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if early >= late:
        return late
    # No clock shows this midnight: clocks are set forward over it, at a whole second.
    return early + _SECOND * bisect_left(
        range((late - early) // _SECOND),
        True,
        key=lambda passed: _local(zone, early + _SECOND * passed) >= midnight,
    )


def _local(zone: tzinfo, at: datetime) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)
