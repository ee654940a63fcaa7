"""A credential's refusals are recorded one by one up to a number a UTC day (contract, Feeds)."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.refusals import DAILY, Refusals, RefusalsOmitted, WriteRefused, stream_of
from ledger.domain.values import day_of
from tests.support.domain import START, recorded

REFUSED = WriteRefused(action="run.started", code="invalid_state")
OMITTED = RefusalsOmitted(count=3, since=START)
MIDNIGHT = datetime(2026, 4, 16, tzinfo=UTC)


def refusals_at(*instants: datetime, of: Refusals | None = None) -> Refusals:
    """A credential's refusals after one was recorded at each of these instants."""
    refusals = of or Refusals(stream_of("KEY-26-000001"))
    for at in instants:
        refusals.evolve(recorded(REFUSED, refusals.version + 1, at, recorded_at=at))
    return refusals


def with_room_for(left: int, at: datetime) -> Refusals:
    """A credential's refusals on the day of an instant, with room for so many more."""
    return Refusals("REF-K", DAILY - left, day=day_of(at), recorded=DAILY - left)


def test_a_credential_that_was_never_refused_has_room() -> None:
    assert Refusals("REF-K").has_room(START)


def test_there_is_room_for_the_daily_number_and_no_more() -> None:
    refusals = refusals_at(*[START] * (DAILY - 1))
    assert refusals.has_room(START)
    assert not refusals_at(START, of=refusals).has_room(START)
    assert refusals.version == refusals.recorded == DAILY


@pytest.mark.parametrize("later", [timedelta(0), timedelta(days=1), timedelta(days=400)])
def test_the_day_ends_at_midnight_utc_wherever_the_clock_is(later: timedelta) -> None:
    refusals = with_room_for(0, MIDNIGHT - timedelta(hours=1))
    west = timezone(timedelta(hours=-8))
    last = MIDNIGHT - timedelta(microseconds=1)
    assert not refusals.has_room(last)
    assert not refusals.has_room(last.astimezone(west))
    assert refusals.has_room(MIDNIGHT + later)
    assert refusals.has_room((MIDNIGHT + later).astimezone(west))


def test_the_count_begins_anew_with_the_first_refusal_of_the_next_day() -> None:
    refusals = refusals_at(MIDNIGHT, of=with_room_for(0, START))
    assert (refusals.recorded, refusals.day) == (1, day_of(MIDNIGHT))


def test_the_day_is_that_of_the_recording_and_not_of_the_occurrence() -> None:
    refusals = with_room_for(1, START)
    said = START - timedelta(days=3)
    refusals.evolve(recorded(REFUSED, refusals.version + 1, said, recorded_at=START))
    assert not refusals.has_room(START)


def test_a_count_of_omitted_refusals_takes_no_room_and_gives_none() -> None:
    refusals = with_room_for(1, START)
    refusals.evolve(recorded(OMITTED, refusals.version + 1))
    assert refusals.has_room(START)
    assert refusals.version == DAILY
    refusals_at(START, of=refusals)
    refusals.evolve(recorded(OMITTED, refusals.version + 1))
    assert not refusals.has_room(START)


def test_another_event_of_the_stream_only_counts_its_version() -> None:
    refusals = with_room_for(1, START)
    before = refusals.version
    refusals.evolve(recorded(OMITTED, before + 1))
    assert (refusals.version, refusals.has_room(START)) == (before + 1, True)


_gaps = st.lists(st.integers(0, 40 * 3600), max_size=60)


@given(_gaps, st.integers(0, 30), st.integers(0, 72 * 3600))
def test_there_is_room_while_fewer_were_recorded_on_that_very_day(
    gaps: list[int], left: int, then: int
) -> None:
    refusals, at = with_room_for(left, START), START
    counts = Counter({day_of(START): DAILY - left})
    for instant in after(at, gaps):
        at = instant
        if refusals.has_room(at):
            refusals_at(at, of=refusals)
            counts[day_of(at)] += 1
        assert refusals.recorded <= DAILY
    now = at + timedelta(seconds=then)
    assert refusals.has_room(now) == (counts[day_of(now)] < DAILY)
    assert max(counts.values()) <= DAILY


def after(start: datetime, gaps: Iterable[int]) -> Iterable[datetime]:
    for gap in gaps:
        start += timedelta(seconds=gap)
        yield start


@given(st.text(min_size=1, max_size=30))
def test_a_stream_is_of_one_credential_alone(credential: str) -> None:
    assert stream_of(credential).removeprefix("REF-") == credential
