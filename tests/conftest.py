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
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from xdist.scheduler import LoadFileScheduling

from ledger.app.composition.writing import create_writer
from ledger.app.settings import Settings
from ledger.engine.log.event_log import Log
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.reads import positions
from ledger.engine.writer.writer import GROUP_FAILED, Writer
from tests.support.audits import Tenant
from tests.support.data_dirs import MASTER_KEY, QUICK, copy_of, made_once
from tests.support.databases import TEMPLATE, copied, copy, drop, execute, named
from tests.support.edge import Edge, edge_of
from tests.support.embedded import folder_in_tmp, memory, remove_databases_elsewhere, served
from tests.support.ledger import Ledger, working
from tests.support.openid import Company, OpenIdProvider, signing_in
from tests.support.programs import program_in
from tests.support.racing_writers import running_writer
from tests.support.rebuilding import patient_rebuilder
from tests.support.visitor import Visitor, visitor
from tests.support.watches import Watcher
from tests.support.webhook_api import Hooks, serving_webhooks

_numbers = itertools.count(1)

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
    "engine/http/test_vanished_database.py",
    "whole/standby",
    "whole/test_pages.py",
    "app/cli/test_backup.py",
    "whole/crash/test_serve.py",
    "app/cli/test_projections.py",
    "app/cli/test_loading.py",
    "proof/test_nightly.py",
    "engine/http/test_failing_appends.py",
    "engine/views/test_outdated.py",
    "whole/crash/test_privileges.py",
    "engine/views/test_rebuild.py",
    "engine/postgres/test_read_pool_lost.py",
    "engine/postgres/test_embedded.py",
    "whole/test_demo.py",
    "engine/http/test_waiting_plans.py",
    "whole/crash/test_kills.py",
    "whole/crash/test_keyed_kills.py",
    "whole/crash/test_statements_killed.py",
    "app/test_openapi.py",
    "feed/test_feed_plans.py",
    "engine/postgres/test_read_pool.py",
    "engine/http/test_taken_back.py",
    "webhooks/test_dispatching.py",
    "app/cli/test_standard_streams.py",
    "app/test_metrics.py",
    "app/cli/test_demo_address.py",
)
"""The files, and the folder, that take longest, waiting included; the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no test process is alone with one at the end."""
    items.sort(key=lambda item: _rank(item.path))


@functools.cache
def _rank(path: Path) -> int:
    relative = path.relative_to(Path(__file__).parent)
    names = {path.as_posix() for path in (relative, *relative.parents)}
    return next((rank for rank, name in enumerate(LONGEST) if name in names), len(LONGEST))


class StandbyTogether(LoadFileScheduling):
    """A file's tests stay in one process, and all that share the cluster of ``standby``."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/whole/standby" if file.startswith("tests/whole/standby/") else file


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


@pytest.fixture(scope="module")
def ledger(server: EmbeddedPostgres) -> Iterator[Ledger]:
    """A ledger below HTTP that the module's tests share: move its clock forward only."""
    name = f"ledger_of_module_{next(_numbers)}"
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)
    with copied(server.url, name) as conninfo, working(conninfo, settings) as shared:
        yield shared


@pytest.fixture
def own_ledger(conninfo: str, settings: Settings) -> Iterator[Ledger]:
    """A ledger for one test, which may stop its views, move its clock and read its counters."""
    with working(conninfo, settings) as own:
        yield own


@pytest.fixture
def another(own_ledger: Ledger) -> Iterator[Writer]:
    """The writer of another process, whose memory is empty at first."""
    log = Log(own_ledger.conninfo)
    writer = create_writer(own_ledger.settings, log, own_ledger.clock)
    writer.start()
    yield writer
    writer.stop()
    log.close()


@pytest.fixture
def writer(conninfo: str) -> Iterator[Writer]:
    """A writer alone, whose lines go idle after an hour."""
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as running:
        yield running


@pytest.fixture(autouse=True)
def no_group_fails(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Fail a test of a ledger in which a group of commands failed and was carried out one by one.

    The second attempt would hide most faults of a decision. A test in which a group fails on
    purpose clears the captured log.
    """
    yield
    if not {"ledger", "own_ledger"}.isdisjoint(request.fixturenames):
        messages = [record.getMessage() for record in caplog.get_records("call")]
        assert GROUP_FAILED not in messages


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    return Tenant(edge)


@pytest.fixture
def watcher(edge: Edge) -> Watcher:
    return Watcher(edge)


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Hooks]:
    """A running service that sends webhooks, with a database of its own."""
    with serving_webhooks(server, "hooks_" + request.module.__name__.rsplit(".", 1)[-1]) as hooks:
        yield hooks


@pytest.fixture
def guest(hooks: Hooks) -> Visitor:
    """A visitor who manages the organization's webhooks and reads its events."""
    return visitor(hooks.edge, "read", "webhooks:manage")


@pytest.fixture(scope="module")
def openid() -> Iterator[OpenIdProvider]:
    """The module's provider."""
    with OpenIdProvider() as openid:
        yield openid


@pytest.fixture(scope="module")
def company_of_module(
    server: EmbeddedPostgres, request: pytest.FixtureRequest, openid: OpenIdProvider
) -> Iterator[Company]:
    """A running service that trusts the module's provider."""
    name = "company_" + request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_")
    with signing_in(server, name, openid) as company:
        yield company


@pytest.fixture
def company(company_of_module: Company, openid: OpenIdProvider) -> Company:
    """The module's service; the provider behaves well again."""
    openid.reset()
    openid.clock = company_of_module.clock
    return company_of_module
