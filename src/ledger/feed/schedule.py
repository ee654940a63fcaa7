"""When a failed delivery is tried again: pure, time and chance come in as arguments."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec

# Deliveries that failed together would come back together: each waits up to a fifth longer.
_SPREAD = 0.2

# A receiver may ask for patience, but not make us keep a delivery for ever.
LONGEST_RETRY_AFTER = timedelta(days=1)

# Far beyond any sensible setting, and far below what a date can hold.
_LONGEST_DELAY = timedelta(days=30).total_seconds()


class Schedule(msgspec.Struct, frozen=True):
    """The delays, in seconds, after the first, second … failed attempt of a delivery."""

    delays: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(0 <= delay <= _LONGEST_DELAY for delay in self.delays):
            raise ValueError("each delay must be between 0 and 2,592,000 seconds (30 days)")

    @property
    def attempts(self) -> int:
        """How often a delivery is tried in all."""
        return len(self.delays) + 1

    def next_attempt(
        self, tried: int, now: datetime, jitter: float, retry_after: timedelta | None
    ) -> datetime | None:
        """When the attempt after ``tried`` failed ones is due; None once there is none left.

        ``jitter``, from 0 to below 1, is the caller's chance. Never sooner than the receiver
        asked for, as far as that is reasonable.
        """
        if tried > len(self.delays):
            return None
        delay = timedelta(seconds=self.delays[tried - 1] * (1 + _SPREAD * jitter))
        asked = min(retry_after or timedelta(0), LONGEST_RETRY_AFTER)
        return now + max(delay, asked)


def parse_retry_after(text: str | None, now: datetime) -> timedelta | None:
    """How long a ``Retry-After`` header asks to wait (RFC 9110, 10.2.3): seconds or a date.

    None for anything else; zero for the past; at most ``LONGEST_RETRY_AFTER``.
    """
    seconds = _seconds(text.strip(), now) if text else math.nan
    if math.isnan(seconds):
        return None
    return timedelta(seconds=min(max(seconds, 0), LONGEST_RETRY_AFTER.total_seconds()))


def _seconds(text: str, now: datetime) -> float:
    """NaN for rubbish. Digits go through float: there, too many of them are just infinite."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return math.nan
    # The oldest of the three forms names no zone; it means UTC.
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
