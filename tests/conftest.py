"""Every test uses a real PostgreSQL: one embedded server per session, and one database per test.

The database is a copy of a migrated template. A thread makes the copies ahead, while earlier tests
run: a copy takes 30 ms in memory, and 250 ms on a disk. This server does not wait for the disk. The
tests that kill processes start servers of their own, on copies of a whole data directory
(``tests/support/data_dirs.py``). Services and commands are forks (``tests/support/forked.py``).
"""

import contextlib
import functools
import gc
import itertools
import os
import queue
import signal
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from xdist.scheduler import LoadFileScheduling

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.reads import positions
from tests.support.data_dirs import QUICK, copy_of, made_once
from tests.support.databases import TEMPLATE, copied, copy, drop, execute, named
from tests.support.edge import Edge, edge_of
from tests.support.embedded import folder_in_tmp, memory, remove_databases_elsewhere, served
from tests.support.programs import program_in
from tests.support.rebuilding import patient_rebuilder

_numbers = itertools.count(1)

MASTER_KEY = "0f" * 32

if (_memory := memory()) is not None and "PYTEST_DEBUG_TEMPROOT" not in os.environ:
    # A new database of 40 MB costs 0.35 s of processor time in memory, and 1 s on a disk. pytest's
    # own folders stay on the disk, since pytest keeps those of the last three sessions.
    os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.gettempdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(_memory)

# A shell that runs the tests in the background, and nohup, have these ignored, which all processes
# that the tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Other test processes may take a processor away for longer than any deadline of an example.
hypothesis.settings.register_profile("beside others", deadline=None)
hypothesis.settings.load_profile("beside others")

# Each test process loads all tests: half a second of collections would find nothing meanwhile.
gc.disable()

collect_ignore = [] if find_spec("playwright") else ["browser"]
"""Only `make browser` installs the packages that the browser tests import."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-rounds", type=int, default=3, help="how often crash tests kill")


LONGEST = (
    "api/test_vanished_database.py",
    "standby",
    "test_pages.py",
    "cli/test_backup.py",
    "crash/test_serve.py",
    "cli/test_projections.py",
    "cli/test_loading.py",
    "sealing/test_nightly.py",
    "api/test_failing_appends.py",
    "views/test_outdated.py",
    "crash/test_privileges.py",
    "views/test_rebuild.py",
    "postgres/test_door_lost.py",
    "postgres/test_embedded.py",
    "test_demo.py",
    "api/test_waiting_plans.py",
    "crash/test_kills.py",
    "crash/test_keyed_kills.py",
    "crash/test_statements_killed.py",
    "api/test_openapi.py",
    "api/test_feed_plans.py",
    "postgres/test_door.py",
    "api/test_taken_back.py",
    "feed/test_dispatching.py",
    "cli/test_standard_streams.py",
    "api/test_metrics.py",
    "cli/test_demo_address.py",
)
"""The files, and the folder, that take longest, waiting included; the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no test process is alone with one at the end."""
    items.sort(key=lambda item: _turn(item.path))


@functools.cache
def _turn(path: Path) -> int:
    place = path.relative_to(Path(__file__).parent)
    names = {path.as_posix() for path in (place, *place.parents)}
    return next((turn for turn, name in enumerate(LONGEST) if name in names), len(LONGEST))


class StandbyTogether(LoadFileScheduling):
    """A file's tests stay in one process, and all that share the cluster of ``standby``."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/standby" if file.startswith("tests/standby/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """With ``--dist loadfile``, start the cluster of ``standby`` in one process only."""
    return StandbyTogether(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Exclude the tests and all loaded code from garbage collection, which would revisit them."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def nothing_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the end, remove the databases of the tests' data directories that lie outside of them.

    As root, a data directory keeps its database in a folder of the system.
    """
    yield
    remove_databases_elsewhere(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a new ledger, to be copied; all test processes share it."""
    own = tmp_path_factory.getbasetemp()
    return made_once(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own, MASTER_KEY)


@pytest.fixture(scope="session")
def server(template: Path) -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL, with a migrated template.

    Every user may enter its folder, because under root the server runs as another user.
    """
    quick = QUICK | {"synchronous_commit": "off"}  # a standby would get the WAL late
    with (
        folder_in_tmp(0o755, memory()) as folder,
        served(copy_of(template, folder / "data"), purpose="tests", settings=quick) as postgres,
    ):
        others = named(postgres.url, "postgres")
        execute(others, f"ALTER DATABASE ledger RENAME TO {TEMPLATE}")
        execute(others, "CREATE DATABASE ledger")
        yield postgres


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter. (pytest's own folders are closed to other users.)"""
    with folder_in_tmp(0o755) as folder:
        yield folder


@pytest.fixture(scope="session")
def program() -> Iterator[Path]:
    """A program ``ledger`` for shells and pipes."""
    with folder_in_tmp(0o755, memory()) as folder, program_in(folder) as program:
        yield program


@pytest.fixture
def data_dir(folder: Path, template: Path) -> Path:
    """A data directory with a new ledger, whose master key is ``MASTER_KEY``."""
    return copy_of(template, folder / "data")


class Databases:
    """Copies of the template; a thread makes the next copies."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ready: queue.Queue[str | Exception] = queue.Queue(maxsize=2)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._make, name="databases", daemon=True)
        self._thread.start()

    def take(self) -> str:
        """Return the name of a copy that no test has used."""
        made = self._ready.get(timeout=60)
        if isinstance(made, Exception):
            raise made
        return made

    def stop(self) -> None:
        """Make no more copies."""
        self._stopping.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.1)

    def _make(self) -> None:
        while not self._stopping.is_set():
            name = f"ledger_{next(_numbers)}"
            try:
                copy(self._url, name)
            except psycopg.Error as error:
                self._ready.put(error)
                return
            self._ready.put(name)


@pytest.fixture(scope="session")
def databases(server: EmbeddedPostgres) -> Iterator[Databases]:
    """Databases for the session's tests."""
    made = Databases(server.url)
    yield made
    made.stop()


@pytest.fixture
def conninfo(server: EmbeddedPostgres, databases: Databases) -> Iterator[str]:
    """A fresh, migrated database."""
    name = databases.take()
    yield named(server.url, name)
    drop(server.url, name)


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """A running service with a database of its own, for the tests of one module."""
    name = "edge_" + request.module.__name__.rsplit(".", 1)[-1]
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, watch_seconds=3600)
    with copied(server.url, name) as conninfo, edge_of(settings, conninfo) as edge:
        yield edge


@pytest.fixture
def waits_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests wait for views without end, so that a request that waits in vain hangs the test.

    Use it with a service that the test itself starts. A shared service would keep the timer of this
    test, and the requests of later tests would wait without end.
    """
    monkeypatch.setattr(positions, "WAIT_SECONDS", 3600.0)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """The event that lets a service, which the test starts, go on to build a view."""
    with patient_rebuilder() as may_go_on:
        yield may_go_on


@pytest.fixture
def settings() -> Settings:
    """Settings that touch no file."""
    return Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, watch_seconds=3600)
