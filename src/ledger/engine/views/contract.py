"""The contract of a projection: a pure fold of events into the rows of a few tables.

A projection is a folder in ``projections/``, whose ``view.py`` has its rows, tables and fold. It
gets batches of events in log order, inside a transaction that also moves its tracking. It never
reads a clock and never commits. The same code fills a live view, a view that is being rebuilt, and
the copy that ``verify`` compares with.
"""

from collections.abc import Sequence
from typing import Protocol

import psycopg

from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.views.generation import Generation

_PASSING = ("08", "40", "53", "55", "57")
"""SQLSTATE classes of the connection or of the server's state, which no event causes."""


class Projection(Protocol):
    """A view and its fold."""

    name: str
    version: int
    """Raise it when the fold or its tables change: the view is then rebuilt."""
    tables: tuple[Table, ...]
    """The tables in the order in which statements name them. A swap locks them in this order too,
    to avoid deadlocks.

    A row's column ``position`` has the position of the event that last changed it.
    """
    events: frozenset[type[Event]]
    """The events that it applies; other events are not even decoded for it."""

    @property
    def waiting(self) -> int:
        """The number of changed rows that ``store`` would write."""

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Request the rows that ``apply`` needs: one round trip loads them for all views."""

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Apply a batch: new rows are written, changed rows wait for ``store``.

        If it raises an error, the transaction changes nothing.
        """

    def store(self, generation: Generation, most: int | None = None) -> None:
        """Write the changed rows, of each table at most ``most``.

        A live view stores after each batch; a rebuild seldom, and then in small portions.
        """

    def forget(self) -> None:
        """Drop the rows in memory: the transaction that changed them was not committed."""


def apply(projection: Projection, generation: Generation, events: Sequence[Recorded]) -> None:
    projection.prepare(generation, events)
    generation.load()
    projection.apply(generation, events)


def is_passing(error: Exception) -> bool:
    """True if a failure is transient: the events are then tried again, and no view is stopped."""
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or error.sqlstate[:2] in _PASSING
    return isinstance(error, psycopg.InterfaceError)


def error_line(error: Exception) -> str:
    """An error in one line. PostgreSQL repeats values of rows behind its own first line."""
    if isinstance(error, psycopg.Error):
        first, _, _ = str(error).partition("\n")
        return f"{type(error).__name__}({first!r})"
    return repr(error)
