"""When a failed delivery is tried again: pure functions of the time and a random number."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec

# Jitter: deliveries that failed together would be retried together, so each waits up to a fifth
# longer.
_SPREAD = 0.2

# A receiver may request a longer delay, but cannot keep a delivery pending for ever.
LONGEST_RETRY_AFTER = timedelta(days=1)

# Far above any sensible setting, and far below the range of a date.
_LONGEST_DELAY = timedelta(days=30).total_seconds()


class Schedule(msgspec.Struct, frozen=True):
    """The delays, in seconds, after the first, second … failed attempt of a delivery."""

    delays: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(0 <= delay <= _LONGEST_DELAY for delay in self.delays):
            raise ValueError("each delay must be between 0 and 2,592,000 seconds (30 days)")

    @property
    def attempts(self) -> int:
        return len(self.delays) + 1

    def next_attempt(
        self, tried: int, now: datetime, jitter: float, retry_after: timedelta | None
    ) -> datetime | None:
        """When the attempt after ``tried`` failed attempts is due; None if no attempt is left.

        ``jitter`` is a random number from 0 to below 1. The attempt is never due sooner than the
        receiver requested, up to ``LONGEST_RETRY_AFTER``.
        """
        if tried > len(self.delays):
            return None
        delay = timedelta(seconds=self.delays[tried - 1] * (1 + _SPREAD * jitter))
        least = min(retry_after or timedelta(0), LONGEST_RETRY_AFTER)
        return now + max(delay, least)


def parse_retry_after(text: str | None, now: datetime) -> timedelta | None:
    """The delay in a ``Retry-After`` header (RFC 9110, 10.2.3): seconds or a date.

    None for anything else; zero for the past; at most ``LONGEST_RETRY_AFTER``.
    """
    seconds = _seconds(text.strip(), now) if text else math.nan
    if math.isnan(seconds):
        return None
    return timedelta(seconds=min(max(seconds, 0), LONGEST_RETRY_AFTER.total_seconds()))


def _seconds(text: str, now: datetime) -> float:
    """The delay in seconds, or NaN for another text. As a float, a huge number is just infinite."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return math.nan
    # The oldest of the three forms of a date names no time zone; its time zone is UTC.
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
