"""The contract of a projection: a pure fold of events into the rows of a few tables.

A projection is a folder in ``projections/``, whose ``view.py`` has its rows, tables and fold. The
machinery gives a projection batches of events in log order, inside a transaction that also moves
its tracking. The projection never reads a clock and never commits. The same code fills a live view,
a view that is being rebuilt, and the copy that ``verify`` compares with.
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
    """Raised when the fold or its tables change: the view is then rebuilt."""
    tables: tuple[Table, ...]
    """The tables in the order in which statements name them: a swap locks them in this order too,
    to avoid deadlocks.

    The column ``position`` of each row has the position of the event that last changed it.
    """
    events: frozenset[type[Event]]
    """The events that it folds; other events are not even decoded for it."""

    @property
    def waiting(self) -> int:
        """The number of changed rows that ``store`` would write."""

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for the rows that ``fold`` needs: one round trip loads them for all views."""

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Fold a batch: new rows are written, changed rows wait for ``store``.

        Raises any error of the fold; the transaction then keeps nothing.
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
    """Whether a failure is transient: then the events are tried again, and no view is stopped."""
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or error.sqlstate[:2] in _PASSING
    return isinstance(error, psycopg.InterfaceError)


def error_line(error: Exception) -> str:
    """An error in one line. PostgreSQL repeats values of rows behind the first line of its own."""
    if isinstance(error, psycopg.Error):
        first, _, _ = str(error).partition("\n")
        return f"{type(error).__name__}({first!r})"
    return repr(error)
