"""The consequences of an attempt, decided by pure functions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ledger.features.webhooks.delivery.schedule import Schedule
from ledger.features.webhooks.delivery.sender import Attempt
from ledger.features.webhooks.delivery.verdict import (
    AttemptVerdict,
    Claimed,
    attempt_text,
    failure_of,
    judge,
)
from ledger.features.webhooks.model.endpoint import WebhookDeliveryFailed

NOW = datetime(2026, 4, 15, 12, 0, tzinfo=UTC)
SCHEDULE = Schedule((5, 300))


def claimed(**more: Any) -> Claimed:
    values = {
        "endpoint_id": "WHK-26-000001",
        "position": 7,
        "sequence": 3,
        "round": 0,
        "tried": 0,
        "last": None,
        "number": "26-000007",
        "type": "run.failed",
        "body": "{}",
    }
    return Claimed(**(values | more))


def attempt(status: int | None = 500, **more: Any) -> Attempt:
    values = {
        "url": "https://example.com/",
        "at": NOW,
        "response_status": status,
        "latency_ms": 12,
        "error": None,
        "response_body": "no",
        "retry_after": None,
    }
    return Attempt(**(values | more))


def after(delivery: Claimed, tried: Attempt, jitter: float = 0.0) -> AttemptVerdict:
    return judge(delivery, tried, SCHEDULE, NOW, jitter)


@pytest.mark.parametrize("status", [None, 100, 199, 300, 404, 429, 500])
@pytest.mark.parametrize(("tried", "delay"), [(0, 5), (1, 300)])
def test_any_other_status_is_tried_again_at_the_schedules_time(
    status: int | None, tried: int, delay: int
) -> None:
    for jitter in (0.0, 0.5):
        result = after(claimed(tried=tried), attempt(status), jitter).result
        assert result.status == "pending"
        assert result.due_at == NOW + timedelta(seconds=delay * (1 + 0.2 * jitter))
        assert result.counts


def test_the_recorded_failure_names_the_last_attempt() -> None:
    last = attempt_text(attempt(None, error="timed out", response_body=None))
    assert msgspec.json.decode(last) == {
        "at": "2026-04-15T12:00:00Z",
        "response_status": None,
        "latency_ms": 12,
        "error": "timed out",
        "response_body": None,
    }
    assert failure_of(claimed(), 5, last) == WebhookDeliveryFailed(
        event_id="EVT-26-000007", sequence=3, attempts=5, response_status=None, error="timed out"
    )
    assert failure_of(claimed(), 5, None).error is None
