"""Every test has a real PostgreSQL: one embedded server a session, a database of its own a test.

The database is a copy of a migrated template, so that it costs milliseconds. The server here does
not wait for the disk; the tests that kill things start servers of their own, which do.
"""

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from ledger.bootstrap import prepare_database
from ledger.settings import Settings
from ledger.store.embedded import EmbeddedPostgres
from tests.support.embedded import folder_in_tmp

_numbers = itertools.count(1)

MASTER_KEY = "0f" * 32


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-rounds", type=int, default=5, help="how often crash tests kill")


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL, with a migrated template.

    In a folder that everyone may enter: as root the server runs as another user.
    """
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    with folder_in_tmp(0o755) as folder:
        postgres = EmbeddedPostgres(folder / "data", purpose="tests", settings=quick)
        postgres.start()
        try:
            _execute(postgres.url, "CREATE DATABASE ledger_template")
            template = _named(postgres.url, "ledger_template")
            prepare_database(Settings(master_key=MASTER_KEY), template)
            yield postgres
        finally:
            postgres.stop()


@pytest.fixture
def conninfo(server: EmbeddedPostgres) -> Iterator[str]:
    """A fresh, migrated database."""
    name = f"ledger_{next(_numbers)}"
    _execute(server.url, f"CREATE DATABASE {name} TEMPLATE ledger_template STRATEGY FILE_COPY")
    yield _named(server.url, name)
    _execute(server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings() -> Settings:
    """Settings that touch no file."""
    return Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)


def _named(url: str, database: str) -> str:
    return url.replace("/ledger?", f"/{database}?")


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())
