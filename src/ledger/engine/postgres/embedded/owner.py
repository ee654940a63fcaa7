"""Owning the server of a data directory, or using that of another process; a temporary server.

Errors: EmbeddedPostgresError
        └── DirectoryInUse (another command owns the server: wait for it or stop it)
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from ledger.engine.postgres.embedded.account import EmbeddedPostgresError
from ledger.engine.postgres.embedded.lock import FileLock, Holder
from ledger.engine.postgres.embedded.place import ServerPaths, find_paths
from ledger.engine.postgres.embedded.server import SETTINGS, Server, answers, launch

Announce = Callable[[str], None]

_SERVE = "serve"
_POLL = 0.01
# A short command usually ends within this time. A longer wait must end with a message.
_OWNER_LIMIT = 15.0
_ATTACH_LIMIT = 60.0

_TEMPORARY: Mapping[str, str] = MappingProxyType(
    {"fsync": "off", "full_page_writes": "off", "max_connections": "20", "max_wal_size": "512MB"}
)
"""A temporary server: nothing outlives the command, so nothing must reach the disk."""

_MISLEADING = ("PGHOSTADDR", "PGSERVICE")
"""Variables that lead clients to another server although a URL names this one."""


class DirectoryInUse(EmbeddedPostgresError):
    """Another command owns the server: stop that command, or try again when it has finished."""

    def __init__(self, data_dir: Path, holder: Holder | None) -> None:
        serves = holder is not None and holder.purpose == _SERVE
        advice = "stop that first" if serves else "try again when that has finished"
        super().__init__(f"The database in {data_dir} is in use by {_who(holder)}: {advice}")
        self.data_dir = data_dir
        self.holder = holder


@dataclass(frozen=True)
class AttachedPostgres:
    """The server of another process. A `ledger serve` may stop it at any time."""

    url: str


class EmbeddedPostgres:
    """The server of one data directory, owned by this process from `start` to `stop`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        purpose: str = _SERVE,
        announce: Announce = print,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._purpose = purpose
        self._announce = announce
        self._settings = {**SETTINGS, **settings}
        self._owner: FileLock | None = None
        self._users: FileLock | None = None
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return self.paths.url()

    @property
    def service_url(self) -> str:
        """The database URL for the processes of the service."""
        return self.paths.url(socket_dir=self.paths.service_socket_dir)

    @cached_property
    def paths(self) -> ServerPaths:
        return find_paths(self._data_dir)

    @property
    def pid(self) -> int | None:
        """The pid of the postmaster; None before `start` and after `stop`."""
        return self._server.pid if self._server else None

    def poll(self) -> int | None:
        """None while the server runs, else its exit code; 0 before `start` and after `stop`."""
        return self._server.poll() if self._server else 0

    def own(self) -> None:
        """Create the directory and take its owner lock: the first step of `start`."""
        try:
            with _plain_errors(self._data_dir):
                self._own()
        except BaseException:
            self._end()
            raise

    def let_go(self) -> None:
        """Close the inherited locks: the first step of a process that was forked from the owner.

        Otherwise this process would keep the locks when the owner is killed.
        """
        for lock in (self._owner, self._users):
            if lock is not None:
                lock.close()

    def start(self) -> None:
        """Run the server and return when it answers; run it again if it died unexpectedly.

        Waits some seconds for a short command to finish, then raises DirectoryInUse; raises it at
        once if another `ledger serve` owns the server.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded PostgreSQL dies with its thread: use the main thread")
        if self.poll() is None:
            return
        try:
            with _plain_errors(self._data_dir):
                self._own()
                self.paths.make()  # a cleaner of /tmp may have removed the socket's folder
                self._server = launch(self.paths, self._settings, self._announce)
                self._server.await_ready(self._announce)
        except BaseException:
            self._end()
            raise

    def stop(self) -> None:
        """Shut the server down. A short command first waits for other users of its server."""
        try:
            if self._purpose != _SERVE and self.poll() is None:
                self._await_users()
        finally:
            self._end()

    def own_or_attach(self) -> FileLock | None:
        """Become the owner (None), or return a lock that keeps the owner from stopping.

        Take the shared lock first, and then check whether the server answers. An owner that stops
        holds the lock exclusively, so a server that answers now stays until the lock is closed.
        """
        deadline = time.monotonic() + _ATTACH_LIMIT
        with contextlib.ExitStack() as stack:
            stack.enter_context(_plain_errors(self._data_dir))
            users: FileLock | None = None
            while not self._try_own():
                if users is None:
                    users = stack.enter_context(self._lock("users.lock"))
                if users.try_shared():
                    if answers(self.paths, "ledger"):
                        stack.pop_all()
                        return users
                    users.unlock()
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"The database in {self.paths.data_dir}, run by {_who(self._holder())},"
                        f" has not answered in {_ATTACH_LIMIT:.0f} s"
                    )
                time.sleep(_POLL)
        return None

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.paths.base / name, self.paths.account)

    def _own(self) -> None:
        deadline = time.monotonic() + _OWNER_LIMIT
        announced = False
        while not self._try_own():
            holder = self._holder()
            # The signature of a killed owner stays until the next owner signs: check the process.
            living = holder if holder is not None and holder.is_alive() else None
            if (living and living.purpose == _SERVE) or time.monotonic() > deadline:
                raise DirectoryInUse(self.paths.data_dir, holder)
            if living and not announced:
                self._announce(f"Waiting for {_who(living)} to finish")
                announced = True
            time.sleep(_POLL)

    def _try_own(self) -> bool:
        if self._owner is not None:
            return True
        self.paths.make()
        owner = self._lock("owner.lock")
        if not owner.try_exclusive():
            owner.close()
            return False
        owner.sign(self._purpose)
        self._owner = owner
        if self.paths.notice:
            self._announce(self.paths.notice)
        return True

    def _holder(self) -> Holder | None:
        with self._lock("owner.lock") as owner:
            return owner.holder()

    def _await_users(self) -> None:
        """Take users.lock exclusively: then no command uses the server or begins to."""
        self._users = self._lock("users.lock")
        announced = False
        while not self._users.try_exclusive():
            if not announced:
                self._announce("Done; other commands still use the database: waiting for them")
                announced = True
            time.sleep(_POLL)

    def _end(self) -> None:
        try:
            if self._server is not None:
                self._server.shut_down()
        finally:
            self._server = None
            if self._owner is not None:
                self._owner.clear()
                self._owner.close()
                self._owner = None
            if self._users is not None:
                self._users.close()
                self._users = None


@contextlib.contextmanager
def running(
    data_dir: Path, *, purpose: str, announce: Announce = print
) -> Iterator[EmbeddedPostgres | AttachedPostgres]:
    """A running server for a short command: its own, or the server of another owner."""
    server = EmbeddedPostgres(data_dir, purpose=purpose, announce=announce)
    users = server.own_or_attach()
    if users is not None:
        with users:
            yield AttachedPostgres(server.url)
        return
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def temporary_server() -> Iterator[str]:
    """The URL of an empty database ``ledger``, in a folder below TMPDIR. In the main thread.

    The files are gone afterwards. Raises EmbeddedPostgresError.
    """
    for name in _MISLEADING:
        if name in os.environ:
            raise EmbeddedPostgresError(f"{name} must not be set: set LEDGER_DATABASE_URL instead")
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        # Under root the server runs as another user, who must be able to enter the folder.
        Path(folder).chmod(0o711)
        server = EmbeddedPostgres(Path(folder, "data"), purpose="verify", settings=_TEMPORARY)
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


def _who(holder: Holder | None) -> str:
    return f"ledger {holder.purpose} (pid {holder.pid})" if holder else "another process"


@contextlib.contextmanager
def _plain_errors(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise EmbeddedPostgresError(f"The database in {data_dir} cannot be used: {exc}") from exc
