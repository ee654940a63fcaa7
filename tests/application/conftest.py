"""A ledger that the tests of a module share, each with its own ids; or a ledger for one test."""

import itertools
from collections.abc import Iterator

import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.writer.writer import GROUP_FAILED
from tests.conftest import MASTER_KEY
from tests.support.databases import copied
from tests.support.ledger import Ledger, working

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def ledger(server: EmbeddedPostgres) -> Iterator[Ledger]:
    """A ledger that the module's tests share: move its clock forward only."""
    name = f"ledger_application_{next(_numbers)}"
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)
    with copied(server.url, name) as conninfo, working(conninfo, settings) as shared:
        yield shared


@pytest.fixture
def own_ledger(conninfo: str, settings: Settings) -> Iterator[Ledger]:
    """A ledger for one test, which may stop its views and read its counters."""
    with working(conninfo, settings) as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def no_group_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which a group of commands failed and was carried out one by one.

    The second attempt would hide most faults of a decision. A test in which a group fails on
    purpose clears the captured log.
    """
    yield
    assert GROUP_FAILED not in [record.getMessage() for record in caplog.get_records("call")]
