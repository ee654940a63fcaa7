"""CSV as spreadsheets write it, read by a map: a row becomes one fact (contract, Files).

Nothing is guessed: a cell that does not fit its field refuses its row, by the line of the file and
the name of the column.
"""

import codecs
import csv
import re
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from typing import Any, BinaryIO, TextIO

import msgspec

from ledger.app.cli.files import map_file
from ledger.app.cli.line_parser import CHUNK_BYTES, MAX_LINE, Chunk, fact_of
from ledger.app.composition.database import ConfigurationError
from ledger.engine.values import json_gate
from ledger.engine.values.calendar import calendar_of
from ledger.engine.values.errors import Invalid, TooLarge
from ledger.engine.values.values import escaped, format_instant
from ledger.features.facts.envelope import MAX_ITEMS, TOO_LARGE, Fact, Rejected

_CREATE_IDS = "CREATE TABLE seen (id TEXT PRIMARY KEY, rows INTEGER) WITHOUT ROWID"

_COUNT = """
INSERT INTO seen VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET rows = rows + 1 RETURNING rows
"""

_ERROR = re.compile(r"#(?:\w{1,2}/\w{1,2}|NV|#+|GETTING_DATA|¡?[^\W\d]\S*[!?])|Err:\d+")
"""A cell with an error, or with a number too wide for its column."""

_FIRST_SERIAL, _LAST_SERIAL = 61, 73_050
"""1900-03-01 and 2099-12-31: before March 1900, Excel counts a day that did not exist."""
_SERIAL_ZERO = datetime(1899, 12, 30)

Row = list[str] | Rejected
"""The cells of the map's columns, the id first; or why the row has none."""


class _Lines:
    """The lines of a file, with their ends, for the CSV reader.

    Memory does not depend on the file: the rest of a line that is too long is dropped.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._again: deque[tuple[str, bool]] = deque()
        self._row: list[tuple[str, bool]] = []
        """The lines of the current row, each with True if its rest was dropped."""
        self.number = 0
        """The number of the line that was given last."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        read = self._again.popleft() if self._again else self._read()
        if not read[0]:
            raise StopIteration
        self.number += 1
        self._row.append(read)
        return read[0]

    def begin_row(self) -> int:
        """Begin a row; return the number of its first line."""
        self._row = []
        return self.number + 1

    def is_cut(self) -> bool:
        """True if something of the row was dropped."""
        return any(is_cut for _, is_cut in self._row)

    def read_anew(self) -> None:
        """Give all lines but the row's first one again: a quote without end has swallowed rows."""
        self._again.extendleft(reversed(self._row[1:]))
        self.number -= len(self._row) - 1

    def _read(self) -> tuple[str, bool]:
        line = rest = self._text.readline(MAX_LINE)
        is_cut = False
        while len(rest) == MAX_LINE and rest[-1] not in "\r\n":
            rest = self._text.readline(MAX_LINE)
            is_cut = is_cut or rest != ""
        return line, is_cut


class _Ids:
    """Makes the ids of rows unique: the n-th row of the same id gets ``#n``.

    They are in a temporary file: a million of them would take a tenth of a gigabyte of memory.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.is_unsure = False
        """True if a row's id could not be read: if fixed, it would change the numbers after it."""
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(_CREATE_IDS)

    def unique(self, row_id: str) -> str:
        """The id, with its number if it is repeated; such a number counts as an id too."""
        ((rows,),) = self._database.execute(_COUNT, (row_id,))
        return row_id if rows == 1 else self.unique(f"{row_id}#{rows}")


class Sheet:
    """A CSV file, and the map by which it is read."""

    def __init__(self, by: map_file.SheetMap) -> None:
        self._by = by
        fields = by.fields()
        own = [("/id", by.id)]
        if not isinstance(by.type, str):
            own.append(("/type", by.type.column))
        self._columns = own + [(_pointer(field), column) for field, column in by.columns.items()]
        """The pointers into the fact, and the names of the columns; the id comes first."""
        self._kinds = ["text"] * len(own) + [fields[field] for field in by.columns]

    def locate(self, pointer: str) -> str:
        """The place with the name of its column, if it has one; an item has its array's."""
        for target, column in self._columns:
            if pointer == target or pointer.startswith(f"{target}/"):
                return f"column {escaped(column)!r} ({pointer})"
        return pointer

    def chunks(self, stream: BinaryIO) -> Iterator[Chunk[Row]]:
        """The rows in chunks. Raises ConfigurationError if the head lacks a column of the map."""
        tell = stream.tell if stream.seekable() else lambda: 0
        text = TextIOWrapper(stream, _codec(self._by.read.encoding), "replace", newline="")
        begun, held, rows = tell(), 0, list[tuple[int, Row]]()
        try:
            for number, row in self._rows(text):
                rows.append((number, row))
                held += sum(map(len, row)) if isinstance(row, list) else 0
                if len(rows) == MAX_ITEMS or held > CHUNK_BYTES:
                    at = tell()
                    yield at - begun, rows
                    begun, held, rows = at, 0, []
            yield tell() - begun, rows
        except UnicodeError as error:
            raise ConfigurationError(
                f"The file is not {self._by.read.encoding}: {error.args[-1]}."
            ) from error
        finally:
            text.detach()

    def _rows(self, text: TextIO) -> Iterator[tuple[int, Row]]:
        """The rows that are not empty, with the numbers of their first lines."""
        csv.field_size_limit(MAX_LINE)
        lines = _Lines(text)
        reader = csv.reader(lines, delimiter=self._by.read.delimiter, strict=True)
        head = self._head(reader)
        mapped = [head.index(column) for _, column in self._columns]
        with closing(sqlite3.connect("")) as database:
            ids = _Ids(database)
            while True:
                number = lines.begin_row()
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    lines.read_anew()
                    ids.is_unsure = True
                    yield number, Rejected(Invalid(f"The row is no CSV: {error}."))
                    continue
                if cells is None:
                    return
                if any(map(str.strip, cells)):
                    yield number, self._row(cells, mapped, len(head), ids, lines.is_cut())

    def _row(self, cells: list[str], mapped: list[int], width: int, ids: _Ids, is_cut: bool) -> Row:
        """The mapped cells. The id is counted even if the row is refused."""
        named = cells[mapped[0]].strip() if mapped[0] < len(cells) else ""
        row_id = ids.unique(named) if named else ""
        ids.is_unsure = ids.is_unsure or not named or "\ufffd" in named
        if is_cut:
            return Rejected(TooLarge(TOO_LARGE))
        if len(cells) < width or any(map(str.strip, cells[width:])):
            sentence = f"The row has {len(cells):,} cells, and the head has {width:,}."
            return Rejected(Invalid(sentence), row_id or None)
        if row_id != named and ids.is_unsure:
            sentence = "The id is repeated, and an earlier row has none that can be read: mend it."
            return Rejected(Invalid(sentence), row_id)
        return [row_id, *(cells[index].strip() for index in mapped[1:])]

    def _head(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            head = [name.strip("\ufeff \t") for name in next(reader, [])]
        except csv.Error as error:
            raise ConfigurationError(f"The head, line 1, is no row of CSV: {error}.") from error
        names = [escaped(name) for name in head if name]
        if any("\0" in name or "\ufffd" in name for name in head):
            raise ConfigurationError(
                f"The head, line 1, is not {self._by.read.encoding}: the map names the encoding in"
                " [read], such as cp1252 or utf-16."
            )
        for _, column in self._columns:
            if (count := head.count(column)) > 1:
                raise ConfigurationError(f"The head, line 1, has {column!r} {count} times.")
            if not count:
                raise ConfigurationError(
                    f"The head, line 1, has no column {column}{map_file.nearest(column, names)}"
                )
        return head

    def read(self, item: Row) -> Fact | Rejected:
        """The fact of a row, in the parser's process. An empty cell is absent."""
        if isinstance(item, Rejected):
            return item
        by = self._by
        event: dict[str, Any] = {"specversion": "1.0", "source": by.source}
        if isinstance(by.type, str):
            event["type"] = by.type
        faults = []
        for (pointer, _), kind, text in zip(self._columns, self._kinds, item, strict=True):
            if text:
                try:
                    _put(event, pointer, _value(kind, text, by.read))
                except (ValueError, OverflowError) as error:
                    faults.append((pointer, str(error)))
        if faults:
            return Rejected(
                Invalid("The row has cells that cannot be read.", tuple(faults)), item[0]
            )
        # A constant is of no use to rows of other types, such as the tenant to check-ins.
        fields = map_file.fields_of(event.get("type", ""))
        for field, value in by.constants.items():
            if field in map_file.ATTRIBUTES or field in fields:
                _put(event, _pointer(field), value)
        return fact_of(msgspec.json.encode(event))


def _codec(encoding: str) -> str:
    """The codec by its name in Python; UTF-8's leaves out a byte order mark."""
    name = codecs.lookup(encoding).name
    return "utf-8-sig" if name == "utf-8" else name


def _pointer(field: str) -> str:
    """The JSON pointer to a field or attribute by its dotted name."""
    return f"/{field}" if field in map_file.ATTRIBUTES else f"/data/{field.replace('.', '/')}"


def _put(event: dict[str, Any], pointer: str, value: Any) -> None:
    *within, name = pointer.split("/")[1:]
    for each in within:
        event = event.setdefault(each, {})
    event[name] = value


def _value(kind: str, text: str, read: map_file.Dialect) -> Any:
    """The value of a cell that is not empty. Raises ValueError, with a sentence."""
    if "\0" in text or "\ufffd" in text:
        raise ValueError(f"has bytes that are not {read.encoding}")
    if text[0] == "=":
        raise ValueError("has a formula in the place of its result")
    if _ERROR.fullmatch(text):
        raise ValueError("has an error of the spreadsheet in the place of a value")
    if kind == "number":
        return _number(text, read.decimal)
    if kind == "instant":
        return _instant(text, read)
    if kind == "texts":
        return [each.strip() for each in text.split(",") if each.strip()]
    if kind == "json":
        try:
            return json_gate.parse(text.encode())
        except (json_gate.BrokenJson, Invalid) as error:
            raise ValueError("must be JSON") from error
    return text


def _number(text: str, decimal: str) -> float:
    if not re.fullmatch(rf"-?\d{{1,15}}({re.escape(decimal)}\d{{1,15}})?", text, re.ASCII):
        raise ValueError(f"must be a number such as 1250{decimal}5, without any other mark")
    return float(text.replace(decimal, ".")) if decimal in text else int(text)


def _instant(text: str, read: map_file.Dialect) -> str:
    if read.date is None:
        return text
    if read.date == map_file.SERIAL:
        days = _number(text, read.decimal)
        if not _FIRST_SERIAL <= days < _LAST_SERIAL:
            raise ValueError("must be a number of days in Excel, of 1900-03-01 to 2099-12-31")
        # The digits in a sheet are seldom exact to the millisecond.
        local = _SERIAL_ZERO + timedelta(seconds=round(days * 86_400))
    else:
        try:
            local = datetime.strptime(text, read.date)
        except ValueError as error:
            raise ValueError(f"must be a date in the form {read.date}") from error
        if not _agrees(local, text, read.date):
            raise ValueError(f"is not wholly in the form {read.date}")
    if local.tzinfo is not None:
        return format_instant(local)
    calendar = calendar_of(read.time_zone or "")
    if read.date != map_file.SERIAL and not {"H", "I"} & set(map_file.directives(read.date)):
        return format_instant(calendar.begin(local.date()))
    zone = calendar.zone
    # Of an hour that clocks repeat, fold=0 is the first.
    instant = local.replace(tzinfo=zone).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != local:
        raise ValueError(f"is of an hour that the clocks of {read.time_zone} skip")
    return format_instant(instant)


def _agrees(local: datetime, text: str, form: str) -> bool:
    """True if a cell agrees with the result: the day of the week, each digit of glued ones."""
    written = local.strftime(form)
    if map_file.is_glued(form):
        return written == text
    if {"a", "A"} & set(map_file.directives(form)):
        return re.sub(r"\b0+(?=\d)", "", written.lower()) == re.sub(r"\b0+(?=\d)", "", text.lower())
    return True
