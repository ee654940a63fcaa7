"""A generation of a view: one set of its tables. The next generation can be filled beside it.

The module gathers rows and loads folds; ``schema.py`` creates the tables.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ledger.postgres.binary import array_text, copy_rows
from ledger.postgres.exchange import Rows
from ledger.postgres.pipeline import Statement, Transaction
from ledger.postgres.rows import insert
from ledger.postgres.table import Table
from ledger.views.folds import Folds
from ledger.views.schema import of_generation

K = TypeVar("K")
R = TypeVar("R")

_COPY_FROM = 100
"""The number of rows from which on COPY is cheaper, despite its extra messages."""


class Writes:
    """The writes of a transaction: gathered, then sent as one statement and a few COPYs.

    A batch of a few events changes ten tables; a statement for each would cost more than the rows.
    """

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self._rows: dict[Table, list[Sequence[Any]]] = {}

    def add(self, table: Table, rows: Iterable[Sequence[Any]]) -> None:
        """Gather rows. A table that replaces rows must get no key twice in a transaction."""
        self._rows.setdefault(table, []).extend(rows)

    def send(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of a table without replacement at once: they are too many to be gathered."""
        with self.transaction.cursor().copy(_copy(table)) as copy:
            copy.write(copy_rows(tuple(table.columns.values()), rows))

    def flush(self) -> None:
        """Write the gathered rows: they are sent with the transaction's COMMIT at the latest."""
        few: dict[Table, Sequence[Sequence[Any]]] = {}
        for table, rows in self._rows.items():
            if len(rows) >= _COPY_FROM and not table.replaces:
                self.send(table, rows)
            elif rows:
                few[table] = rows
        if few:
            self.transaction.defer(insert(few))
        self._rows.clear()


class Generation:
    """The tables of a generation, in a transaction that the caller owns."""

    def __init__(self, writes: Writes, number: int) -> None:
        self._writes = writes
        self.number = number

    def write(self, table: Table, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows at the end of the transaction. A row has one value for each column."""
        self._writes.add(of_generation(table, self.number), rows)

    def send(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of a table without replacement at once, without gathering them."""
        self._writes.send(of_generation(table, self.number), rows)

    def ask(
        self,
        folds: Folds[K, R],
        keys: Iterable[K],
        statement: str,
        read: Callable[[Rows], Iterable[tuple[K, R]]],
    ) -> None:
        """Request the folds of these keys: from ``load`` on they are in the cache.

        A fold comes from the cache, or else from the database, or else it is new. In the statement
        ``{g}`` stands for ``g<number>``, the suffix of the tables. The parameter ``$1`` is an array
        of the keys; if keys have several parts, there is an array for each part. ``read`` makes
        folds of the rows.
        """
        missing = folds.recall(keys)
        if not missing:
            return
        columns = zip(*missing, strict=True) if isinstance(missing[0], tuple) else [missing]
        asked = Statement(
            statement.replace("{g}", f"g{self.number}").encode(), [*map(array_text, columns)]
        )
        self._writes.transaction.defer(asked, lambda rows: folds.add(missing, read(rows)))

    def load(self) -> None:
        """Load the requested folds into the cache, in one round trip."""
        self._writes.transaction.flush()


def _copy(table: Table) -> bytes:
    columns = ", ".join(table.columns)
    return f"COPY ledger.{table.name} ({columns}) FROM STDIN (FORMAT BINARY)".encode()
