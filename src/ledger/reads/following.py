"""Following the views from a process without an event loop, such as an import."""

from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg.rows import tuple_row

from ledger.background import BackgroundLoop

_LOOK_SECONDS = 0.25
"""How soon the thread notices that it is to stop."""

_VIEWS = "SELECT name, position FROM ledger.projection WHERE stopped_at IS NULL"


class ViewFollower(BackgroundLoop):
    """Tells each position that every live view has reached, from the first movement on.

    Nothing is told where no service runs: nobody moves the views then. If the connection is lost,
    nothing more is told.
    """

    def __init__(self, conninfo: str, tell: Callable[[int], None]) -> None:
        super().__init__("view-follower")
        self._conninfo, self._tell = conninfo, tell

    def _serve(self) -> None:
        with suppress(psycopg.Error):
            self._follow()

    def _follow(self) -> None:
        with psycopg.connect(
            self._conninfo,
            autocommit=True,
            row_factory=tuple_row,
            application_name="ledger view follower",
        ) as connection:
            connection.execute("LISTEN ledger_views")
            positions: dict[str, int] = dict(connection.execute(_VIEWS).fetchall())
            reached = min(positions.values(), default=0)
            while not self._stopping.is_set():
                for heard in connection.notifies(timeout=_LOOK_SECONDS, stop_after=1):
                    _take(positions, heard.payload)
                before, reached = reached, min(positions.values(), default=0)
                if reached != before:
                    self._tell(reached)


def _take(positions: dict[str, int], payload: str) -> None:
    """Take a notification: views, separated by commas, have stopped or reached a position."""
    names, _, said = payload.rpartition(" ")
    for name in names.split(","):
        if said == "stopped":
            positions.pop(name, None)
        else:
            positions[name] = int(said)
