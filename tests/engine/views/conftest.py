"""Copies of a ledger with a random workload."""

import itertools
from collections.abc import Iterator

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.databases import copied
from tests.support.rebuilding import work

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def worked_once(server: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database with a random workload that every view has folded."""
    name = "worked_once"
    with copied(server.url, name) as conninfo:
        work(conninfo)
        yield name


@pytest.fixture
def worked(server: EmbeddedPostgres, worked_once: str) -> Iterator[str]:
    """A copy of the database ``worked_once``, for one test."""
    with copied(server.url, f"worked_{next(_numbers)}", worked_once) as conninfo:
        yield conninfo
