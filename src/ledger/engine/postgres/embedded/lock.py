"""File locks that show who owns and who uses the embedded PostgreSQL, and whether it still runs.

They use `flock`, not pid files: the kernel releases a lock when its last holder has ended, whatever
the cause, and no reused pid passes for a living holder.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ledger.engine.postgres.embedded.account import Account, open_private


@dataclass(frozen=True)
class Holder:
    """The owner of the server, as it signed its lock."""

    pid: int
    purpose: str

    def is_alive(self) -> bool:
        """True if the process exists: the signature of a killed owner stays in the file."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class FileLock:
    """An open lock file. Closing it releases the lock, unless a child process has inherited it."""

    def __init__(self, path: Path, account: Account | None) -> None:
        self.fd = open_private(path, os.O_RDWR, account)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def try_exclusive(self) -> bool:
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        return self._try(fcntl.LOCK_SH)

    def unlock(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self.fd)

    def sign(self, purpose: str) -> None:
        """Write the holder into the file, for the messages of commands that wait for the lock."""
        self.clear()
        os.pwrite(self.fd, f"{os.getpid()} {purpose}\n".encode(), 0)

    def clear(self) -> None:
        os.ftruncate(self.fd, 0)

    def holder(self) -> Holder | None:
        """The holder that signed; None before that."""
        with contextlib.suppress(ValueError):
            pid, purpose = os.pread(self.fd, 1024, 0).decode().strip().split(" ", 1)
            return Holder(int(pid), purpose)
        return None

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
