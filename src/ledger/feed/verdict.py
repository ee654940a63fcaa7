"""What follows from an attempt at a delivery: pure, time and chance come in as arguments."""

from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec

from ledger.domain.endpoint import WebhookDeliveryFailed
from ledger.feed.schedule import Schedule
from ledger.feed.sender import Attempt
from ledger.language.published import PUBLISHED
from ledger.language.rendering import json_text, time_text

Status = Literal["pending", "delivered", "failed"]

FAILING_FOR = timedelta(days=5)
"""An endpoint that has done nothing but fail for so long is disabled (contract 5)."""

_FAILURE = PUBLISHED[WebhookDeliveryFailed].name


class Claimed(NamedTuple):
    """A delivery in hand."""

    endpoint_id: str
    position: int
    sequence: int
    round: int
    tried: int
    """Failed attempts of this round so far."""
    last: str | None
    """The latest attempt, as it was recorded."""
    number: str
    type: str
    body: str

    @property
    def event_id(self) -> str:
        """The EVT id."""
        return f"EVT-{self.number}"

    @property
    def is_test(self) -> bool:
        """Whether it counts for nothing."""
        return self.sequence == 0


class Result(NamedTuple):
    """What is recorded of a delivery."""

    claimed: Claimed
    status: Status
    due_at: datetime | None
    counts: bool = False
    """Whether the attempt is one of those that a delivery has."""
    attempt: str | None = None
    """As JSON; None where there was none."""


class Verdict(NamedTuple):
    """What is recorded, and what follows once it is."""

    result: Result
    gives_up: bool = False
    """The log has to hear of it before the delivery counts as failed."""
    gone: bool = False
    """The endpoint wants nothing any more."""


def judge(
    claimed: Claimed, attempt: Attempt, schedule: Schedule, now: datetime, jitter: float
) -> Verdict:
    """What an attempt came to."""
    told = attempt_text(attempt)
    if attempt.delivered:
        return Verdict(Result(claimed, "delivered", None, False, told))
    if claimed.is_test:
        # Whoever asked for it looks now: a test is not tried again.
        return Verdict(Result(claimed, "failed", None, False, told))
    if attempt.gone:
        # It waits until somebody enables the endpoint, with all the attempts that it had left.
        return Verdict(Result(claimed, "pending", now, False, told), gone=True)
    again = schedule.next_attempt(claimed.tried + 1, now, jitter, attempt.retry_after)
    if again is not None:
        return Verdict(Result(claimed, "pending", again, True, told))
    if gives_up_silently(claimed):
        return Verdict(Result(claimed, "failed", None, True, told))
    # Pending until the log knows: a crash in between makes the next dispatcher give it up.
    return Verdict(Result(claimed, "pending", now, True, told), gives_up=True)


def gives_up_silently(claimed: Claimed) -> bool:
    """Whether nothing is published: else two dead endpoints would tell of each other for ever."""
    return claimed.type == _FAILURE


def attempt_text(attempt: Attempt) -> str:
    """An attempt as its owner sees it, ready JSON."""
    shown = {
        "at": time_text(attempt.at),
        "response_status": attempt.response_status,
        "latency_ms": attempt.latency_ms,
        "error": attempt.error,
        "response_body": attempt.response_body,
    }
    return json_text(shown)


def failure_of(claimed: Claimed, tried: int, attempt: str | None) -> WebhookDeliveryFailed:
    """What the log is told of a delivery that is given up, with its last attempt."""
    last: dict[str, Any] = msgspec.json.decode(attempt) if attempt else {}
    return WebhookDeliveryFailed(
        event_id=claimed.event_id,
        sequence=claimed.sequence,
        attempts=tried,
        response_status=last.get("response_status"),
        error=last.get("error"),
    )
