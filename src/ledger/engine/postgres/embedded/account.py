"""The account that PostgreSQL runs as, and how its programs are run.

PostgreSQL refuses to run as root. So root runs PostgreSQL as the owner of the existing database,
else as `postgres` or `nobody`. For an ordinary user the account is None: PostgreSQL runs as this
user.

A superuser of PostgreSQL can run any program as PostgreSQL's account. So root runs the processes of
the service as another account, whose files and processes are then out of the superuser's reach.
"""

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SERVICE = "daemon"
"""The account of the service's processes. It exists on every system, and is alone in its group.
Debian puts accounts of other services in the group of `nobody`."""

_CHILD = Path(__file__).with_name("child.py")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Account:
    """The account that root runs PostgreSQL as."""

    name: str
    uid: int
    gid: int

    def reaches(self, folder: Path) -> bool:
        """True if the account can enter the folder. This is tried, since ACLs and mounts count as
        well."""
        attempt = ("/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder))
        return run(command_as(self, *attempt)).returncode == 0


ROOT = Account("root", 0, 0)


def _account(name: str) -> Account | None:
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(name)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    return None


def owner_of(database: Path) -> Account:
    info = database.stat()
    if info.st_uid == 0:
        raise EmbeddedPostgresError(
            f"{database} belongs to root, as whom PostgreSQL does not run: chown it to its user"
        )
    try:
        entry = pwd.getpwuid(info.st_uid)
    except KeyError:
        return Account(str(info.st_uid), info.st_uid, info.st_gid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def default_account() -> Account:
    found = _account("postgres") or _account("nobody")
    if found is None:
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root, and there is no account postgres or nobody"
        )
    return found


def service_account() -> Account | None:
    """The account of the service's processes; None if this system has no such account."""
    return _account(_SERVICE)


def command_as(account: Account | None, *command: str) -> list[str]:
    """Return the command line that runs a command as the account, until this process ends."""
    uid, gid = (account.uid, account.gid) if account else (os.getuid(), os.getgid())
    child = [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid()), str(uid), str(gid)]
    return [*child, *command]


def run(command: list[str], keep: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command line of `command_as` to its end. The child inherits ``keep``, descriptors."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd="/",
        env=environment(),
        pass_fds=keep,
    )


def environment() -> dict[str, str]:
    """Return PostgreSQL's environment: without secrets, and without PGPORT, which it would obey."""
    passed = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return passed | {"LC_ALL": "C"}


def forget_other_servers() -> None:
    """Remove the variables that could lead this process's clients to another server.

    libpq obeys some thirty variables; PGSERVICE and PGHOSTADDR even if the client names a host.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def give(target: Path | int, account: Account | None) -> None:
    """Make the account the owner; for a symbolic link, of the link itself (see `open_private`)."""
    if account is None:
        return
    if isinstance(target, int):
        os.fchown(target, account.uid, account.gid)
    else:
        os.lchown(target, account.uid, account.gid)


def settle(folder: Path, account: Account, gid: int, mode: int) -> None:
    """Set the group and mode of a folder of the account's; leave another user's as it is.

    It opens the folder first, so that a user who may replace it by a link leads root nowhere. After
    a kill half-way, the same call does the rest.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid == account.uid:
            os.fchmod(fd, mode)
            os.fchown(fd, account.uid, gid)
    finally:
        os.close(fd)


def open_private(path: Path, flags: int, account: Account | None) -> int:
    """Open a file that only the account may access; create it if it is missing.

    The account becomes the owner: a file that root created first must not lock out the account's
    own commands later. It follows no symbolic links: the account may own the folder, and root
    writes here.
    """
    fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    give(fd, account)
    return fd


def one_line(lines: Iterable[str]) -> str:
    return " | ".join(line.strip() for line in lines if line.strip())
