"""A credential's refusals are recorded singly up to a number per UTC day (contract, Feeds)."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.engine.values.refusals import DAILY, Refusals, RefusalsOmitted, WriteRefused, stream_of
from ledger.engine.values.values import day_of
from tests.support.domain import START, recorded

REFUSED = WriteRefused(action="run.started", code="invalid_state")
OMITTED = RefusalsOmitted(count=3, since=START)
MIDNIGHT = datetime(2026, 4, 16, tzinfo=UTC)


def refusals_at(*instants: datetime, of: Refusals | None = None) -> Refusals:
    """A credential's refusals after one was recorded at each of these instants."""
    refusals = of or Refusals(stream_of("KEY-26-000001"))
    for at in instants:
        refusals.apply(recorded(REFUSED, refusals.version + 1, at, recorded_at=at))
    return refusals


def with_room_for(left: int, at: datetime) -> Refusals:
    """A credential's refusals on the day of an instant, with room for ``left`` more."""
    return Refusals("REF-K", DAILY - left, day=day_of(at), recorded=DAILY - left)


@pytest.mark.parametrize("later", [timedelta(0), timedelta(days=1), timedelta(days=400)])
def test_the_day_ends_at_midnight_utc_whatever_the_offset_of_the_clock(later: timedelta) -> None:
    refusals = with_room_for(0, MIDNIGHT - timedelta(hours=1))
    west = timezone(timedelta(hours=-8))
    last = MIDNIGHT - timedelta(microseconds=1)
    assert not refusals.has_room(last)
    assert not refusals.has_room(last.astimezone(west))
    assert refusals.has_room(MIDNIGHT + later)
    assert refusals.has_room((MIDNIGHT + later).astimezone(west))


def test_a_refusal_counts_on_the_day_of_its_recording_and_not_of_its_occurrence() -> None:
    refusals = with_room_for(1, START)
    occurred = START - timedelta(days=3)
    refusals.apply(recorded(REFUSED, refusals.version + 1, occurred, recorded_at=START))
    assert not refusals.has_room(START)


def test_a_count_of_omitted_refusals_takes_no_room_and_gives_none() -> None:
    refusals = with_room_for(1, START)
    refusals.apply(recorded(OMITTED, refusals.version + 1))
    assert refusals.has_room(START)
    assert refusals.version == DAILY
    refusals_at(START, of=refusals)
    refusals.apply(recorded(OMITTED, refusals.version + 1))
    assert not refusals.has_room(START)


GAPS = st.lists(st.integers(0, 40 * 3600), max_size=60)


@given(GAPS, st.integers(0, 30), st.integers(0, 72 * 3600))
def test_a_credential_has_room_while_fewer_refusals_were_recorded_on_the_same_day(
    gaps: list[int], left: int, wait: int
) -> None:
    refusals, at = with_room_for(left, START), START
    counts = Counter({day_of(START): DAILY - left})
    for instant in instants_after(at, gaps):
        at = instant
        if refusals.has_room(at):
            refusals_at(at, of=refusals)
            counts[day_of(at)] += 1
        assert refusals.recorded <= DAILY
    now = at + timedelta(seconds=wait)
    assert refusals.has_room(now) == (counts[day_of(now)] < DAILY)
    assert max(counts.values()) <= DAILY


def instants_after(start: datetime, gaps: Iterable[int]) -> Iterable[datetime]:
    """The instants that follow one another by these gaps in seconds."""
    for gap in gaps:
        start += timedelta(seconds=gap)
        yield start


@given(st.text(min_size=1, max_size=30))
def test_each_credential_has_a_stream_of_its_own(credential: str) -> None:
    assert stream_of(credential).removeprefix("REF-") == credential
