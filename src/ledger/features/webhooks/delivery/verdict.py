"""The verdict on an attempt at a delivery: pure functions of the time and a random number."""

from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec

from ledger.engine.values.rendering import json_text, render_as
from ledger.features.feed.published import PUBLISHED
from ledger.features.webhooks.delivery.schedule import Schedule
from ledger.features.webhooks.delivery.sender import Attempt
from ledger.features.webhooks.delivery.signing import ShownAttempt
from ledger.features.webhooks.model.channel import Format
from ledger.features.webhooks.model.endpoint import WebhookDeliveryFailed

Status = Literal["pending", "delivered", "failed"]

FAILING_FOR = timedelta(days=5)
"""An endpoint is disabled after every attempt has failed for so long (contract, Feeds)."""

_FAILURE = PUBLISHED[WebhookDeliveryFailed].name


class Claimed(NamedTuple):
    """A delivery in flight."""

    endpoint_id: str
    position: int
    sequence: int
    round: int
    tried: int
    """Failed attempts of this round so far."""
    last: str | None
    """The latest attempt, as recorded (JSON)."""
    number: str
    type: str
    body: str
    format: Format = "standard"
    """The endpoint's format."""
    follows: bool = False
    """True if the delivery is in the same message as the previous one, and takes no slot."""

    @property
    def event_id(self) -> str:
        return f"EVT-{self.number}"

    @property
    def is_test(self) -> bool:
        """True for a test, whose result has no consequences."""
        return self.sequence == 0


class Result(NamedTuple):
    """A delivery's new state, to be recorded."""

    claimed: Claimed
    status: Status
    due_at: datetime | None
    counts: bool = False
    """True if the attempt uses up one of the delivery's attempts."""
    attempt: str | None = None
    """The attempt as JSON; None if none was made."""
    url: str | None = None
    """The address of the attempt; None if none was made."""


class AttemptVerdict(NamedTuple):
    """The result to record, and its consequences once it is recorded."""

    result: Result
    gives_up: bool = False
    """The log must record the failure before the delivery counts as failed."""
    gone: bool = False
    """The receiver wants no more events."""


def judge(
    claimed: Claimed, attempt: Attempt, schedule: Schedule, now: datetime, jitter: float
) -> AttemptVerdict:
    made = attempt_text(attempt), attempt.url
    if attempt.delivered:
        return AttemptVerdict(Result(claimed, "delivered", None, False, *made))
    if claimed.is_test:
        # A test is not retried: its requester wants the result now.
        return AttemptVerdict(Result(claimed, "failed", None, False, *made))
    if attempt.gone:
        # The delivery keeps its remaining attempts, and waits until somebody enables the endpoint.
        return AttemptVerdict(Result(claimed, "pending", now, False, *made), gone=True)
    again = None
    if not attempt.is_final:
        again = schedule.next_attempt(claimed.tried + 1, now, jitter, attempt.retry_after)
    if again is not None:
        return AttemptVerdict(Result(claimed, "pending", again, True, *made))
    if gives_up_silently(claimed):
        return AttemptVerdict(Result(claimed, "failed", None, True, *made))
    # The delivery stays pending until the log has its failure. After a crash in between, the next
    # dispatcher gives the delivery up.
    return AttemptVerdict(Result(claimed, "pending", now, True, *made), gives_up=True)


def gives_up_silently(claimed: Claimed) -> bool:
    """Return True if a failure of this delivery publishes no event.

    The delivery is itself about a failure. Otherwise two dead endpoints would report each other's
    failures for ever.
    """
    return claimed.type == _FAILURE


def attempt_text(attempt: Attempt) -> str:
    """An attempt as the endpoint's owner sees it, as JSON."""
    return json_text(render_as(ShownAttempt, attempt))


def failure_of(claimed: Claimed, tried: int, attempt: str | None) -> WebhookDeliveryFailed:
    """The event for a delivery that is given up, with its last attempt."""
    last: dict[str, Any] = msgspec.json.decode(attempt) if attempt else {}
    return WebhookDeliveryFailed(
        event_id=claimed.event_id,
        sequence=claimed.sequence,
        attempts=tried,
        response_status=last.get("response_status"),
        error=last.get("error"),
    )
