"""One ledger a module, where tests keep apart by using ids of their own; or one of its own."""

import itertools
from collections.abc import Iterator

import pytest

from ledger.postgres.embedded import EmbeddedPostgres
from ledger.settings import Settings
from tests.conftest import MASTER_KEY
from tests.support.databases import copied
from tests.support.ledger import Ledger, working

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def ledger(server: EmbeddedPostgres) -> Iterator[Ledger]:
    """Shared by a module: move its clock forward only."""
    name = f"ledger_application_{next(_numbers)}"
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)
    with copied(server.url, name) as conninfo, working(conninfo, settings) as shared:
        yield shared


@pytest.fixture
def own_ledger(conninfo: str, settings: Settings) -> Iterator[Ledger]:
    """Nobody else's: its views may be stopped, its counters looked at."""
    with working(conninfo, settings) as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def no_group_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A group that breaks is redone one by one, which hides most faults: no decision leans on it.

    A test that breaks one on purpose clears what was logged.
    """
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    assert not any(message.startswith("a group failed") for message in said)
