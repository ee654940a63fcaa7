"""given(view, events).when(events).then(table, rows): a view alone, without a database."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.recorded import Recorded
from ledger.engine.views.contract import Projection, apply
from ledger.engine.views.folds import FoldCache

Rows = dict[str, list[Any]]


class _Memory:
    """A generation that keeps written rows in memory; no fold is stored, so all folds are new."""

    def __init__(self) -> None:
        self.rows: Rows = defaultdict(list)

    def write(self, table: Table, rows: Iterable[Any]) -> None:
        self.rows[table.name] += rows

    def ask(self, folds: FoldCache[Any, Any], keys: Iterable[Any], *_: Any) -> None:
        folds.add(folds.recall(keys), ())

    find = ask

    def load(self) -> None:
        """Load nothing: all folds are in memory."""


def _written_rows(view: Projection, events: Sequence[Recorded]) -> Rows:
    memory: Any = _Memory()
    apply(view, memory, events)
    view.store(memory)
    return memory.rows


class _When:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def then(self, table: Table, *expected: Any) -> "_When":
        """Assert that exactly these rows are written, in any order."""
        written = sorted(self.rows(table), key=repr)
        assert written == sorted(expected, key=repr), written
        return self

    def rows(self, table: Table) -> list[Any]:
        """The rows that are written, without the fold's own state."""
        rows = self._rows[table.name]
        return [row._replace(fold=b"") for row in rows] if "fold" in table.columns else rows


class _Given:
    def __init__(self, view: Projection) -> None:
        self._view = view

    def when(self, *events: Recorded) -> _When:
        """Fold these events as one batch."""
        return _When(_written_rows(self._view, events))


def given(view: Projection, *past: Recorded) -> _Given:
    """A view that has taken and stored these events."""
    if past:
        _written_rows(view, past)
    return _Given(view)
