"""given(events).when(command).then(event or refusal): an aggregate alone, without store or clock.

    given(ACTIVATED, BLOCKED).when(Execution.unblock, "b", None).then(UNBLOCKED)
    given(ACTIVATED, CLOSED).when(Execution.unblock, "b", None).then(InvalidState)

The class of the first event determines the aggregate. Events happen at the start, unless
``at_minute`` gives another time. ``after(events)`` is the aggregate itself, for tests of its state.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import pytest

from ledger.engine.values.errors import LedgerError
from ledger.engine.values.recorded import Actor, Event, Recorded
from ledger.features.keys.model import ApiKey, ApiKeyCreated
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import Activated
from ledger.features.runs.model.run import Run, RunRequested, RunStarted
from ledger.features.webhooks.model.endpoint import Endpoint, WebhookCreated

START = datetime(2026, 4, 15, 12, 0, tzinfo=UTC)
ACTOR = Actor("user", "USR-1")

NOTHING: Final = None
"""The outcome of a command that is accepted and records no event."""

_BEGUN_BY: Mapping[type[Event], Callable[[], Any]] = {
    Activated: lambda: Execution("LIN-26-000001"),
    RunRequested: lambda: Run("RUN-26-000009"),
    RunStarted: lambda: Run("RUN-26-000009"),
    ApiKeyCreated: lambda: ApiKey("KEY-26-000001"),
    WebhookCreated: lambda: Endpoint("WHK-26-000001"),
}
"""The aggregate whose first event is of this class."""


def minute(minutes: float) -> datetime:
    """The instant that many minutes after the start."""
    return START + timedelta(minutes=minutes)


class AtMinute(NamedTuple):
    """An event that happens that many minutes after the start."""

    minutes: float
    event: Event


def at_minute(minutes: float, event: Event) -> AtMinute:
    """The event, as if it happens that many minutes after the start."""
    return AtMinute(minutes, event)


Past = Event | AtMinute


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
    """The event that begins a line."""
    values: dict[str, Any] = {
        "execution_id": "RUN-26-000001",
        "execution_id_origin": "issued",
        "product_line": "ods",
        "execution_model": model,
        "started_at": START,
    }
    return Activated(**values | more)


ACTIVATED = activated()


def happen(aggregate: Any, *events: Past) -> None:
    """Let events happen to an aggregate, one after the other."""
    for past in events:
        minutes, event = past if isinstance(past, AtMinute) else (0.0, past)
        aggregate.apply(recorded(event, aggregate.version + 1, minute(minutes)))


def after(*events: Past) -> Any:
    """The aggregate after these events."""
    first = events[0].event if isinstance(events[0], AtMinute) else events[0]
    aggregate = _BEGUN_BY[type(first)]()
    happen(aggregate, *events)
    return aggregate


class When:
    """A command to an aggregate with this past; ``then`` executes it and checks the outcome."""

    def __init__(self, past: Sequence[Past], command: Callable[[Any], Any]) -> None:
        self._past, self._command = past, command

    def then(self, expected: Any) -> None:
        """Assert that the command returns this event (or ``NOTHING``), or raises this error.

        In both cases the command leaves the aggregate unchanged: only events change it.
        """
        aggregate = after(*self._past)
        before = repr(aggregate)
        if isinstance(expected, type) and issubclass(expected, LedgerError):
            with pytest.raises(expected) as caught:
                self._command(aggregate)
            assert type(caught.value) is expected
        else:
            assert self._command(aggregate) == expected
        assert repr(aggregate) == before


class Given:
    """The past of an aggregate."""

    def __init__(self, past: Sequence[Past]) -> None:
        self._past = past

    def when(self, command: Callable[..., Any], *arguments: Any, **named: Any) -> When:
        """The call of a method of the aggregate with these arguments."""
        return When(self._past, lambda aggregate: command(aggregate, *arguments, **named))


def given(*events: Past) -> Given:
    """The past that consists of these events."""
    return Given(events)
