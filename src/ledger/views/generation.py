"""A generation of a view: one set of its tables, beside which the next one can be filled.

Rows are gathered and folds are loaded here; ``schema.py`` creates the tables.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ledger.postgres import arrays
from ledger.postgres.binary import copy_rows
from ledger.postgres.exchange import Rows
from ledger.postgres.pipeline import Statement, Transaction
from ledger.postgres.rows import insert
from ledger.postgres.table import Table
from ledger.views.folds import Folds
from ledger.views.schema import of_generation

K = TypeVar("K")
R = TypeVar("R")

_COPY_FROM = 100
"""Rows from which on COPY is cheaper, its extra messages included."""


class Writes:
    """What a transaction will write: gathered, then sent as one statement and few COPYs.

    A batch of a few events touches ten tables; one statement each would cost more than the rows.
    """

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self._rows: dict[Table, list[Sequence[Any]]] = {}

    def add(self, table: Table, rows: Iterable[Sequence[Any]]) -> None:
        """Gather rows. Within one transaction no row of a table that replaces comes twice."""
        self._rows.setdefault(table, []).extend(rows)

    def send(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of a table that only grows now: they are too much to be gathered."""
        with self.transaction.cursor().copy(_copy(table)) as copy:
            copy.write(copy_rows(tuple(table.columns.values()), rows))

    def flush(self) -> None:
        """Write what was gathered, at the latest with the transaction's commit."""
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
    """The tables of one generation, in a transaction that is someone else's."""

    def __init__(self, writes: Writes, number: int) -> None:
        self._writes = writes
        self.number = number

    def write(self, table: Table, rows: Iterable[Sequence[Any]]) -> None:
        """Have rows written, each a value a column, at the end of the transaction."""
        self._writes.add(of_generation(table, self.number), rows)

    def send(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Have rows of a table that only grows written at once, and forgotten."""
        self._writes.send(of_generation(table, self.number), rows)

    def ask(
        self,
        folds: Folds[K, R],
        keys: Iterable[K],
        statement: str,
        read: Callable[[Rows], Iterable[tuple[K, R]]],
    ) -> None:
        """Have folds of these keys in memory from ``load`` on: remembered, else stored, else new.

        The statement names its table as ``{g}``: the number is put there. It takes an array of keys
        as ``$1``, or of each of their parts; ``read`` makes folds of its rows.
        """
        missing = folds.recall(keys)
        if not missing:
            return
        columns = zip(*missing, strict=True) if isinstance(missing[0], tuple) else [missing]
        asked = Statement(
            statement.replace("{g}", f"g{self.number}").encode(), [*map(arrays.array_text, columns)]
        )
        self._writes.transaction.defer(asked, lambda rows: folds.add(missing, read(rows)))

    def load(self) -> None:
        """Have all in memory that was asked for."""
        self._writes.transaction.flush()


def _copy(table: Table) -> bytes:
    columns = ", ".join(table.columns)
    return f"COPY ledger.{table.name} ({columns}) FROM STDIN (FORMAT BINARY)".encode()
