"""Output for people and programs: tables, TSV, CSV and JSON."""

import csv
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeAlias

import click
import msgspec

Columns: TypeAlias = dict[str, str]
"""By the title of a column, the path of its value in a row, such as ``oldest_blocker.cause``."""

HIDDEN = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Characters that JSON does not escape: controls of terminals, direction and lines; surrogates."""
UNSAFE, UNSAFE_IN_JSON = re.compile(rf"[\x00-\x1f{HIDDEN}]"), re.compile(f"[{HIDDEN}]")

STYLES = {"blocked": "red", "failed": "red", "refused": "red", "critical": "red", "open": "red"}
STYLES |= {"paused": "yellow", "idle": "yellow", "warning": "yellow", "acknowledged": "yellow"}
STYLES |= {"running": "green", "completed": "green", "recorded": "green", "resolved": "green"}

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
TIMES, PERIODS = ("_at", "since", "until", "due", "oldest"), ("from", "to")
TABLE_ROWS = 100
"""How many rows a terminal shows without ``--limit``."""
GAP, NARROWEST, LONG_WORD = 2, 12, 24
"""Characters between columns; the least width of a column that wraps; longer words are divided."""


def columns(described: str) -> Columns:
    """Parse columns from words such as ``BLOCKED_BY=oldest_blocker.cause``."""
    pairs = (word.split("=") for word in described.split())
    return {title.replace("_", " "): path for title, path in pairs}


def clean(text: str) -> str:
    """Replace control characters and controls of direction in a text by ``·``."""
    return UNSAFE.sub("·", text)


def say(text: str) -> None:
    """Tell a person something on stderr, apart from the results."""
    click.echo(clean(text), err=True)


def json_text(value: object, indent: int = 0) -> str:
    """A value as JSON without control characters that a terminal obeys."""
    encoded = msgspec.json.encode(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    return UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def ago(instant: str, now: datetime) -> str:
    """The time to or from an instant, as a person says it: ``3 h ago``, ``in 2 d``."""
    seconds = (now - datetime.fromisoformat(instant)).total_seconds()
    size, unit = next((each for each in UNITS if abs(seconds) >= each[0]), UNITS[-1])
    count = int(abs(seconds) // size)
    return f"{count} {unit} ago" if seconds >= 0 else f"in {count} {unit}"


def value_at(row: Any, path: str) -> Any:
    """The value at a path, or at the first of several paths that has one; None without any."""
    for way in path.split("|"):
        value = row
        for name in way.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def cell(value: Any, path: str, now: datetime | None = None) -> str:
    """A value as the text of a cell. With ``now``, an instant is relative to it."""
    if value is None:
        return ""
    if isinstance(value, str):
        if now is not None and path.endswith(TIMES):
            return ago(value, now)
        if now is not None and path.endswith(PERIODS):
            value = value.removesuffix("T00:00:00Z")
        return clean(value)
    if isinstance(value, dict) and {"then", "now"} <= value.keys():
        then, at_last = cell(value["then"], path, now), cell(value["now"], path, now)
        return at_last if then == at_last else f"{then or '-'} → {at_last or '-'}"
    if isinstance(value, list) and not any(isinstance(each, dict) for each in value):
        return ", ".join(cell(each, path, now) for each in value)
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return json_text(value)


class Show:
    """Writes a command's results to the standard output in the chosen form."""

    def __init__(self, form: str | None) -> None:
        self.form = form or ("table" if sys.stdout.isatty() else "tsv")
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._has_header = False

    def rows(self, rows: Iterable[Any], columns: Columns, limit: int | None = None) -> None:
        """Show rows as they arrive, or as one table."""
        rows = islice(rows, limit)
        if self.form == "table":
            first = list(islice(rows, limit or TABLE_ROWS))
            self._table(first, columns)
            if next(iter(rows), None) is not None:
                say(f"There are more than {len(first)} rows: --limit shows others, a pipe has all.")
            if not first:
                say("Nothing was found.")
            return
        if self.form == "json":
            before = "["
            for row in rows:
                click.echo(f"{before}\n{json_text(row)}", nl=False)
                before = ","
            click.echo("[]" if before == "[" else "\n]")
            return
        if self.form == "csv":
            self._header(columns)
        for row in rows:
            self.row(row, columns)

    def row(self, row: Any, columns: Columns) -> None:
        """Show one row at once, without a table."""
        if self.form == "json":
            click.echo(json_text(row))
            return
        cells = [cell(value_at(row, path), path) for path in columns.values()]
        if self.form == "csv":
            self._header(columns)
            self._writer.writerow(map(_plain, cells))
        else:
            click.echo(("  " if self.form == "table" else "\t").join(cells))
        sys.stdout.flush()

    def one(self, row: Any, columns: Columns) -> None:
        """Show one object, with a line for each of its values."""
        if self.form == "json":
            click.echo(json_text(row, 2))
        elif self.form == "csv":
            self.row(row, columns)
        else:
            is_table = self.form == "table"
            now, width = datetime.now(UTC) if is_table else None, max(map(len, columns)) + GAP
            for title, path in columns.items():
                text = cell(value_at(row, path), path, now)
                if not is_table:
                    click.echo(f"{title}\t{text}")
                elif text:
                    click.echo(f"{title:{width}}{text}")

    def _header(self, columns: Columns) -> None:
        if not self._has_header:
            self._writer.writerow(title.lower().replace(" ", "_") for title in columns)
        self._has_header = True

    def _table(self, rows: list[Any], columns: Columns) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        now = datetime.now(UTC)
        cells = {
            title: [cell(value_at(row, path), path, now) for row in rows]
            for title, path in columns.items()
        }
        room = shutil.get_terminal_size().columns
        fitted = _fitting(cells, columns, room)
        if not rows or not fitted:
            return
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        for title, width in fitted.items():
            is_number = all(isinstance(value_at(row, columns[title]), int | float) for row in rows)
            table.add_column(
                title,
                min_width=width,
                no_wrap=width >= _widest(cells[title]),
                justify="right" if is_number else "left",
                overflow="fold",
            )
        for texts in zip(*(cells[title] for title in fitted), strict=True):
            table.add_row(*(Text(text, STYLES.get(text, "")) for text in texts))
        is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
        needed = sum(fitted.values()) + GAP * len(fitted)
        console = Console(
            width=max(room, needed), color_system=None if is_plain else "auto", highlight=False
        )
        console.print(table)


def _fitting(cells: Mapping[str, list[str]], columns: Columns, room: int) -> dict[str, int]:
    """The least width of each column that fits on the terminal.

    Columns without any value are dropped, then the last ones that are no ids of the ledger. Only a
    long text that is no id may wrap.
    """
    least = {}
    for title, texts in cells.items():
        widest = _widest(texts)
        may_wrap = not _is_id(columns[title]) and widest > NARROWEST
        if any(texts):
            words = [word for text in texts for word in text.split()]
            narrowest = max(NARROWEST, _widest([word for word in words if len(word) < LONG_WORD]))
            least[title] = max(narrowest if may_wrap else widest, len(title))
    while sum(least.values()) + GAP * (len(least) - 1) > room:
        droppable = [
            title
            for title in least
            if not _is_id(columns[title]) or columns[title] == "external_id"
        ]
        if not droppable:
            break
        del least[droppable[-1]]
    return least


def _widest(texts: list[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)


def _is_id(path: str) -> bool:
    return path.rpartition(".")[2].endswith(("id", "ids", "replaces", "replaced_by"))


def _plain(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, as in the exports of the service."""
    is_formula = re.match(r"[=@+]|-(?![0-9.]+$)", text) is not None
    return f"'{text}" if is_formula else text
