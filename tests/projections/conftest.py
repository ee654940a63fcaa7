"""Each test has its own ledger, because it moves the clock on which metrics depend."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ledger.app.settings import Settings
from tests.support.ledger import Ledger, working
from tests.support.service import Clock

WEDNESDAY = datetime(2026, 4, 15, 12, 0, tzinfo=UTC)


@pytest.fixture
def ledger(conninfo: str, settings: Settings) -> Iterator[Ledger]:
    with working(conninfo, settings, Clock(WEDNESDAY)) as ledger:
        yield ledger
