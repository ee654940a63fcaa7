"""``ledger serve``: one process that owns PostgreSQL, the API workers and all loops.

    supervisor (this) ── postgres            the embedded server, when no URL is set
                      ├─ api worker × N      uvicorn over one shared listening socket
                      ├─ loops               projector, rebuilder, sweeper, lease watch,
                      │                      housekeeper, log check: not in the workers, which would
                      │                      wait for the interpreter lock
                      ├─ dispatcher          sends webhooks: beside the loops for the same reason
                      └─ sealer              seals the log: hashing would hold up the loops, too

The role of a node says which of them run there (``roles.py``): an ``api`` node has no loops and no
dispatcher, and its sealer never leads; a ``loops`` node has one worker, which answers probes.

A process that dies is started again. If a child cannot be started for a minute, the service ends,
so that its operator learns of it. When the supervisor dies, by any signal, all the others die, too:
the children watch its lifeline, and PostgreSQL has the kernel's parent-death signal.

The children are forked. An interpreter takes half a second to load their code, most of a start if
each child did so. Therefore the supervisor loads the code once, on a thread that has ended before
the first fork (PostgreSQL starts meanwhile), and the children share the memory. Forking is safe as
long as the supervisor, from its first child on, has only one thread and no database connection.
"""

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_bool, c_char
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, ModuleType

import psycopg
from eventsourcing.persistence import InterfaceError, OperationalError

from ledger.log.nodes import node_id_in
from ledger.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from ledger.postgres.embedded.account import Account
from ledger.postgres.leadership import at_node
from ledger.service.address import fetched, keeping_address, reachable
from ledger.service.composition.database import ConfigurationError, with_master_key
from ledger.service.composition.reading import find_all, prepare_all
from ledger.service.metrics import count_restart, expect_restarts, forget_metrics, metrics_folder
from ledger.service.privileges import become, make_data_dir, unprivileged, user_of_root
from ledger.service.processes import GRACE_SECONDS, Lifeline, show_name
from ledger.service.roles import Role, leads, serves
from ledger.settings import Settings
from ledger.telemetry.announcing import Announcing
from ledger.telemetry.repetitions import Repetitions
from ledger.telemetry.setup import configure_logging

_logger = logging.getLogger(__name__)

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A closed terminal sends SIGHUP. ``nohup`` has that signal ignored, and it stays ignored."""

_UNTAKEN_SECONDS = 10
"""A connection whose client acknowledges no sent data for so long is closed."""

_RESTART_SECONDS = 1.0
"""The least time between two starts of a child, and between two failed starts of PostgreSQL."""

START_SECONDS = 60.0
"""After so long of failed attempts to start a child the service ends."""

_LONGEST_REASON = 500
"""Bytes of the reason for which a child ended."""

_FORESEEN = (psycopg.OperationalError, OperationalError, InterfaceError, OSError)
"""The errors by which a child ends while the database is away: told in a line, not as bugs."""

Announce = Callable[[str], None]
ChildMain = Callable[[Callable[[], None]], None]


class _Child:
    """A process that is kept running.

    ``let_go`` closes the inherited files that the child must not hold. ``run`` calls its argument
    once the child has started. ``account`` is the user of the child; None: the supervisor's.
    """

    def __init__(
        self,
        name: str,
        run: ChildMain,
        let_go: Sequence[Callable[[], None]],
        account: Account | None,
    ) -> None:
        self.name, self._run, self._let_go, self._account = name, run, let_go, account
        self._started_at = 0.0
        self._trying_since: float | None = None
        """When the first of the failed attempts to start the child began."""
        # Shared memory, without a lock that a killed process could leave locked.
        self._has_started = multiprocessing.RawValue(c_bool, False)
        self._reason = multiprocessing.RawArray(c_char, _LONGEST_REASON)
        """Why the child ended. The supervisor tells it: each attempt to start is a new process,
        which cannot know that the same was told a second before."""
        self.process: BaseProcess | None = None

    def ensure_running(self) -> None:
        """Start the child, unless it runs; log its death if it had died.

        Raises ConfigurationError if no start has succeeded for too long.
        """
        if self._has_started.value:
            self._trying_since = None
        since = self._trying_since
        if since is not None and time.monotonic() - since > START_SECONDS:
            raise ConfigurationError(f"{self.name} could not be started for {START_SECONDS:.0f} s.")
        if self.process is not None and self.process.is_alive():
            return
        if time.monotonic() - self._started_at < _RESTART_SECONDS:
            return
        if self.process is not None:
            reason = self._reason.value.decode(errors="replace") or f"exit {self.process.exitcode}"
            why = ChildProcessError(reason)  # as an error: the name alone tells faults apart
            _logger.error("%s ended; starting it again: %s", self.name, why)
            count_restart(self.name)
            forget_metrics(self.process.pid)
            self._reason.value = b""
        self._started_at = time.monotonic()
        if self._trying_since is None:
            self._trying_since = self._started_at
        self._has_started.value = False
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._live, name=f"ledger-{self.name}")
        # A signal to stop must wait until the child has dropped the supervisor's handlers, which
        # would swallow it in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def _live(self) -> None:
        # A terminal sends its signals to every process of its session. Only the supervisor should
        # get them, since it ends the loops after the workers.
        os.setsid()
        for number in _STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        for let_go in self._let_go:
            let_go()
        show_name()
        if self._account is not None:
            become(self._account)
        try:
            self._run(self._tell_started)
        except _FORESEEN as error:
            self._reason.value = str(error).strip().partition("\n")[0].encode()[:_LONGEST_REASON]
            sys.exit(1)
        except Exception:
            _logger.exception("%s failed", self.name)
            sys.exit(1)

    def _tell_started(self) -> None:
        self._has_started.value = True

    def terminate(self) -> None:
        """Ask the child to stop."""
        if self.process is not None and self.process.is_alive():
            self.process.terminate()

    def join(self, deadline: float) -> None:
        """Wait for the child's end until the deadline, then kill it."""
        if self.process is not None:
            self.process.join(max(0.0, deadline - time.monotonic()))
            if self.process.is_alive():
                self.process.kill()
                self.process.join()


class _Database:
    """The embedded PostgreSQL, kept running."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._failed_at = 0.0

    def ensure_running(self) -> None:
        """Start PostgreSQL again if it has ended.

        A failing start, as on a full disk, is tried again until it succeeds. Requests are answered
        503 meanwhile.
        """
        if self._postgres.poll() is None or time.monotonic() - self._failed_at < _RESTART_SECONDS:
            return
        _logger.error("PostgreSQL ended; starting it again")
        count_restart("postgres")
        try:
            self._postgres.start()
        except EmbeddedPostgresError as error:
            _logger.error("%s", error)
            self._failed_at = time.monotonic()


def serve(
    settings: Settings,
    host: str,
    port: int,
    workers: int,
    announce: Announce,
    *,
    role: Role = "all",
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. The role says which processes run here.

    With the role ``read`` only API workers run, which write nothing (contract, Several nodes).

    Raises ConfigurationError, EmbeddedPostgresError, SchemaError or psycopg.OperationalError, each
    with one clear line, if the service cannot start, or a child cannot be started again.
    """
    only_reads = role == "read"
    if only_reads and settings.database_url is None:
        raise ConfigurationError("A read node needs a database of others: set LEDGER_DATABASE_URL.")
    stopping = _set_by_signals()
    repetitions = configure_logging(settings.log_format)
    announce = Announcing(announce, settings.log_format)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(host, port))
        port = listener.getsockname()[1]
        postgres = None
        if settings.database_url is None:
            postgres = EmbeddedPostgres(settings.data_dir, purpose="serve", announce=announce)
            stack.callback(postgres.stop)
            postgres.own()
        account = user_of_root(postgres.account if postgres is not None else None)
        make_data_dir(settings.data_dir, account)
        node_id_in(settings.data_dir)
        metrics = stack.enter_context(metrics_folder(settings.data_dir.absolute(), port))
        with ThreadPoolExecutor(1) as beside:
            loading = beside.submit(_load)
            if postgres is not None:
                postgres.start()
                _tell_of_the_key(settings, postgres.folder, announce)
            conninfo = settings.database_url or (postgres.url if postgres else "")
            begin = find_all if only_reads else prepare_all
            conninfo, reading = begin(settings, conninfo, announce)
        code = loading.result()
        written = metrics, code.witness_folder(settings)
        account = unprivileged(account, written, (conninfo, reading), announce)
        if account is not None:
            settings = with_master_key(settings)
        at_this_node = at_node(conninfo, node_id_in(settings.data_dir))
        lifeline = Lifeline()
        let_go = [lifeline.watch, *([postgres.let_go] if postgres is not None else [])]
        # Nobody but probes asks a node that does not serve.
        workers = workers if serves(role) else 1
        board = code.create_board(workers)
        loops: list[tuple[str, Callable[..., None]]] = [
            ("loops", code.run_loops),
            ("dispatcher", code.run_dispatcher),
        ]
        if not leads(role):
            loops = []
        if not only_reads:
            loops.append(("sealer", partial(code.run_sealer, role)))
        servers = [f"api-{n + 1}" for n in range(workers)]
        expect_restarts([*(name for name, _ in loops), *servers])
        run_api = partial(code.run_api, settings, conninfo, reading, listener, role, board)
        if only_reads:
            run_api = partial(code.run_reading_api, settings, reading, listener)
        children = [
            _Child(name, partial(run, settings, at_this_node), [*let_go, listener.close], account)
            for name, run in loops
        ]
        children += [
            _Child(name, run_api if only_reads else partial(run_api, n), let_go, account)
            for n, name in enumerate(servers)
        ]
        database = _Database(postgres) if postgres is not None else None
        address = address_of(host, port)
        stack.enter_context(keeping_address(settings.data_dir, address))
        try:
            root_path = settings.root_path
            _supervise(children, database, stopping, address, announce, root_path, repetitions)
        finally:
            listener.close()  # a new client would otherwise wait for workers that accept no more
            _end(children)


def _set_by_signals() -> threading.Event:
    """An event that is set by a signal to stop. An ignored SIGHUP (nohup) stays ignored."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in _STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    return stopping


def _tell_of_the_key(settings: Settings, folder: Path, announce: Announce) -> None:
    """Say that the master key lies beside the database's files, where somebody chose the folder.

    A copy of such a folder, as in a backup, opens every run that was not erased.
    """
    key = settings.key_file
    is_chosen = settings.data_dir != Settings.model_fields["data_dir"].default
    if is_chosen and key is not None and key.absolute().is_relative_to(folder.absolute()):
        announce(
            f"The master key {key} lies beside the database's files, so whoever copies the folder"
            " can read every run: LEDGER_MASTER_KEY_FILE names another place."
        )


def _load() -> ModuleType:
    """Load the children's code, out of reach of the garbage collector.

    The metrics folder must exist before: prometheus-client looks for it while being loaded.
    """
    gc.disable()
    from ledger.service import workers

    workers.make_ready()
    gc.freeze()
    gc.enable()
    return workers


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at the address, which listens once the first worker takes requests.

    Until then connections are refused: they would wait for the start, behind a proxy's back.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit this option. Without it, a connection whose client reads no more,
            # or has vanished, would stay for ever, even once closed here: written data waits.
            milliseconds = int(_UNTAKEN_SECONDS * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {host}:{port}: {error.strerror}."
            ) from error
        yield listener


def _supervise(
    children: list[_Child],
    database: _Database | None,
    stopping: threading.Event,
    address: str,
    announce: Announcing,
    root_path: str,
    repetitions: Repetitions,
) -> None:
    """Keep everything running until told to stop."""
    ready = False
    while not stopping.is_set():
        repetitions.tell_due()
        if database is not None:
            database.ensure_running()
        for child in children:
            child.ensure_running()
        if not ready and _is_ready(address):
            ready = True
            announce(f"Serving on {address}{root_path}")
            announce.begin_logging()
        sentinels = [c.process.sentinel for c in children if c.process is not None]
        multiprocessing.connection.wait(sentinels, timeout=0.25 if ready else 0.05)


def _end(children: list[_Child]) -> None:
    """End all children, the loops last: accepted requests are answered once views follow."""
    deadline = time.monotonic() + GRACE_SECONDS
    loops = [child for child in children if child.name == "loops"]
    others = [child for child in children if child.name != "loops"]
    for group in (others, loops):
        for child in group:
            child.terminate()
        for child in group:
            child.join(deadline)


def address_of(host: str, port: int) -> str:
    """The address for a browser of the service that listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_ready(address: str) -> bool:
    own = reachable(address)
    return own is not None and fetched(f"{own}/readyz", 1.0) is not None
