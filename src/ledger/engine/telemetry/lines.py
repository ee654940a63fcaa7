"""The lines of the log, as text or as JSON (contract, Health).

PostgreSQL repeats values of rows in the details of its errors, so a line has the first line of an
error, and a traceback has the first line of each of its errors.
"""

import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

LogFormat = Literal["text", "json"]

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request; None: the code works for no request, or for several at once."""

_encode = msgspec.json.Encoder().encode

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@contextmanager
def working_for(request_ids: set[str | None]) -> Iterator[None]:
    """Name the request in the lines that the block logs, unless it works for several."""
    (request_id,) = request_ids if len(request_ids) == 1 else (None,)
    token = REQUEST_ID.set(request_id)
    try:
        yield
    finally:
        REQUEST_ID.reset(token)


def for_nobody() -> Context:
    """The context of a task or timer that a request begins, but that works for all of them."""
    context = copy_context()
    context.run(REQUEST_ID.set, None)
    return context


class Line(NamedTuple):
    """A line of the log. ``more`` are further members of its JSON."""

    time: float
    level: str
    process: str
    logger: str
    message: str
    request_id: str | None
    more: Mapping[str, Any] = _NOTHING


def as_text(line: Line) -> str:
    """The line for people: local time, level, process, message, and the request id in brackets."""
    instant = f"{_local_second(int(line.time))},{int(line.time % 1 * 1000):03d}"
    request = f" [{line.request_id}]" if line.request_id is not None else ""
    bug = f"\n{line.more['exception']}" if "exception" in line.more else ""
    start = f"{instant} {line.level} ledger-{line.process}"
    return f"{start} {line.message}{request}{bug}"


def as_json(line: Line) -> str:
    """The line for machines: a JSON object, with the time as RFC 3339 in UTC."""
    members = line._asdict() | {"time": utc_time(line.time)}
    members |= members.pop("more")
    try:
        return _encode(members).decode()
    except UnicodeEncodeError:  # a file's name that is no UTF-8
        return json.dumps(members)


def utc_time(instant: float) -> str:
    """An instant as RFC 3339 in UTC, with milliseconds."""
    return f"{_utc_second(int(instant))}.{int(instant % 1 * 1000):03d}Z"


@lru_cache(4)
def _local_second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@lru_cache(4)
def _utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


FORMATS: Mapping[LogFormat, Callable[[Line], str]] = MappingProxyType(
    {"text": as_text, "json": as_json}
)


def process_of(name: str) -> str:
    """The process in lines and metrics, by the name that multiprocessing gives it."""
    return "supervisor" if name == "MainProcess" else name.removeprefix("ledger-")


def message_of(record: logging.LogRecord) -> str:
    """The record's message, with only the first line of an error."""
    if record.name == "asyncio":
        # The further lines show tasks with the whole text of their errors.
        return record.getMessage().partition("\n")[0]
    if isinstance(record.args, tuple):
        told = [_first_line(one) if isinstance(one, Exception) else one for one in record.args]
        return str(record.msg) % tuple(told) if told else str(record.msg)
    return record.getMessage()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]


# A place in a traceback, also of an error in a group, which has a margin.
_PLACE = re.compile(r'[ |]*File "')


def traceback_of(error: BaseException) -> str:
    """The traceback of an error, with only the first line of each error's text."""
    kept = []
    for part in traceback.TracebackException.from_exception(error).format():
        # A part is a place in the code, a sentence between empty lines, or an error's whole text.
        is_pure = part.startswith("\n") or _PLACE.match(part)
        first, _, _ = part.partition("\n")
        kept.append(part if is_pure else f"{first}\n")
    return "".join(kept).rstrip("\n")


class LineFormatter(logging.Formatter):
    """Makes lines of records."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self._line = FORMATS[log_format]

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, which names the request that the thread or task works for."""
        more = {}
        if record.exc_info and record.exc_info[1] is not None:
            more["exception"] = traceback_of(record.exc_info[1])
        line = Line(
            record.created,
            record.levelname,
            process_of(record.processName or ""),
            record.name,
            message_of(record),
            REQUEST_ID.get(),
            more,
        )
        return self._line(line)
