"""How commands print tables."""

import sys

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """A table on stdout."""
    # Piped output keeps whole lines: a narrow default would cut ids.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
