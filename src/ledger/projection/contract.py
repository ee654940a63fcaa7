"""What a projection is: a pure fold of events into rows, plus the SQL that loads and stores them.

One projection is one file in ``projections/`` with its ``.sql`` beside it. The machinery here
gives it batches of events in log order, inside a transaction that also moves its tracking; the
projection never reads a clock and never commits.
"""

from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any, Protocol

from psycopg import Cursor

from ledger.domain.recorded import Event, Recorded


class Projection(Protocol):
    """A view and how it is kept."""

    name: str
    """Also the name under which queries find its rows: ``ledger.<name>``."""
    version: int
    """Raised when the fold or its tables change: the view is then rebuilt."""
    events: frozenset[type[Event]]
    """The events it folds; all others pass by undecoded."""

    def project(self, cursor: Cursor[Any], table: str, events: Sequence[Recorded]) -> None:
        """Fold a batch into the table's rows. Raises whatever goes wrong; nothing is kept then."""

    def forget(self) -> None:
        """Drop rows kept in memory: the transaction they were changed in did not commit."""


def table_of(name: str, generation: int) -> str:
    """The table that holds a generation of a projection's rows."""
    return f"ledger.{name}_g{generation}"


def ddl(name: str, generation: int) -> str:
    """The projection's ``.sql`` for one generation."""
    text = (files("projections") / f"{name}.sql").read_text()
    return Template(text).substitute(generation=generation)
