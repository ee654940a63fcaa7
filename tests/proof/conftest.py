"""A ledger for each test, which the test seals and damages."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.conftest import Databases
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied, named
from tests.support.facts import fact
from tests.support.ledger import Ledger, working
from tests.support.sealing import Node, keep_lineage, seal

_numbers = itertools.count(1)


@pytest.fixture
def ledger(conninfo: str, settings: Settings) -> Iterator[Ledger]:
    with working(conninfo, settings) as own:
        yield own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that keeps the last checkpoint."""
    return tmp_path / "sealed"


@pytest.fixture(scope="session")
def sealed_once(
    server: EmbeddedPostgres, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A line with 601 events, sealed in three parts: three tiles of leaves and one above."""
    name, folder = databases.take(), tmp_path_factory.mktemp("once") / "sealed"
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)
    with working(named(server.url, name), settings) as ledger:
        line = ledger.line("capacity")
        for count in (200, 300, 100):
            report(ledger, line, count)
            assert seal(ledger.conninfo, folder) > 0
    return name, folder


@pytest.fixture
def full(
    server: EmbeddedPostgres, sealed_once: tuple[str, Path], settings: Settings, folder: Path
) -> Iterator[Ledger]:
    """A copy of the ledger ``sealed_once``."""
    name, template = f"full_{next(_numbers)}", sealed_once[1]
    shutil.copytree(template, folder)
    with (
        copied(server.url, name, sealed_once[0]) as conninfo,
        working(conninfo, settings) as ledger,
    ):
        keep_lineage(conninfo, folder)
        yield ledger


@pytest.fixture
def a(full: Ledger, folder: Path) -> Iterator[Node]:
    """The node that has sealed the ledger so far, and has waited for the others."""
    with Node(full.conninfo, folder) as node:
        yield node


@pytest.fixture
def b(full: Ledger, tmp_path: Path) -> Iterator[Node]:
    """Another node, with an empty data directory."""
    with Node(full.conninfo, tmp_path / "b" / "sealed") as node:
        yield node


def report(ledger: Ledger, line: str, count: int) -> None:
    """Report ``count`` check-ins in one append."""
    items = ledger.report(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(count)))
    assert {item.outcome for item in items} == {"recorded"}
