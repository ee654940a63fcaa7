"""A generation of a view: one set of its tables. The next generation can be filled beside it.

The module gathers rows and loads states; ``schema.py`` creates the tables.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

from ledger.engine.postgres.binary import array_text, copy_rows
from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.pipeline import Statement, Transaction, insert
from ledger.engine.postgres.schema.table import Table
from ledger.engine.views.folds import FoldCache
from ledger.engine.views.schema import of_generation

K = TypeVar("K")
R = TypeVar("R")

_COPY_FROM = 100
"""From so many rows on COPY is cheaper, despite its extra messages."""


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
        """Write rows of a table without replacement at once: they are too many to gather."""
        with self.transaction.cursor().copy(_copy(table)) as copy:
            copy_rows(copy, table.columns.values(), rows)

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
        self._writes.send(of_generation(table, self.number), rows)

    def find(
        self,
        states: FoldCache[K, R],
        keys: Iterable[K],
        table: Table,
        read: Callable[[Any], tuple[K, R]] | None = None,
    ) -> None:
        """Request the states of these keys of a table, as ``ask`` does.

        ``read`` makes a key and its state from the row with the key, or from the latest one if a
        table's key ends with the position. Without ``read`` the column ``fold`` is the state.
        """
        if read is not None:
            row = table.row._make  # type: ignore[attr-defined]  # a NamedTuple
            self.ask(states, keys, _find_by_key(table), lambda rows: map(read, map(row, rows)))
        else:
            self.ask(
                states,
                keys,
                _find_by_key(table, *table.key, "fold"),
                lambda rows: ((key, states.unpacked(state)) for key, state in rows),
            )

    def ask(
        self,
        states: FoldCache[K, R],
        keys: Iterable[K],
        statement: str,
        read: Callable[[Rows], Iterable[tuple[K, R]]],
    ) -> None:
        """Request the states of these keys: from ``load`` on they are in the cache.

        A state comes from the cache, otherwise from the database, otherwise it is new. In the
        statement ``{g}`` stands for ``g<number>``, the suffix of the tables. The parameter ``$1``
        is an array of the keys; if keys have several parts, there is an array for each. ``read``
        makes states from the rows.
        """
        missing = states.recall(keys)
        if not missing:
            return
        columns = zip(*missing, strict=True) if isinstance(missing[0], tuple) else [missing]
        query = Statement(
            statement.replace("{g}", f"g{self.number}").encode(), [*map(array_text, columns)]
        )
        self._writes.transaction.defer(query, lambda rows: states.add(missing, read(rows)))

    def load(self) -> None:
        """Load the requested folds into the cache, in one round trip."""
        self._writes.transaction.flush()


@cache
def _find_by_key(table: Table, *columns: str) -> str:
    """The statement that finds rows by their whole keys, or the latest row of each key."""
    is_history = table.key[-1] == "position"
    key = table.key[:-1] if is_history else table.key
    names, chosen = ", ".join(key), ", ".join(columns or table.columns)
    if len(key) == 1 and not is_history:
        type_ = table.columns[names]
        return f"SELECT {chosen} FROM ledger.{table.name}_{{g}} WHERE {names} = ANY($1::{type_}[])"
    arrays, alike = [], []
    for number, column in enumerate(key, 1):
        type_ = table.columns[column]
        is_array = type_.endswith("[]")  # and comes as text (``array_text``)
        arrays.append(f"${number}::{'text' if is_array else type_}[]")
        alike.append(f"t.{column} = asked.{column}{f'::{type_}' if is_array else ''}")
    return f"""
SELECT found.* FROM unnest({", ".join(arrays)}) AS asked ({names})
CROSS JOIN LATERAL (
    SELECT {chosen} FROM ledger.{table.name}_{{g}} AS t WHERE {" AND ".join(alike)}
    {"ORDER BY position DESC" if is_history else ""} LIMIT 1
) AS found
"""


def _copy(table: Table) -> bytes:
    columns = ", ".join(table.columns)
    return f"COPY ledger.{table.name} ({columns}) FROM STDIN (FORMAT BINARY)".encode()
