"""Exports as files of any length: JSON lines and CSV, in constant memory.

An export ends at the position that was reached when it began, its ``Ledger-Position``. Its first
page is read before the answer begins, so that a refusal gets its own status.

Each page is read by a short statement of its own, so a slow reader holds no connection. If an
export cannot go on, it breaks off: an incomplete file never looks complete. The missing entries
follow the last line that was received (``after``).
"""

import csv
import io
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec.inspect
import psycopg
from fastapi.responses import StreamingResponse
from msgspec.structs import replace
from pydantic import Field
from starlette.types import Receive, Scope, Send

from ledger.engine.http.problems import READ_ERRORS, Unauthorized
from ledger.engine.http.reading import ReadRequest
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.errors import Behind, LedgerError
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import format_instant

_logger = logging.getLogger(__name__)

PORTION = 100
"""Entries of a slice (``loop_slices.py``): other requests wait for some milliseconds at most."""

PAGE = 1000
"""Entries in a page, half a megabyte: some milliseconds for the database."""

# Signs that make a spreadsheet read a cell as a formula; senders choose some cells. Blanks and
# quotation marks before the sign may be dropped. Many spreadsheets divide lines at ``;``, others at
# tabs, and then don't know where a cell with a line end ends.
_SIGNS = "=+@\\-＝＋－＠"
_BEFORE = r';\s"\u200b\ufeff'
_DIVIDES = re.compile(r"[;\t\r\n\v\f]")
_FORMULA = re.compile(rf"\A[{_BEFORE}]*+(?=[{_SIGNS}])|(?<![{_BEFORE}])[{_BEFORE}]++(?=[{_SIGNS}])")
"""The blanks and dividers before a sign. Possessive, and never from the middle of a run, so the
time is linear."""

_JSON = (msgspec.inspect.DictType, msgspec.inspect.ListType, msgspec.inspect.VarTupleType)
"""Types whose values become a cell with JSON."""

_LINES, _TABLE = "application/x-ndjson", "text/csv"
_KINDS = {"jsonl": _LINES, "csv": _TABLE}

Row = Sequence[Any]
Cells = Sequence[str | int | None]

NextSlice = Callable[[], Awaitable[None]]
"""Waits until an export's next slice may be rendered."""

Format = Annotated[
    Literal["jsonl", "csv"], Field(description="JSON objects, one on each line, or a table.")
]


class Cut(NamedTuple):
    """How a struct becomes the row of a table."""

    columns: tuple[str, ...]
    cells: Callable[[Any], Cells]

    def ordered(self, names: str) -> "Cut":
        columns = tuple(names.split())
        assert sorted(columns) == sorted(self.columns), set(columns) ^ set(self.columns)
        pick = itemgetter(*map(self.columns.index, columns))
        return Cut(columns, lambda entry: pick(self.cells(entry)))


def cut_of(struct: type[msgspec.Struct], *, without: Sequence[str] = ()) -> Cut:
    """The columns of a table of these structs, in the order of the fields.

    ``without`` names columns to leave out. A nested struct has columns of its own, which begin with
    its field's name. A list or a document is a cell with JSON, after all others.
    """
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    fields = [(f.name, _kind(f.type), f.required) for f in info.fields if f.name not in without]
    fields.sort(key=lambda field: isinstance(field[1], _JSON))
    columns, within = list[str](), list[tuple[int, Callable[[Any], Cells]]]()
    ways = dict[int, Callable[[Any], Any]]()
    for index, (name, kind, is_set) in enumerate(fields):
        if isinstance(kind, msgspec.inspect.StructType):
            inner = cut_of(kind.cls, without=[each.removeprefix(f"{name}_") for each in without])
            columns += [f"{name}_{column}" for column in inner.columns]
            # From last to first, since a struct's cells move those after it.
            within.insert(0, (index, partial(_within, inner)))
            continue
        columns.append(name)
        if (way := _way(kind, is_set=is_set)) is not None:
            ways[index] = way
    pick = attrgetter(*(name for name, *_ in fields))

    def cells(entry: Any) -> Cells:
        found = list(pick(entry))
        for index, way in ways.items():
            found[index] = way(found[index])
        for index, spread in within:
            found[index : index + 1] = spread(found[index])
        return found

    return Cut(tuple(columns), cells)


def _kind(kind: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """The type of a field without null."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _kind(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        (kind,) = (k for k in kind.types if not isinstance(k, msgspec.inspect.NoneType))
        return _kind(kind)
    return kind


def _way(kind: msgspec.inspect.Type, *, is_set: bool) -> Callable[[Any], Any] | None:
    """How a value becomes a cell; None: unchanged. Senders choose the texts without a pattern."""
    if isinstance(kind, _JSON):
        return lambda value: (
            None if value is None or value is msgspec.UNSET else harmless_json(json_text(value))
        )
    if isinstance(kind, msgspec.inspect.StrType) and kind.pattern is None:
        return harmless if is_set else lambda word: harmless(word or None)
    if isinstance(kind, msgspec.inspect.DateTimeType):
        return lambda value: format_instant(value) if isinstance(value, datetime) else value
    return None if is_set else lambda value: None if value is msgspec.UNSET else value


def _within(inner: Cut, entry: Any) -> Cells:
    return (None,) * len(inner.columns) if entry is None else inner.cells(entry)


class Exported(NamedTuple):
    """The file name of an export, and how its entries are written."""

    name: str
    entry: Callable[[Row], Any]
    """Makes an entry from a row without its position; the entry's JSON is a line."""
    cut: Cut

    def file(
        self,
        next_slice: NextSlice,
        format_: str,
        pages: AsyncIterator[Sequence[Row]],
        position: int,
        *,
        goes_on: bool,
    ) -> StreamingResponse:
        """The rows of these pages as a file; a table that ``goes_on`` has no heading."""
        is_table = format_ == "csv"
        heading = _csv([self.cut.columns]) if is_table and not goes_on else b""
        return _File(
            _written(next_slice, pages, self._table if is_table else self._lines, heading),
            media_type=f"{_TABLE}; charset=utf-8" if is_table else _LINES,
            headers={
                "Ledger-Position": str(position),
                "Content-Disposition": f'attachment; filename="{self.name}.{format_}"',
                "Cache-Control": "no-store",
            },
        )

    def _lines(self, rows: Iterable[Row]) -> bytes:
        return "".join(f"{json_text(self.entry(row))}\n" for row in rows).encode()

    def _table(self, rows: Iterable[Row]) -> bytes:
        return _csv(self.cut.cells(self.entry(row)) for row in rows)


def answers(description: str, *formats: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of an export, in all formats if none is named."""
    kinds = [kind for name, kind in _KINDS.items() if name in (formats or _KINDS)]
    content = {kind: {"schema": {"type": "string"}} for kind in kinds}
    return {200: {"description": description, "content": content}, **READ_ERRORS}


def harmless(word: str | None) -> str | None:
    """Put an apostrophe before each sign of a formula, and before a first tab or line end."""
    if word is None or ((word[:1].isalnum() or word[:1] == "/") and _DIVIDES.search(word) is None):
        return word
    tame = _FORMULA.sub(_with_apostrophe, word)
    return "'" + tame if tame.startswith(("\t", "\r", "\n", "\v")) else tame


def _with_apostrophe(found: re.Match[str]) -> str:
    is_beginning = found.start() == 0 or _DIVIDES.search(found[0]) is not None
    return f"{found[0]}'" if is_beginning else found[0]


def harmless_json(text: str) -> str:
    """Return JSON with ``\\u003b`` for a ``;`` behind which a spreadsheet would see a formula."""
    if ";" not in text:
        return text
    return _FORMULA.sub(lambda found: found[0].replace(";", r"\u003b"), text)


def begin_export(request: ReadRequest) -> NextSlice:
    """Count the request as an export; return how it waits for slices. Raises RateLimited."""
    services = request.services
    request.http.state.share.count(services.shares.exports)
    return partial(services.slices.next, request.principal.tenant_key)


async def pages(
    request: ReadRequest, rows: Answer, following: Callable[[Row], Question], *, is_log: bool = True
) -> AsyncIterator[Sequence[Row]]:
    """The rows of an export from its first page on, up to the position of that page.

    ``following`` returns the question for the page after a row. The export of a log has its entries
    up to that position. Any other shows each thing as of it, so no page may come from a view behind
    it.
    """
    end = rows.position
    while True:
        found = [row for row in rows if row[1] is not None and not (is_log and row[1] > end)]
        is_last = len(found) < PAGE
        if rows.position < end and (is_last or not is_log):
            # A crash of the database took the view back: the missing rows existed before.
            raise Behind("The view has fallen behind the end of the export.")
        yield found
        if is_last:
            return
        # A credential that ended meanwhile ends the export, of the API and of the page alike.
        if await request.services.lapsed([request.principal]):
            raise Unauthorized("The credential was revoked or has expired.")
        rows = Answer(await request.services.pool.fetch(*following(found[-1]).arguments))


def log_pages(
    request: ReadRequest, question: Question, rows: Answer
) -> AsyncIterator[Sequence[Row]]:
    """The pages of a log, whose statement begins ``after`` a position."""
    return pages(
        request,
        rows,
        lambda row: replace(question, parameters={**question.parameters, "after": row[1]}),
    )


class _File(StreamingResponse):
    """A streamed answer that breaks off if its rows cannot be read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the rows; after an error the answer never ends properly."""
        try:
            await super().__call__(scope, receive, send)
        except (LedgerError, psycopg.Error, OSError) as error:
            _logger.warning("an export broke off: %s", error)
        finally:
            # A client that leaves drops the rows half read. They must end in this event loop: the
            # garbage collector may come after the loop is closed.
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()


async def _written(
    next_slice: NextSlice,
    pages: AsyncIterator[Sequence[Row]],
    render: Callable[[Iterable[Row]], bytes],
    heading: bytes,
) -> AsyncIterator[bytes]:
    if heading:
        yield heading
    async for found in pages:
        for begin in range(0, len(found), PORTION):
            await next_slice()
            yield render(row[1:] for row in found[begin : begin + PORTION])


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
