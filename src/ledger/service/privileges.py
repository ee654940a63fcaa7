"""The user of the service's processes: none of them runs as root, where that can be avoided.

A service that was started as root runs its processes as the user of its PostgreSQL, else as
``postgres`` or ``nobody``. The supervisor starts the others, and stays root. The supervisor also
reads the master key, so the key's file stays root's.

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

from ledger.postgres.embedded.account import (
    Account,
    EmbeddedPostgresError,
    default_account,
    give,
    one_line,
)

_MOST_BYTES = 1000
"""Of a reason, which the trying process tells through a pipe."""

Announce = Callable[[str], None]


def user_of_root(embedded: Account | None) -> Account | None:
    """The user for the processes; None: the service was not started as root, or there is no user.

    ``embedded`` is the user of the embedded PostgreSQL, whose socket no other user reaches.
    """
    if os.geteuid() != 0:
        return None
    if embedded is not None:
        return embedded
    with suppress(EmbeddedPostgresError):
        return default_account()
    return None


def make_data_dir(data_dir: Path, account: Account | None) -> None:
    """Create the data directory, if it is missing and can be made, as the user's."""
    with suppress(OSError):
        if account is not None and not data_dir.exists():
            data_dir.mkdir(mode=0o700, parents=True)
            give(data_dir, account)


def unprivileged(
    account: Account | None,
    folders: Iterable[Path],
    conninfos: Sequence[str],
    announce: Announce,
) -> Account | None:
    """The user as whom the processes are to run; None: as they are. Says if they stay root.

    ``folders`` are those in which the processes write, ``conninfos`` those by which they connect.
    """
    if os.geteuid() != 0:
        return None
    if account is None:
        reason: str | None = "there is no user postgres or nobody"
    else:
        folders = list(folders)
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
    """Make this process the user's, for good."""
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    # Libraries look for files of the user, as libpq for passwords and certificates.
    home = "/"
    with suppress(KeyError):
        home = pwd.getpwuid(account.uid).pw_dir
    os.environ |= {"HOME": home, "USER": account.name, "LOGNAME": account.name}


def _hand_over(account: Account, folders: Iterable[Path]) -> None:
    """Make the user the owner of folders in which the processes write, with their files.

    Missing folders are created. A folder that is not root's is left as it is: its owner may have
    put a link to another file into it. Raises OSError.
    """
    for folder in folders:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if folder.lstat().st_uid == 0:
            for file in folder.iterdir():
                give(file, account)
            give(folder, account)


def _obstacle(account: Account, folders: Iterable[Path], conninfos: Sequence[str]) -> str | None:
    """The reason why the processes cannot run as the user; None: there is none."""
    code, folders = list(_code()), list(folders)
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
    with open(reading, "rb") as told:
        reason = told.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return reason or None


def _tried(
    account: Account, code: list[Path], folders: list[Path], conninfos: Sequence[str]
) -> str:
    """The first obstacle that this process meets as the user; empty if there is none."""
    become(account)
    for file in code:
        if not (os.access(file, os.R_OK) and os.access(file.parent, os.R_OK | os.X_OK)):
            return f"cannot read the code in {file.parent}"
    for folder in folders:
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return f"cannot write in {folder}"
    try:
        for conninfo in conninfos:
            psycopg.connect(conninfo).close()
    except psycopg.Error as error:
        return f"cannot connect to the database: {error}"
    return ""


def _code() -> Iterator[Path]:
    """The files of the loaded modules, from whose folders more may be loaded later."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and os.path.isabs(file) and os.path.exists(file):
            yield Path(file)
