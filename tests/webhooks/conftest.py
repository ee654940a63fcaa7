"""Ledgers with a dispatcher."""

from collections.abc import Iterator

import pytest

from tests.support.alerts import Alarms, alarms
from tests.support.webhooks import WebhookLedger, webhook_ledger


@pytest.fixture
def ledger(conninfo: str) -> Iterator[WebhookLedger]:
    """A ledger with a line, and a dispatcher that does not run yet."""
    with webhook_ledger(conninfo) as ledger:
        ledger.activate()
        yield ledger


@pytest.fixture
def alarm(conninfo: str) -> Iterator[Alarms]:
    with webhook_ledger(conninfo) as ledger, alarms(ledger) as found:
        yield found
