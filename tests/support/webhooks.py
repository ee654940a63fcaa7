"""A ledger with dispatchers, and the deliveries that receivers got from them."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from standardwebhooks import Webhook

from ledger.app.composition.loops import Dispatching
from ledger.app.composition.writing import writing
from ledger.app.settings import Settings
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from ledger.features.webhooks import commands as webhooks
from ledger.features.webhooks.delivery import signing
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import LINE, ORGANIZATION, activation, fact
from tests.support.racing_writers import parsed
from tests.support.receiver import Request
from tests.support.service import Clock
from tests.support.views import following, query, until

QUICK = "0.05,0.05,0.05,0.05"
"""A schedule whose last attempt comes soon."""


_DELIVERIES = """
SELECT m.number, m.sequence, coalesce(d.status, 'pending'), d.tried, d.attempts, d.due_at, m.type
FROM ledger.webhook_message AS m LEFT JOIN ledger.delivery AS d USING (endpoint_id, position)
WHERE m.endpoint_id = %s AND m.kind <> 'recovery' ORDER BY m.position
"""


class ShiftedClock(Clock):
    """The real clock, plus an offset that a test can raise."""

    def __init__(self, **ahead: float) -> None:
        super().__init__()
        self._ahead = timedelta(**ahead)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, **duration: float) -> None:
        self._ahead += timedelta(**duration)


class Delivery(NamedTuple):
    """A delivery of an event to an endpoint, as the tables have it."""

    event_id: str
    sequence: int
    status: str
    tried: int | None
    attempts: list[dict[str, Any]]
    due_at: datetime | None
    type: str

    @property
    def statuses(self) -> list[int | None]:
        """The status of the response to each attempt; None if there was no response."""
        return [attempt["response_status"] for attempt in self.attempts]


class WebhookLedger:
    """A writer, views that follow it and, once started, a dispatcher."""

    def __init__(self, conninfo: str, settings: Settings, writer: Writer, clock: Clock) -> None:
        self.conninfo, self.settings, self.writer, self.clock = conninfo, settings, writer, clock
        self._dispatching: list[Dispatching] = []

    # The dispatcher.

    def start(self, deadline: float = 10.0, gather: float = 0.1) -> Dispatching:
        """Start a dispatcher, in addition to those that already run."""
        dispatching = Dispatching(self.settings, self.conninfo, self.clock, deadline, gather)
        dispatching.start()
        self._dispatching.append(dispatching)
        return dispatching

    def stop(self) -> None:
        """Stop all dispatchers."""
        while self._dispatching:
            self._dispatching.pop().stop()

    def advance(self, **duration: float) -> None:
        """Move the clock, and wake the dispatchers."""
        self.clock.advance(**duration)
        for dispatching in self._dispatching:
            dispatching.dispatcher.wake()

    # Commands and facts.

    def execute(self, command: Command) -> Receipt:
        """Execute a command that must not be refused."""
        outcome = self.writer.execute(command)
        assert isinstance(outcome, Receipt), outcome
        return outcome

    def create(
        self, url: str, types: Sequence[str] = ("*",), workspace_id: str | None = None, **more: Any
    ) -> tuple[str, str]:
        """Create an endpoint; return its id and secret."""
        secret = signing.create_secret()
        command = webhooks.CreateEndpoint(
            COMMAND_LINE,
            None,
            secret=secret,
            settings=webhooks.EndpointSettings(url=url, event_types=tuple(types), **more),
            organization_id=ORGANIZATION,
            workspace_id=workspace_id,
            rules=self.settings.channel_rules,
        )
        return self.execute(command).subject, secret

    def update(self, endpoint_id: str, **settings: Any) -> int:
        """Change an endpoint; return the position."""
        chosen = webhooks.EndpointSettings(**settings)
        command = webhooks.UpdateEndpoint(
            endpoint_id, COMMAND_LINE, settings=chosen, rules=self.settings.channel_rules
        )
        return self.execute(command).position

    def rotate(self, endpoint_id: str) -> str:
        """Rotate an endpoint's secret; return the new one."""
        secret = signing.create_secret()
        self.execute(webhooks.RotateSecret(endpoint_id, COMMAND_LINE, secret=secret))
        return secret

    def recover(self, endpoint_id: str, since: datetime) -> int:
        return self.execute(
            webhooks.RecoverEndpoint(endpoint_id, COMMAND_LINE, since=since)
        ).position

    def resend(self, endpoint_id: str, event_id: str) -> int:
        return self.execute(
            webhooks.ResendDelivery(endpoint_id, COMMAND_LINE, event_id=event_id, has_delivery=True)
        ).position

    def test(self, endpoint_id: str) -> str:
        """Test an endpoint; return the id of the test's event."""
        return self.execute(webhooks.TestEndpoint(endpoint_id, COMMAND_LINE)).event_ids[0]

    def delete(self, endpoint_id: str) -> None:
        self.execute(webhooks.DeleteEndpoint(endpoint_id, COMMAND_LINE))

    def report(self, *events: dict[str, Any]) -> list[str]:
        """Report facts; return the id of each fact's first event."""
        commands = [command_of(parsed(event), COMMAND_LINE) for event in events]
        ids = []
        for outcome in self.writer.submit(commands).result(20):
            assert isinstance(outcome, Receipt), outcome
            ids.append(outcome.event_ids[0])
        return ids

    def activate(self, line: str = LINE) -> None:
        """Activate a line that takes check-ins."""
        self.report(activation(line, "capacity"))

    def check_in(self, count: int = 1, line: str = LINE) -> list[str]:
        """Report check-ins; return the ids of their events."""
        return self.report(
            *(fact("execution.checked_in", line, {"hours": 1}) for _ in range(count))
        )

    # The tables and the log.

    def deliveries(self, endpoint_id: str) -> list[Delivery]:
        """All deliveries of an endpoint, in log order."""
        return [
            Delivery(
                f"EVT-{row[0]}",
                row[1],
                row[2],
                row[3],
                list(map(json.loads, row[4] or ())),
                *row[5:],
            )
            for row in query(self.conninfo, _DELIVERIES, endpoint_id)
        ]

    def await_deliveries(
        self, endpoint_id: str, condition: Callable[[list[Delivery]], bool], seconds: float = 10.0
    ) -> list[Delivery]:
        """An endpoint's deliveries, once they satisfy a condition."""
        found: list[list[Delivery]] = []

        def is_reached() -> bool:
            found[:] = [self.deliveries(endpoint_id)]
            return condition(found[0])

        until(is_reached, "deliveries", seconds)
        return found[0]

    def await_all(
        self, endpoint_id: str, count: int, status: str = "delivered", seconds: float = 10.0
    ) -> list[Delivery]:
        """An endpoint's deliveries, once there are ``count`` of them, all in a status."""

        def done(found: list[Delivery]) -> bool:
            return len(found) == count and {d.status for d in found} <= {status}

        return self.await_deliveries(endpoint_id, done, seconds)

    def dispatch(self, endpoint_id: str) -> tuple[Any, ...]:
        """(planned, heeded, failing_since); empty until the dispatcher knows the endpoint."""
        statement = "SELECT planned, heeded, failing_since FROM ledger.dispatch"
        found = query(self.conninfo, statement + " WHERE endpoint_id = %s", endpoint_id)
        return found[0] if found else ()

    def await_applied(self, endpoint_id: str, position: int) -> None:
        """Wait for the end of a recovery: the dispatcher finds no delivery left to make due."""
        until(lambda: self.dispatch(endpoint_id)[1] == position, "the recovery's end")

    def item(self, endpoint_id: str) -> dict[str, Any]:
        """An endpoint as its owner sees it, once the view has it."""
        statement = "SELECT '{' || item || '}' FROM ledger.webhook WHERE endpoint_id = %s"
        until(lambda: query(self.conninfo, statement, endpoint_id), "the view")
        item: dict[str, Any] = json.loads(query(self.conninfo, statement, endpoint_id)[0][0])
        return item

    def topics(self, stream: str) -> list[str]:
        """The names of a stream's events."""
        statement = """SELECT topic FROM ledger.ledger_events WHERE originator_id = %s
            ORDER BY notification_id"""
        return [row[0].split("/")[0] for row in query(self.conninfo, statement, stream)]


@contextlib.contextmanager
def webhook_ledger(
    conninfo: str,
    clock: Clock | None = None,
    *,
    retries: str = QUICK,
    allow_private: bool = True,
    follow: bool = True,
    smtp_port: int | None = None,
) -> Iterator[WebhookLedger]:
    """A ``WebhookLedger`` without a dispatcher: call ``start``.

    With ``follow`` the views follow the log.
    """
    settings = Settings(
        master_key=MASTER_KEY,
        idle_sweep_seconds=3600,
        webhook_allow_private=allow_private,
        webhook_retry_seconds=retries,
        smtp_url=None if smtp_port is None else f"smtp://127.0.0.1:{smtp_port}",
        mail_from="ledger@example.com",
        mail_domains="example.org",
    )
    clock = clock or ShiftedClock()
    views = following(conninfo) if follow else contextlib.nullcontext()
    with writing(settings, conninfo, clock) as writer, views:
        ledger = WebhookLedger(conninfo, settings, writer, clock)
        try:
            yield ledger
        finally:
            ledger.stop()


def body_of(request: Request, *secrets: str) -> dict[str, Any]:
    """A delivery's body, whose signature each of these secrets must verify."""
    for secret in secrets:
        Webhook(secret).verify(request.body, dict(request.headers))
    body: dict[str, Any] = json.loads(request.body)
    assert request.headers["webhook-id"] == body["id"]
    return body


def received(requests: Sequence[Request]) -> dict[int, str]:
    """Received events without tests: sequence → event id; a sequence must name a single event."""
    found: dict[int, str] = {}
    for body in map(body_of, requests):
        if body["sequence"]:
            assert found.setdefault(body["sequence"], body["id"]) == body["id"]
    return found
