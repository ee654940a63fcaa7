"""From which moment a ``ledger serve`` listens, and who gets a port that two of them want."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ledger.engine.postgres import locks
from tests.support.data_dirs import MASTER_KEY
from tests.support.served import Served, free_port, is_refused
from tests.support.views import until

_WAITING = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted
"""


@pytest.fixture
def starts(conninfo: str, tmp_path: Path) -> Iterator[list[Served]]:
    """Two services of one port, to be started; they end with the test."""
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    port = free_port()
    services = [Served(tmp_path / name, port, 1, **environment) for name in ("one", "two")]
    yield services
    for service in services:
        if hasattr(service, "process"):
            service.end()


@contextlib.contextmanager
def held_up(conninfo: str, starting: list[Served]) -> Iterator[None]:
    """The services have begun to start, and go on after the block."""
    lock = (locks.MIGRATIONS,)
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", lock)
        for service in starting:
            service.begin()
        wanted = (len(starting),)
        until(lambda: other.execute(_WAITING, lock).fetchone() == wanted, "the starts to wait")
        yield


def test_a_starting_service_refuses_connections_so_that_a_proxy_asks_another_node(
    conninfo: str, starts: list[Served]
) -> None:
    """Connections once waited for the end of the start, behind a proxy's back."""
    service = starts[0]
    with held_up(conninfo, [service]):
        assert is_refused(service)
    service.await_ready()
    assert not is_refused(service)


def test_of_two_services_that_start_at_once_at_one_port_one_serves_and_the_other_says_why_not(
    conninfo: str, starts: list[Served]
) -> None:
    """Both bind the port. The second one once said "Serving on" for the first."""
    with held_up(conninfo, starts):
        pass
    until(lambda: any(one.process.poll() is not None for one in starts), "an end", 40.0)
    serving, refused = sorted(starts, key=lambda one: one.process.poll() is not None)
    serving.await_ready()
    assert refused.process.wait(1) == 1
    last = refused.output.splitlines()[-1]
    assert last == f"ledger: Cannot listen on 127.0.0.1:{serving.port}: Address already in use."
    assert "Serving on" not in refused.output
    assert refused.processes() == []
