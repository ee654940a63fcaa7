"""Leftovers of an earlier PostgreSQL: running processes, and files that name ended processes.

Every process of PostgreSQL inherits the server lock. So the lock is free when the last process has
ended, including backends that outlive their postmaster and orphans of a killed owner. Pid files
cannot show this: after a restart of a container, their pid belongs to another process.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from ledger.engine.postgres.embedded.account import EmbeddedPostgresError, run
from ledger.engine.postgres.embedded.lock import FileLock
from ledger.engine.postgres.embedded.place import PORT, ServerPaths

_POLL = 0.01
_ANNOUNCE_AFTER = 2.0
# A fast shutdown writes at most shared_buffers to disk. A surviving backend ends when its
# statement does.
_LIMIT = 60.0


def await_previous(paths: ServerPaths, announce: Callable[[str], None]) -> FileLock:
    """Take the server lock after the last process of an earlier server has ended."""
    lock = FileLock(paths.base / "server.lock", paths.account)
    try:
        if not lock.try_exclusive():
            _stop_orphan(paths)
            _wait_for(lock, paths, announce)
    except BaseException:
        lock.close()
        raise
    return lock


def disarm_pid_files(paths: ServerPaths) -> None:
    """Keep PostgreSQL from taking a reused pid for a running server: it would refuse to start.

    The caller holds the server lock, so no process of an earlier server of ours runs. This
    process's pid replaces the one in postmaster.pid. PostgreSQL ignores it, since its parent is no
    server, and makes its second check: for a process attached to the shared memory that the file
    names. Without the file there would be no such check, the last protection against two servers
    that write one database, if somebody started a server by hand.
    """
    pid_file = paths.database / "postmaster.pid"
    pid = _first_number(pid_file)
    if pid is None:
        # A power failure may leave an empty file; with it PostgreSQL refuses to start too.
        pid_file.unlink(missing_ok=True)
    elif _runs_in(paths.database, pid):
        raise EmbeddedPostgresError(
            f"A PostgreSQL that is not ours (pid {pid}) runs in {paths.database}: stop it first"
        )
    else:
        _replace_first_line(pid_file, str(os.getpid()))
    for folder in (paths.socket_dir, paths.service_socket_dir):
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (folder / name).unlink(missing_ok=True)


def _stop_orphan(paths: ServerPaths) -> None:
    """Shut down a server whose owner was killed.

    On Linux the kernel has sent the signal already; a second one does no harm. A process of ours
    holds the server lock, so the pid in the file belongs to our server.
    """
    run(paths.command("pg_ctl", "stop", "-D", str(paths.database), "-m", "fast", "--no-wait"))


def _wait_for(lock: FileLock, paths: ServerPaths, announce: Callable[[str], None]) -> None:
    began = time.monotonic()
    announced = False
    while not lock.try_exclusive():
        waited = time.monotonic() - began
        if waited > _LIMIT:
            raise EmbeddedPostgresError(
                f"An earlier PostgreSQL in {paths.base} has not ended in {_LIMIT:.0f} s"
            )
        if waited > _ANNOUNCE_AFTER and not announced:
            announce("Waiting for an earlier PostgreSQL of this directory to end")
            announced = True
        time.sleep(_POLL)


def _first_number(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        return int(path.read_text(errors="replace").splitlines()[0])
    return None


def _runs_in(database: Path, pid: int) -> bool:
    """True if the process is a PostgreSQL of this database.

    False on a system without /proc: there PostgreSQL's second check counts (`disarm_pid_files`).
    """
    try:
        return database.samefile(f"/proc/{pid}/cwd")
    except OSError:
        return False


def _replace_first_line(path: Path, line: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "r+b") as file:
        rest = file.read().split(b"\n")[1:]
        file.seek(0)
        file.truncate()
        file.write(b"\n".join([line.encode(), *rest]))
