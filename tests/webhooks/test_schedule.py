"""The schedule of retries: a pure function, tested with any delays, jitter and times."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.features.webhooks.delivery.schedule import (
    LONGEST_RETRY_AFTER,
    Schedule,
    parse_retry_after,
)

NOW = datetime(2026, 4, 15, 12, 0, tzinfo=UTC)
CONTRACT = Schedule((5, 300, 1800, 7200))

delays = st.lists(st.floats(0, 100_000), max_size=8).map(tuple)
jitters = st.floats(0, 1, exclude_max=True)
waits = st.none() | st.timedeltas(timedelta(0), timedelta(days=400))


def test_the_contracts_schedule_makes_five_attempts() -> None:
    due = [CONTRACT.next_attempt(tried, NOW, 0.0, None) for tried in range(1, 6)]
    waits = [None if at is None else (at - NOW).total_seconds() for at in due]
    assert waits == [5, 300, 1800, 7200, None]
    assert CONTRACT.attempts == 5


@given(delays, jitters, waits)
def test_there_is_a_next_attempt_until_all_are_used(
    delays: tuple[float, ...], jitter: float, wait: timedelta | None
) -> None:
    schedule = Schedule(delays)
    for tried in range(1, schedule.attempts):
        assert schedule.next_attempt(tried, NOW, jitter, wait) is not None
    assert schedule.next_attempt(schedule.attempts, NOW, jitter, wait) is None
    assert schedule.next_attempt(schedule.attempts + 7, NOW, jitter, wait) is None


@given(st.floats(0, 100_000), jitters)
def test_a_delay_is_never_shortened_and_grows_by_less_than_a_fifth(
    delay: float, jitter: float
) -> None:
    due = Schedule((delay,)).next_attempt(1, NOW, jitter, None)
    assert due is not None
    slack = timedelta(microseconds=2)
    assert timedelta(seconds=delay) <= due - NOW <= timedelta(seconds=delay * 1.2) + slack


@given(st.floats(1, 100_000), jitters, jitters)
def test_more_jitter_never_makes_an_attempt_sooner(delay: float, one: float, other: float) -> None:
    schedule = Schedule((delay,))
    sooner = schedule.next_attempt(1, NOW, min(one, other), None)
    later = schedule.next_attempt(1, NOW, max(one, other), None)
    assert sooner is not None
    assert later is not None
    assert sooner <= later


def test_jitter_spreads_deliveries_that_failed_together() -> None:
    schedule = Schedule((100,))
    assert schedule.next_attempt(1, NOW, 0.5, None) == NOW + timedelta(seconds=110)


@given(delays.filter(len), jitters, st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_receivers_wait_is_honoured_up_to_a_day(
    delays: tuple[float, ...], jitter: float, wait: timedelta
) -> None:
    schedule = Schedule(delays)
    own = schedule.next_attempt(1, NOW, jitter, None)
    due = schedule.next_attempt(1, NOW, jitter, wait)
    assert own is not None
    assert due == max(own, NOW + min(wait, timedelta(days=1)))


@pytest.mark.parametrize("delay", [-1, -0.001, float("nan"), float("inf"), 2_592_001])
def test_a_delay_that_makes_no_sense_is_refused_at_construction(delay: float) -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        Schedule((5, delay))


@given(st.integers(0, 86_400))
def test_retry_after_in_seconds(seconds: int) -> None:
    assert parse_retry_after(f" {seconds} ", NOW) == timedelta(seconds=seconds)


@given(st.integers(0, 86_400))
def test_retry_after_as_a_date(seconds: int) -> None:
    date = NOW + timedelta(seconds=seconds)
    for text in (
        format_datetime(date, usegmt=True),
        date.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        date.strftime("%a %b %d %H:%M:%S %Y"),
    ):
        assert parse_retry_after(text, NOW) == timedelta(seconds=seconds), text


def test_a_date_without_a_zone_means_utc_in_any_local_time_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "America/New_York")
        time.tzset()
        wait = parse_retry_after("Wed Apr 15 12:00:30 2026", NOW)
    time.tzset()
    assert wait == timedelta(seconds=30)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000, "0" * 5000 + "86401"])
def test_a_retry_after_of_any_number_of_digits_means_a_day_at_most(text: str) -> None:
    assert parse_retry_after(text, NOW) == LONGEST_RETRY_AFTER


def test_a_date_in_the_past_is_now_and_one_far_ahead_a_day() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", NOW) == timedelta(0)
    assert parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", NOW) == LONGEST_RETRY_AFTER


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", " ", "soon", "-1", "+5", "1.5", "1e3", "²", "٣", "5 s", "nan", "inf"),
        "Sun, 06 Nov 1994 08:49:37 +99999999999999999999",
        "Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +9999",
    ],
)
def test_an_unreadable_retry_after_asks_for_no_wait(text: str | None) -> None:
    assert parse_retry_after(text, NOW) is None


date_like = st.lists(
    st.sampled_from(["Sun", "Nov", "06", "1994", "99999999999", "08:49:37", "24:61:61"])
    | st.sampled_from(["GMT", "+9999", "-0000", "+99999999999", ",", "-", ":", "."])
    | st.text(max_size=3)
).map(" ".join)


@given(st.text() | date_like | date_like.map(lambda text: text.replace(" ", "")))
def test_any_text_as_retry_after_asks_for_no_wait_or_one_of_up_to_a_day(text: str) -> None:
    wait = parse_retry_after(text, NOW)
    assert wait is None or timedelta(0) <= wait <= LONGEST_RETRY_AFTER
