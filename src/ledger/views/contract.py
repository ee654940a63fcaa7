"""What a projection is: a pure fold of events into rows of a few tables.

One projection is one folder in ``projections/``: its ``view.py`` has the rows, the tables and the
fold. The machinery here gives it batches of events in log order, inside a transaction that also
moves its tracking; the projection never reads a clock and never commits. The same code fills a view
that is live, one that is being rebuilt, and the copy that ``verify`` compares with.
"""

from collections.abc import Sequence
from typing import Protocol

from ledger.domain.recorded import Event, Recorded
from ledger.postgres.table import Table
from ledger.views.generation import Generation


class Projection(Protocol):
    """A view and how it is kept."""

    name: str
    version: int
    """Raised when the fold or its tables change: the view is then rebuilt."""
    tables: tuple[Table, ...]
    """In the order in which statements name them, so that a swap locks them in that order too.

    Every row keeps, in ``position``, the event that last touched it.
    """
    events: frozenset[type[Event]]
    """The events it folds; all others pass by undecoded."""

    @property
    def waiting(self) -> int:
        """Changed rows that ``store`` would write."""

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for what ``fold`` will need: it comes in one trip with what other views need."""

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Fold a batch: added rows are written, changed ones wait for ``store``.

        Raises whatever goes wrong; nothing is kept then.
        """

    def store(self, generation: Generation, most: int | None = None) -> None:
        """Write the changed rows, of each table so many at the most.

        A live view does so after each batch, a rebuild seldom, and then bit by bit.
        """

    def forget(self) -> None:
        """Drop rows kept in memory: the transaction they were changed in did not commit."""


def take(projection: Projection, generation: Generation, events: Sequence[Recorded]) -> None:
    """Load what a batch of events needs, and fold it."""
    projection.prepare(generation, events)
    generation.load()
    projection.fold(generation, events)
