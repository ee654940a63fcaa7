"""How commands print tables."""

import sys

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """A table on stdout."""
    # Piped output keeps whole lines: a narrow default would cut ids. What is in brackets or between
    # colons is part of a name, not rich's markup.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, markup=False, emoji=False).print(table)
