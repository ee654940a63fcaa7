"""Queues of facts: in memory, and on disk in a SQLite file for each process."""

import logging
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

log = logging.getLogger("execution_ledger")

MAX_PAGES = 262_144
"""The most pages of a file, of 4 KiB each: 1 GiB."""


class Waiting(NamedTuple):
    """A fact without an outcome."""

    number: int
    """The fact's number in this process, in order."""
    text: bytes
    """The fact as JSON. It is encoded once, so that each attempt sends the same bytes."""


class Queue(Protocol):
    """Facts in their order; each stays until it has an outcome."""

    def first(self, count: int) -> list[Waiting]:
        """The oldest facts."""
        ...

    def remove(self, facts: Sequence[Waiting]) -> None:
        """Remove facts that have an outcome. They are the oldest ones."""


class Memory:
    """Facts in memory, under the reporter's lock."""

    def __init__(self, lock: threading.Condition) -> None:
        self._lock = lock
        self._facts: deque[Waiting] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._facts)

    def is_full(self, text: bytes, facts: int, size: int) -> bool:
        """Return True if there is no room for another fact."""
        return len(self._facts) >= facts or self._bytes + len(text) > size

    def append(self, fact: Waiting) -> None:
        self._facts.append(fact)
        self._bytes += len(fact.text)

    def first(self, count: int) -> list[Waiting]:
        with self._lock:
            return list(islice(self._facts, count))

    def remove(self, facts: Sequence[Waiting]) -> None:
        gone, left = {fact.number for fact in facts}, []
        with self._lock:
            while gone:
                fact = self._facts.popleft()
                if fact.number in gone:
                    gone.remove(fact.number)
                    self._bytes -= len(fact.text)
                else:
                    left.append(fact)
            self._facts.extendleft(reversed(left))


class SpoolFile:
    """The facts of one process, which locks the file until it ends, for whatever reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = 0
        """The facts that another process has left here, and that are not judged."""
        self._mutex = threading.Lock()
        self._database = sqlite3.connect(
            path, timeout=0.0, isolation_level=None, check_same_thread=False
        )
        try:
            # The lock lasts as long as the connection, so other processes cannot take the file of
            # this one.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            # A kill of the process loses nothing; a power failure loses the last moments.
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(f"PRAGMA max_page_count = {MAX_PAGES}")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS fact (number INTEGER PRIMARY KEY, text BLOB NOT NULL)"
            )
        except sqlite3.Error:
            self._database.close()
            raise

    def put(self, facts: Sequence[Waiting]) -> None:
        """Store facts: all or none. Raises sqlite3.Error."""
        with self._mutex:
            self._database.execute("BEGIN")
            try:
                self._database.executemany("INSERT INTO fact VALUES (?, ?)", facts)
                self._database.execute("COMMIT")
            except sqlite3.Error:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    def count(self) -> int:
        """The number of facts. Raises sqlite3.Error."""
        with self._mutex:
            return int(self._database.execute("SELECT count(*) FROM fact").fetchone()[0])

    def first(self, count: int) -> list[Waiting]:
        with self._mutex:
            rows = self._database.execute("SELECT * FROM fact ORDER BY number LIMIT ?", (count,))
            return [Waiting(*row) for row in rows]

    def remove(self, facts: Sequence[Waiting]) -> None:
        with self._mutex:
            self._database.execute("BEGIN")
            self._database.executemany(
                "DELETE FROM fact WHERE number = ?", [(fact.number,) for fact in facts]
            )
            self._database.execute("COMMIT")
        self.left -= len(facts)

    def close(self) -> None:
        """Close the file, and delete it if it has no facts."""
        is_empty = False
        with self._mutex:
            with suppress(sqlite3.Error):
                is_empty = self._database.execute("SELECT * FROM fact LIMIT 1").fetchone() is None
            self._database.close()
        if is_empty:
            self.path.unlink(missing_ok=True)


def files_of(directory: Path) -> list[Path]:
    """The spool files of a directory, oldest first."""
    return sorted(directory.glob("*.spool"))


def is_locked(error: sqlite3.Error) -> bool:
    """Return True if a living process holds the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


class Spool:
    """A directory of spool files: this process's own, and those that other processes left."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._own: SpoolFile | None = None
        self._adopted: list[SpoolFile] = []
        self._parents: list[SpoolFile] = []
        """The files of the processes from which this one was forked. Closing one would write."""

    def own(self) -> SpoolFile:
        """This process's file. Raises OSError or sqlite3.Error."""
        if self._own is None:
            self._directory.mkdir(0o700, parents=True, exist_ok=True)
            try:
                self._own = self._new()
            except sqlite3.OperationalError:
                self._own = self._new()  # another process took the first one for a file left behind
        return self._own

    def _new(self) -> SpoolFile:
        return SpoolFile(self._directory / f"{time.time_ns():020}-{uuid.uuid4().hex}.spool")

    def adopt(self) -> list[SpoolFile]:
        """Lock and return the files with facts of processes that have ended."""
        for path in files_of(self._directory):
            try:
                file = SpoolFile(path)
                file.left = file.count()
            except sqlite3.Error as error:
                if not is_locked(error):
                    log.error("The facts in %s cannot be read: %s", path, error)
                continue
            if file.left:
                self._adopted.append(file)
            else:
                file.close()
        return self._adopted

    def after_fork(self) -> None:
        """Forget the parent's file, without closing it."""
        self._parents += [*self._adopted, *([] if self._own is None else [self._own])]
        self._own, self._adopted = None, []

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None
