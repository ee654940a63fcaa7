"""Where the embedded PostgreSQL's files are.

An ordinary user has everything in the data directory:

    postgres/       the database, with the socket that clients connect to
    postgres.log    the server's log (postgres.log.1: the log before)
    *.lock          the owner, the users and the processes of the server

If root starts the ledger, the data directory is root's, and anybody may pass through it. PostgreSQL
has its own files there, and the service's processes, which run as another account, have theirs.
The processes connect to a second socket, in a folder that only these two accounts can enter:

    socket/         owned by PostgreSQL's account, with the group of the service's

Where the two cannot be kept apart, the processes run as PostgreSQL's account, which then owns the
data directory.

The permissions of a folder that the ledger did not create are never changed. If root runs
PostgreSQL as an account that cannot reach the data directory or the programs, these are kept below
/var/lib/execution-ledger: the database (the data directory then holds a link to it), and a copy of
the programs.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from ledger.engine.postgres.embedded.account import (
    ROOT,
    Account,
    EmbeddedPostgresError,
    command_as,
    default_account,
    give,
    one_line,
    open_private,
    owner_of,
    run,
    service_account,
    settle,
)
from ledger.engine.postgres.embedded.programs import SYSTEM_DIR, find_programs, make_system_dir

PORT = 5432
# The longest path of a socket is 107 bytes on Linux and 103 on macOS.
_SOCKET_PATH_BYTES = 103
_LOG_BYTES = 10 * 1024 * 1024
# PostgreSQL's builtin locale provider compares bytes. libc's C.UTF-8 has the same order, but copies
# both texts for each comparison: a sixteenth of PostgreSQL's time for an append and its views.
_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")


@dataclass(frozen=True)
class ServerPaths:
    """The folders of a database."""

    data_dir: Path
    base: Path
    account: Account | None
    """The user that root runs PostgreSQL as; None for an ordinary user."""
    service: Account | None = None
    """The account of the service's processes, if it is not PostgreSQL's."""
    why_shared: str | None = None
    """Why root runs the service's processes as PostgreSQL's account, if it does."""

    @property
    def database(self) -> Path:
        return self.base / "postgres"

    @property
    def log(self) -> Path:
        return self.base / "postgres.log"

    @property
    def notice(self) -> str | None:
        """A message for root if the files are not in the data directory."""
        if self.account is None or self.base == self.data_dir:
            return None
        reason = f"user {self.account.name} cannot reach {self.data_dir}"
        return f"As root: the database's files are in {self.base} ({reason})"

    @cached_property
    def socket_dir(self) -> Path:
        """The database's folder, or a folder in /tmp if its path cannot be a socket's address.

        The path may be too long, contain a comma, which libpq takes for the end of a host, or not
        be UTF-8, as which psycopg reads a URL.
        """
        address = os.fsencode(self.database / f".s.PGSQL.{PORT}")
        with suppress(UnicodeDecodeError):
            if len(address) <= _SOCKET_PATH_BYTES and "," not in address.decode():
                return self.database
        return Path("/tmp", f"execution-ledger-{_short_hash(self.base)}")

    @cached_property
    def service_socket_dir(self) -> Path:
        """The folder of the socket to which the service's processes connect."""
        is_apart = self.service is not None and self.socket_dir == self.database
        return self.base / "socket" if is_apart else self.socket_dir

    @cached_property
    def programs(self) -> Path:
        return find_programs(self.account)

    def url(self, database: str = "ledger", socket_dir: Path | None = None) -> str:
        # The URL names the port, or a PGPORT in the client's environment would win.
        host = quote(os.fsencode(socket_dir or self.socket_dir), safe="")
        return f"postgresql://postgres@/{database}?host={host}&port={PORT}"

    def make(self) -> None:
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        if self.service is not None and self.account is not None:
            _make_private(self.data_dir, ROOT, 0o711)
        else:
            _make_private(self.data_dir, self.account if self.base == self.data_dir else None)
        if self.base != self.data_dir:
            make_system_dir()
            _make_private(self.base, self.account)
            # A second process that starts meanwhile creates the same link.
            with suppress(FileExistsError):
                (self.data_dir / "postgres").symlink_to(self.database)
        if self.service_socket_dir != self.database:
            _make_private(self.service_socket_dir, self.account)
            _refuse_foreign(self.service_socket_dir, self.account)
            if self.service is not None and self.account is not None:
                settle(self.service_socket_dir, self.account, self.service.gid, 0o710)

    def initialise(self, lock: int) -> None:
        """Create the database's files in another folder, then rename it: a kill leaves no half."""
        new = self.base / "postgres.new"
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        give(new, self.account)
        options = ("-U", "postgres", "--auth=trust", "--encoding=UTF8", "--data-checksums")
        result = run(self.command("initdb", "-D", str(new), *options, *_LOCALE), keep=(lock,))
        if result.returncode:
            reason = one_line(result.stderr.splitlines())
            raise EmbeddedPostgresError(f"No database could be created in {self.base}: {reason}")
        new.rename(self.database)
        folder = os.open(self.base, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)

    def open_log(self) -> int:
        """Open the log for appending; rename it first if it has grown long."""
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.base / "postgres.log.1")
        return open_private(self.log, os.O_WRONLY | os.O_APPEND, self.account)

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of a program of PostgreSQL, run as the account."""
        return command_as(self.account, str(self.programs / "bin" / program), *arguments)


def find_paths(data_dir: Path) -> ServerPaths:
    """Decide where the database of this data directory is, or will be. Creates nothing.

    An existing database is used where it is, or refused: an empty one elsewhere would look like
    lost data.
    """
    data_dir = data_dir.resolve()
    if os.geteuid() != 0:
        return ServerPaths(data_dir, data_dir, None)
    linked = _linked_base(data_dir)
    elsewhere = linked or SYSTEM_DIR / _short_hash(data_dir)
    for base in (data_dir, elsewhere):
        database = base / "postgres"
        if database.is_dir() and not database.is_symlink():
            account = owner_of(database)
            if not account.reaches(database):
                raise EmbeddedPostgresError(
                    f"User {account.name} owns the database {database} but cannot reach it: let"
                    " the user enter the folders above it (chmod o+x)"
                )
            return _apart(ServerPaths(data_dir, base, account))
    account = default_account()
    nearest = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    inside = linked is None and account.reaches(nearest)
    return _apart(ServerPaths(data_dir, data_dir if inside else elsewhere, account))


def _apart(paths: ServerPaths) -> ServerPaths:
    """Add an account for the service's processes if it can be kept apart.

    Outside the data directory, the files of the service are where PostgreSQL's account cannot come.
    """
    account, data_dir = paths.account, paths.data_dir
    if account is None or paths.base != data_dir:
        return paths
    service = service_account()
    if service is None or service.uid == account.uid:
        return replace(paths, why_shared="there is no other user")
    folders = (data_dir, *data_dir.parents)
    owned = [folder for folder in folders if _owner(folder) == account.uid]
    if owned:
        return replace(paths, why_shared=f"{owned[0]} is that user's")
    return replace(paths, service=service)


def _owner(folder: Path) -> int | None:
    with suppress(FileNotFoundError):
        return folder.stat().st_uid
    return None


def has_database(data_dir: Path) -> bool:
    return find_paths(data_dir).database.exists()


def _linked_base(data_dir: Path) -> Path | None:
    """The target of the link in the data directory: a renamed directory keeps its database.

    Only a target below SYSTEM_DIR counts: another user may own the data directory, and set any
    link.
    """
    link = data_dir / "postgres"
    target = link.readlink() if link.is_symlink() else None
    return target.parent if target and target.parent.parent == SYSTEM_DIR else None


def _make_private(path: Path, account: Account | None, mode: int = 0o700) -> None:
    """Create a folder that is the account's alone; leave an existing folder as it is.

    A rename makes the folder appear with its owner. Otherwise a second process that starts
    meanwhile could find a folder of root's, and conclude that the account cannot reach it. (An
    existing folder is never replaced, even an empty one: another process is about to fill it.)
    """
    if path.is_dir():
        return
    if account is None:
        path.mkdir(mode=0o700, exist_ok=True)
        return
    aside = Path(tempfile.mkdtemp(prefix=".ledger-", dir=path.parent))
    try:
        give(aside, account)
        aside.chmod(mode)
        aside.rename(path)
    except OSError:
        aside.rmdir()
        if not path.is_dir():
            raise


def _refuse_foreign(folder: Path, account: Account | None) -> None:
    """Refuse a folder of another user: in /tmp any user could create it, and answer our clients."""
    info = folder.lstat()
    uid = account.uid if account else os.geteuid()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != uid or info.st_mode & 0o067:
        raise EmbeddedPostgresError(
            f"{folder}, for the database's socket, belongs to another user or is open to others"
        )


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
