"""The server's process: `postgres` in the foreground, as a direct child of its owner."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import psycopg

from ledger.engine.postgres.embedded.account import EmbeddedPostgresError, environment, one_line
from ledger.engine.postgres.embedded.leftovers import await_previous, disarm_pid_files
from ledger.engine.postgres.embedded.place import ServerPaths

# Settings for durability first, then for a machine that does other work too. The command line sets
# them and wins over postgresql.conf, so a new version of the ledger brings its own.
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "max_connections": "200",
        "shared_buffers": "256MB",
        # Few checkpoints: a page's first change after a checkpoint logs the full page in the WAL.
        "max_wal_size": "2GB",
        "min_wal_size": "256MB",
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        # For solid-state disks; the default of 4.0 avoids indexes.
        "random_page_cost": "1.1",
        # The ledger's statements are short: JIT compilation costs more than it saves.
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "unix_socket_permissions": "0700",
    }
)

_FATAL = re.compile(r"\b(FATAL|PANIC):  ")

_POLL = 0.01
_SLOW_POLL = 0.2
_ANNOUNCE_AFTER = 2.0
# Recovery replays up to max_wal_size and somewhat more: seconds, or minutes on a slow disk.
_START_LIMIT = 600.0
_FAST_LIMIT = 60.0
# After SIGQUIT the postmaster kills its remaining children after 5 s.
_QUIT_LIMIT = 10.0


@dataclass(frozen=True)
class Server:
    """A running server: from `launch` to its end, which `poll` shows."""

    paths: ServerPaths
    process: subprocess.Popen[bytes]
    log_start: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def await_ready(self, announce: Callable[[str], None]) -> None:
        """Wait until the server answers; ensure its database. Raises EmbeddedPostgresError."""
        began = time.monotonic()
        announced = False
        while not answers(self.paths, "postgres"):
            code = self.poll()
            if code is not None:
                raise EmbeddedPostgresError(
                    f"PostgreSQL ended as it started (exit code {code}): {self._last_words()}"
                )
            waited = time.monotonic() - began
            if waited > _START_LIMIT:
                raise EmbeddedPostgresError(
                    f"PostgreSQL does not answer after {waited:.0f} s: {self._last_words()}"
                )
            if waited > _ANNOUNCE_AFTER and not announced:
                announce("Waiting for PostgreSQL, which is recovering")
                announced = True
            # PostgreSQL logs every refused connection, so poll a long recovery less often.
            time.sleep(_POLL if waited < _ANNOUNCE_AFTER else _SLOW_POLL)
        _create_ledger(self.paths)

    def shut_down(self) -> None:
        """Fast shutdown; an immediate one, then SIGKILL, if that takes long. Reaps the process."""
        for number, limit in ((signal.SIGINT, _FAST_LIMIT), (signal.SIGQUIT, _QUIT_LIMIT)):
            if self.poll() is not None:
                return
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(limit)
        self.process.kill()
        self.process.wait()

    def _last_words(self) -> str:
        with self.paths.log.open("rb") as log:
            log.seek(self.log_start)
            lines = log.read().decode(errors="replace").splitlines()
        # The FATAL lines tell the cause; those after them only the shutdown. (Lines about refused
        # clients are FATAL too.)
        why = [line for line in lines if _FATAL.search(line) and "database system is" not in line]
        return one_line(why[-2:] or lines[-4:]) or f"see {self.paths.log}"


def launch(
    paths: ServerPaths, settings: Mapping[str, str], announce: Callable[[str], None]
) -> Server:
    """Start the server; first create its files if there are none."""
    with await_previous(paths, announce) as lock:
        if not paths.database.exists():
            paths.initialise(lock.fd)
        disarm_pid_files(paths)
        if paths.service is not None:
            # The modes of the sockets' folders say who may connect: this account alone.
            settings = {**settings, "unix_socket_permissions": "0777"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        sockets = dict.fromkeys([str(paths.socket_dir), str(paths.service_socket_dir)])
        folders = ["-D", str(paths.database), "-k", ",".join(sockets), "-h", ""]
        log = paths.open_log()
        try:
            log_start = os.lseek(log, 0, os.SEEK_END)
            # In a session of its own: Ctrl-C at the terminal reaches only the owner, which stops
            # the server last.
            process = subprocess.Popen(
                paths.command("postgres", *folders, *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(),
                pass_fds=(lock.fd,),
                start_new_session=True,
            )
        finally:
            os.close(log)
    return Server(paths, process, log_start)


def answers(paths: ServerPaths, database: str) -> bool:
    try:
        psycopg.connect(paths.url(database), connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True


def _create_ledger(paths: ServerPaths) -> None:
    """Create the database if it is missing: a kill may have come between files and database."""
    try:
        with psycopg.connect(paths.url("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = 'ledger'")
            if found.fetchone() is None:
                connection.execute("CREATE DATABASE ledger")
    except psycopg.Error as exc:
        reason = one_line(str(exc).splitlines())
        raise EmbeddedPostgresError(f"The database ledger cannot be created: {reason}") from exc
