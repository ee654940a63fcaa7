"""given(events).when(decision).then(events): an aggregate alone, without a store or a clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.domain.api_key import ApiKey
from ledger.domain.endpoint import Endpoint
from ledger.domain.errors import LedgerError
from ledger.domain.execution import Execution
from ledger.domain.execution_events import Activated
from ledger.domain.recorded import Actor, Event, Recorded
from ledger.domain.run import Run

START = datetime(2026, 4, 15, 12, 0, tzinfo=UTC)
ACTOR = Actor("user", "USR-1")

Aggregate = Execution | Run | ApiKey | Endpoint
Past = Event | tuple[float, Event]
"""An event at the start, or (minutes after it, event)."""


def minute(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def recorded(body: Event, version: int, at: datetime = START, **more: Any) -> Recorded:
    """An envelope around an event."""
    values: dict[str, Any] = {
        "originator_id": "LIN-26-000001",
        "originator_version": version,
        "position": version,
        "occurred_at": at,
        "recorded_at": START + timedelta(microseconds=version),
        "actor": ACTOR,
        "reported_by": "KEY-26-000001",
        "organization_id": "ORG-26-000001",
        "workspace_id": "WS-26-000001",
        "service_line_id": "LIN-26-000001",
        "fact": None,
        "request_id": None,
        "causation_id": None,
        "nonce": bytes(16),
        "body": body,
    }
    return Recorded(**values | more)


def activated(model: Any = "agent_runtime", **more: Any) -> Activated:
    values: dict[str, Any] = {
        "execution_id": "RUN-26-000001",
        "execution_id_origin": "issued",
        "product_line": "ods",
        "execution_model": model,
        "started_at": START,
    }
    return Activated(**values | more)


def fold(aggregate: Aggregate, past: Sequence[Past]) -> None:
    for body in past:
        minutes, event = body if isinstance(body, tuple) else (0.0, body)
        aggregate.evolve(recorded(event, aggregate.version + 1, minute(minutes)))


@dataclass
class Given:
    """An aggregate after its past."""

    aggregate: Any

    def when(self, decide: Callable[[Any], Any]) -> "When":
        return When(self.aggregate, decide)


@dataclass
class When:
    aggregate: Any
    decide: Callable[[Any], Any]

    def then(self, expected: Event | None) -> None:
        """The decision allows this event (or none), and has itself changed nothing."""
        before = repr(self.aggregate)
        assert self.decide(self.aggregate) == expected
        assert repr(self.aggregate) == before

    def refused(self, kind: type[LedgerError]) -> None:
        before = repr(self.aggregate)
        with pytest.raises(kind) as caught:
            self.decide(self.aggregate)
        assert type(caught.value) is kind
        assert repr(self.aggregate) == before


def given_line(*past: Past) -> Given:
    """A line that was activated at the start, and what happened then."""
    line = Execution("LIN-26-000001")
    fold(line, [activated(), *past])
    return Given(line)


def given_run(*past: Past) -> Given:
    run = Run("RUN-26-000009")
    fold(run, past)
    return Given(run)


def given_key(*past: Past) -> Given:
    key = ApiKey("KEY-26-000001")
    fold(key, past)
    return Given(key)


def given_endpoint(*past: Past) -> Given:
    endpoint = Endpoint("WHK-26-000001")
    fold(endpoint, past)
    return Given(endpoint)
