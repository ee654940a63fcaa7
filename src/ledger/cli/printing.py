"""The tables and progress bars that commands print."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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

ShowProgress = Callable[[int, int], None]
"""Gets the present position, and the last one."""


def print_table(table: Table) -> None:
    """Print a table on standard output."""
    # Piped output keeps whole lines: a narrow default would cut ids. Brackets and colons are parts
    # of names, not rich's markup.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, markup=False, emoji=False).print(table)


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
