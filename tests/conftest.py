"""Every test has a real PostgreSQL: one embedded server a session, a database of its own a test.

The database is a copy of a migrated template, so that it costs milliseconds. The server here does
not wait for the disk; the tests that kill things start servers of their own, which do.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ledger.bootstrap import prepare_database
from ledger.settings import Settings
from ledger.store.embedded import EmbeddedPostgres

_numbers = itertools.count(1)

MASTER_KEY = "0f" * 32


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-rounds", type=int, default=5, help="how often crash tests kill")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL, with a migrated template."""
    folder: Path = tmp_path_factory.mktemp("postgres")
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    postgres = EmbeddedPostgres(folder / "data", purpose="tests", settings=quick)
    postgres.start()
    try:
        _execute(postgres.url, "CREATE DATABASE ledger_template")
        prepare_database(Settings(master_key=MASTER_KEY), _named(postgres.url, "ledger_template"))
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
