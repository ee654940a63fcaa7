"""``ledger serve``: one process that owns PostgreSQL, the API workers and the loops.

    supervisor (this) ── postgres            the embedded server, when no URL is set
                      ├─ api worker × N      uvicorn over one shared listening socket
                      ├─ loops               projector, sweeper: beside the workers, since they
                      │                      would fight with them for the interpreter lock
                      └─ dispatcher          sends webhooks: beside the loops, for that reason too

Whatever dies is started again. When the supervisor dies, by any signal, so do all of them: the
workers watch its sentinel, PostgreSQL has the kernel's parent-death signal.
"""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead

from ledger.bootstrap import (
    ConfigurationError,
    Dispatching,
    Loops,
    create_api,
    prepare_database,
)
from ledger.processes import (
    allow_many_connections,
    calm_collector,
    end_with_parent,
    show_name,
)
from ledger.settings import Settings
from ledger.store.embedded import EmbeddedPostgres

_logger = logging.getLogger(__name__)

_GRACE_SECONDS = 20
"""Accepted requests may finish within this time after a signal to stop."""

_UNTAKEN_SECONDS = 10
"""A connection whose client takes nothing of what was sent for so long is cut."""

_RESTART_SECONDS = 1.0
"""A child that dies is not started again sooner than this after its last start."""

Announce = Callable[[str], None]


class _Child:
    """A process that is kept running."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        self._name, self._target, self._arguments = name, target, arguments
        self._started_at = 0.0
        self.process: BaseProcess | None = None

    def ensure_running(self) -> None:
        """Start it, or start it again; says so when it had died."""
        if self.process is not None and self.process.is_alive():
            return
        if time.monotonic() - self._started_at < _RESTART_SECONDS:
            return
        if self.process is not None:
            _logger.error("%s ended (%s); starting it again", self._name, self.process.exitcode)
            # What it counted as open is not any more.
            mark_process_dead(self.process.pid)  # type: ignore[no-untyped-call]
        self._started_at = time.monotonic()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(
            target=self._target, args=self._arguments, name=f"ledger-{self._name}"
        )
        self.process.start()

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.process is not None and self.process.is_alive():
            self.process.terminate()

    def join(self, deadline: float) -> None:
        """Wait for it until the deadline, then no longer ask."""
        if self.process is not None:
            self.process.join(max(0.0, deadline - time.monotonic()))
            if self.process.is_alive():
                self.process.kill()
                self.process.join()


def serve(settings: Settings, host: str, port: int, workers: int, announce: Announce) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises ConfigurationError, EmbeddedPostgresError, SchemaError or psycopg.OperationalError,
    each with one clear line, when it cannot start.
    """
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with _listening(host, port) as listener:
        bound = listener.getsockname()[1]
        postgres = None
        if settings.database_url is None:
            postgres = EmbeddedPostgres(settings.data_dir, purpose="serve", announce=announce)
            postgres.start()
        try:
            conninfo = settings.database_url or (postgres.url if postgres else "")
            prepare_database(settings, conninfo)
            children = [
                _Child("loops", run_loops, settings, conninfo),
                _Child("dispatcher", run_dispatcher, settings, conninfo),
            ]
            children += [
                _Child(f"api-{n + 1}", run_api, settings, conninfo, listener)
                for n in range(workers)
            ]
            with _metrics_folder(settings.data_dir.absolute() / f"metrics-{bound}"):
                _supervise(children, postgres, stopping, f"http://{host}:{bound}", announce)
        finally:
            if postgres is not None:
                postgres.stop()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit it. Else one whose client takes nothing any more, or is gone
            # without a word, stays for ever, even when closed here: what was written waits.
            milliseconds = int(_UNTAKEN_SECONDS * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {host}:{port}: {error.strerror}."
            ) from error
        listener.listen(2048)
        yield listener


@contextlib.contextmanager
def _metrics_folder(folder: Path) -> Iterator[None]:
    """Where the workers add up their metrics (prometheus-client's multiprocess mode).

    A fixed place, emptied at start: a run that was killed leaves nothing to be counted again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _supervise(
    children: list[_Child],
    postgres: EmbeddedPostgres | None,
    stopping: threading.Event,
    address: str,
    announce: Announce,
) -> None:
    """Keep everything running until told to stop; then end the workers before the database."""
    ready = False
    try:
        while not stopping.is_set():
            if postgres is not None and postgres.poll() is not None:
                _logger.error("PostgreSQL ended; starting it again")
                postgres.start()
            for child in children:
                child.ensure_running()
            if not ready and _is_ready(address):
                ready = True
                announce(f"Serving on {address}")
            sentinels = [c.process.sentinel for c in children if c.process is not None]
            multiprocessing.connection.wait(sentinels, timeout=0.25 if ready else 0.05)
    finally:
        # The API workers first: what they have accepted is answered once the loops have seen it.
        deadline = time.monotonic() + _GRACE_SECONDS
        loops, *workers = children
        for group in (workers, [loops]):
            for child in group:
                child.terminate()
            for child in group:
                child.join(deadline)


def _is_ready(address: str) -> bool:
    # A wildcard address is reached through loopback.
    url = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//:::", "//[::1]:") + "/readyz"
    try:
        # Without the environment's proxy: this is our own loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def run_api(settings: Settings, conninfo: str, listener: socket.socket) -> None:
    """One API worker's process."""
    show_name()
    _configure_logging()
    end_with_parent()
    config = uvicorn.Config(
        create_api(settings, conninfo),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS - 5,
    )
    calm_collector()
    uvicorn.Server(config).run(sockets=[listener])


def run_loops(settings: Settings, conninfo: str) -> None:
    """The loops' process."""
    _run_until_told(Loops, settings, conninfo)


def run_dispatcher(settings: Settings, conninfo: str) -> None:
    """The dispatcher's process."""
    allow_many_connections()
    _run_until_told(Dispatching, settings, conninfo)


def _run_until_told(
    work: type[Loops] | type[Dispatching], settings: Settings, conninfo: str
) -> None:
    """Start something, and stop it on a signal."""
    show_name()
    _configure_logging()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    end_with_parent()
    running = work(settings, conninfo)
    running.start()
    calm_collector()
    stopping.wait()
    running.stop()


def _configure_logging() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(processName)s %(message)s"
    )
    for noisy in ("psycopg.pool", "psycopg"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
