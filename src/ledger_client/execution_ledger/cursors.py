"""Where a follower stores its position: a file, a SQLite database, or a store of your own."""

import os
import sqlite3
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Stores the position of a follower: the id of the last event that was handled."""

    def load(self) -> str | None:
        """The last saved position, or None."""

    def save(self, cursor: str) -> None:
        """Store a position. When ``save`` returns, the event counts as handled."""


class FileCursor:
    """A position in a file. The file is replaced as a whole, and survives a kill of the process.

    The last event before a kill may come again: at least once.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._part = self._path.with_name(f"{self._path.name}.part")

    def load(self) -> str | None:
        """The last saved position, or None."""
        return self._path.read_text() if self._path.exists() else None

    def save(self, cursor: str) -> None:
        """Store a position."""
        self._part.write_text(cursor)
        os.replace(self._part, self._path)


class SqliteCursor:
    """A position in a SQLite database, committed together with the handler's own writes.

    Write through ``connection`` and do not commit. Each event and its position then become durable
    in one transaction. So each event is handled once, even if the process is killed.
    """

    def __init__(self, path: str | Path, name: str = "events") -> None:
        self._name = name
        self.connection = sqlite3.connect(path, check_same_thread=False)
        """The connection for the handler; use it in one thread at a time."""
        self.connection.execute("PRAGMA journal_mode = WAL")
        # A power failure may undo the last transactions, but rows and positions together.
        self.connection.execute("PRAGMA synchronous = NORMAL")
        with self.connection:
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS ledger_cursor (name TEXT PRIMARY KEY, position TEXT)"
            )

    def load(self) -> str | None:
        """The last saved position, or None. Rolls back writes without a commit."""
        self.connection.rollback()
        row = self.connection.execute(
            "SELECT position FROM ledger_cursor WHERE name = ?", (self._name,)
        ).fetchone()
        return str(row[0]) if row else None

    def save(self, cursor: str) -> None:
        """Store a position, and commit it with all that the handler wrote."""
        self.connection.execute(
            "INSERT INTO ledger_cursor VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET position = excluded.position",
            (self._name, cursor),
        )
        self.connection.commit()

    def close(self) -> None:
        """Close the connection, and roll back what was not committed."""
        self.connection.close()
