"""What an earlier PostgreSQL left here: living processes, and files that name dead ones.

Whether one still lives is told by the server lock, which every process of PostgreSQL inherits: it
is free when the last is gone, backends that outlive their postmaster and orphans of a killed owner
included. Pid files cannot tell: after a restart of a container their pid is another process's.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from ledger.postgres.embedded.account import EmbeddedPostgresError, run
from ledger.postgres.embedded.lock import FileLock
from ledger.postgres.embedded.place import PORT, ServerPlace

_POLL = 0.01
_PATIENCE = 2.0
# A fast shutdown writes out at most shared_buffers; a surviving backend ends with its statement.
_LIMIT = 60.0


def await_previous(place: ServerPlace, announce: Callable[[str], None]) -> FileLock:
    """Take the server lock, once the last process of an earlier server has gone."""
    lock = FileLock(place.base / "server.lock", place.account)
    try:
        if not lock.try_exclusive():
            _stop_orphan(place)
            _wait_for(lock, place, announce)
    except BaseException:
        lock.close()
        raise
    return lock


def disarm_pid_files(place: ServerPlace) -> None:
    """Keep PostgreSQL from taking a reused pid for a living server, beside which it won't start.

    Called with the server lock in hand, so none of ours lives. The pid in postmaster.pid becomes
    that of this process: PostgreSQL knows its parent to be no server, passes over it, and goes on
    to its second check, whether anybody is attached to the shared memory that the file names.
    Removing the file would remove that check, the last thing that stands between a server that
    somebody started by hand and two of them writing one database.
    """
    pid_file = place.database / "postmaster.pid"
    pid = _first_number(pid_file)
    if pid is None:
        pid_file.unlink(missing_ok=True)  # empty after a power failure, which is refused too
    elif _runs_in(place.database, pid):
        raise EmbeddedPostgresError(
            f"A PostgreSQL that is not ours (pid {pid}) runs in {place.database}: stop it first"
        )
    else:
        _replace_first_line(pid_file, str(os.getpid()))
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (place.socket_dir / name).unlink(missing_ok=True)


def _stop_orphan(place: ServerPlace) -> None:
    """Tell a server whose owner was killed to shut down.

    On Linux the kernel has told it already; once more does no harm. The server lock is held, so
    the pid in the file is that of one of ours.
    """
    run(place.command("pg_ctl", "stop", "-D", str(place.database), "-m", "fast", "--no-wait"))


def _wait_for(lock: FileLock, place: ServerPlace, announce: Callable[[str], None]) -> None:
    began = time.monotonic()
    told = False
    while not lock.try_exclusive():
        waited = time.monotonic() - began
        if waited > _LIMIT:
            raise EmbeddedPostgresError(
                f"An earlier PostgreSQL in {place.base} has not ended in {_LIMIT:.0f} s"
            )
        if waited > _PATIENCE and not told:
            announce("Waiting for an earlier PostgreSQL of this directory to end")
            told = True
        time.sleep(_POLL)


def _first_number(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        return int(path.read_text(errors="replace").splitlines()[0])
    return None


def _runs_in(database: Path, pid: int) -> bool:
    """Is this process a PostgreSQL at work here? Unknown without /proc: see the second check."""
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
