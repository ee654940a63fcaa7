"""The user of the service's processes: none of them runs as root, where that can be avoided.

A service that was started as root runs its processes as ``daemon``. PostgreSQL runs as another
user. Its superuser, who can run programs, then reaches neither the processes nor the last signed
checkpoint in the data directory. Without that user they run as the user of PostgreSQL, and one line
says so. The supervisor starts the others, and stays root. It also reads the master key, so the
key's file stays root's.

The user must reach the code, the data directory and the database. A process of that user tries all
of this before the first start. If anything fails, the processes stay root, and one line says why.
"""

import os
import pwd
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psycopg

from ledger.engine.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from ledger.engine.postgres.embedded.account import (
    Account,
    default_account,
    give,
    one_line,
    service_account,
)

_MOST_BYTES = 1000
"""The most bytes of a reason that the trying process sends through a pipe."""

Announce = Callable[[str], None]


def user_of_root(postgres: EmbeddedPostgres | None) -> Account | None:
    """The user for the processes; None if not started as root, or without such a user.

    Where the embedded PostgreSQL cannot be kept apart, it is PostgreSQL's user.
    """
    if os.geteuid() != 0:
        return None
    if postgres is not None and postgres.paths.account is not None:
        return postgres.paths.service or postgres.paths.account
    with suppress(EmbeddedPostgresError):
        return service_account() or default_account()
    return None


def make_data_dir(data_dir: Path, account: Account | None) -> None:
    """Create the data directory as the user's, if it is missing and can be made."""
    with suppress(OSError):
        if account is not None and not data_dir.exists():
            data_dir.mkdir(mode=0o700, parents=True)
            give(data_dir, account)


def unprivileged(
    account: Account | None,
    folders: Sequence[Path],
    conninfos: Sequence[str],
    announce: Announce,
) -> Account | None:
    """The user for the processes; None to stay as they are. Announces if they stay root.

    ``folders`` are those in which the processes write, ``conninfos`` those by which they connect.
    """
    if os.geteuid() != 0:
        return None
    if account is None:
        reason: str | None = "there is no user postgres or nobody"
    else:
        try:
            _hand_over(account, folders)
        except OSError as error:
            reason = f"the data directory cannot be given to user {account.name}: {error.strerror}"
        else:
            found = _obstacle(account, folders, conninfos)
            reason = None if found is None else f"user {account.name} {found}"
    if reason is not None:
        announce(f"As root: the service's processes stay root ({reason}).")
        return None
    return account


def become(account: Account) -> None:
    """Switch this process to the user, for good."""
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    # Libraries look for files of the user, as libpq does for passwords and certificates.
    home = "/"
    with suppress(KeyError):
        home = pwd.getpwuid(account.uid).pw_dir
    os.environ |= {"HOME": home, "USER": account.name, "LOGNAME": account.name}


def _hand_over(account: Account, folders: Iterable[Path]) -> None:
    """Make the user the owner of folders in which the processes write, with their files.

    Missing folders are created. A folder that is not root's stays as it is. Everything is opened
    before its owner is read: a user who can put a link into a folder leads root nowhere. After a
    kill half-way, the next start does the rest. Raises OSError.
    """
    for folder in folders:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_uid == 0:
                _give_files(fd, account)
                os.fchown(fd, account.uid, account.gid)
        finally:
            os.close(fd)


def _give_files(folder: int, account: Account) -> None:
    for name in os.listdir(folder):
        with suppress(OSError):  # a link, which is not followed
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=folder)
            try:
                if os.fstat(fd).st_uid == 0:
                    os.fchown(fd, account.uid, account.gid)
            finally:
                os.close(fd)


def _obstacle(account: Account, folders: Sequence[Path], conninfos: Sequence[str]) -> str | None:
    """Why the processes cannot run as the user; None if they can."""
    code = list(_code())
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            reason = _tried(account, code, folders, conninfos)
        except BaseException as error:
            reason = f"cannot be tried: {error}"
        os.write(writing, one_line(reason.splitlines()).encode()[:_MOST_BYTES])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return reason or None


def _tried(
    account: Account, code: list[str], folders: Sequence[Path], conninfos: Sequence[str]
) -> str:
    """The first obstacle that this process meets as the user; empty if there is none."""
    become(account)
    for directory in dict.fromkeys(map(os.path.dirname, code)):
        if not os.access(directory, os.R_OK | os.X_OK):
            return f"cannot read the code in {directory}"
    for file in code:
        if not os.access(file, os.R_OK):
            return f"cannot read the code in {os.path.dirname(file)}"
    for folder in folders:
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return _closed(folder)
    try:
        for conninfo in conninfos:
            psycopg.connect(conninfo).close()
    except psycopg.Error as error:
        return f"cannot connect to the database: {error}"
    return ""


def _closed(folder: Path) -> str:
    """Why this process, as the user, cannot write in a folder, with the remedy if there is one."""
    for above in reversed(folder.parents):
        if not os.access(above, os.X_OK):
            return f"cannot reach {folder}: `chmod o+x {above}` would let it"
    return f"cannot write in {folder}"


def _code() -> Iterator[str]:
    """The files of the loaded modules, from whose folders more may be loaded later."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and os.path.isabs(file) and os.path.exists(file):
            yield file
