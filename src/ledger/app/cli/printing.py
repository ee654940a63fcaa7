"""The tables, the JSON and the progress bars that commands print."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ledger.engine.values.values import escaped, format_instant

ShowProgress = Callable[[int, int], None]
"""Gets the current position, and the last one."""


Row = Mapping[str, Any]
"""The values of a row by the names of their columns."""

_UNBROKEN = 20
"""Characters of a word that a table never breaks. The longest ids have 19."""


def print_rows(rows: Sequence[Row], columns: Sequence[str], table: Sequence[Row] = ()) -> None:
    """Print rows on standard output: as a table on a terminal, else as TSV with a line of names.

    ``table`` has the rows for the terminal, if its columns differ.
    """
    if sys.stdout.isatty():
        _print_table(table or rows, tuple(table[0]) if table else columns)
        return
    print("\t".join(columns))
    for row in rows:
        print("\t".join(escaped(_text(row[column])) for column in columns))


def print_json(value: Any) -> None:
    """Print a value as JSON, in ASCII: a terminal then obeys no character of it."""
    print(json.dumps(value, indent=2, default=format_instant))


def _print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print a table that fits the terminal: cells break at blanks and in long words, never in ids.

    A terminal narrower than the unbroken words breaks the lines itself.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    cells = [[_lines(row[column]) for column in columns] for row in rows]
    for number, column in enumerate(columns):
        words = [column, *(word for row in cells for word in row[number].split())]
        least = max(len(word) for word in words if len(word) <= _UNBROKEN)
        table.add_column(column.replace("_", " "), overflow="fold", min_width=least)
    for row in cells:
        table.add_row(*row)
    # Brackets and colons are parts of names, not rich's markup.
    Console(markup=False, emoji=False, highlight=False).print(table, crop=False)


def _lines(value: Any) -> str:
    return "\n".join(map(escaped, _text(value).split("\n")))


def _text(value: Any) -> str:
    """A value as a cell: RFC 3339 for an instant, and a list's words with blanks between them."""
    if isinstance(value, datetime):
        return format_instant(value)
    if isinstance(value, list | tuple):
        return " ".join(value)
    return "" if value is None else str(value)


@contextmanager
def progress_bars(what: str, names: Sequence[str]) -> Iterator[dict[str, ShowProgress]]:
    """Progress bars on standard error, in positions of the log, with the time that is left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    with Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    ) as progress:

        def bar(name: str) -> ShowProgress:
            task = progress.add_task(f"{what} {name}", total=None)
            return lambda position, end: progress.update(task, completed=position, total=end)

        yield {name: bar(name) for name in names}
