"""The access log: a line for each answered request (contract, Health).

A layer around the whole application, present only if the setting asks for it. Requests are noted in
memory, and a thread writes their lines a moment later, many at once. If the reader of standard
error stalls, further requests are only counted.

A line shows the path as it was sent, without the query: a search or a cursor may hold a secret. A
token in the path is hidden. Keys appear by their ids, the subject of a provider's token as a
digest, since it may be a person's address.
"""

import hashlib
import multiprocessing
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Awaitable, Iterator
from functools import lru_cache
from urllib.parse import quote, unquote

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.engine.telemetry.lines import FORMATS, Line, LogFormat, as_text, process_of, utc_time

_EVERY_SECONDS = 0.2
_LAST_SECONDS = 2.0
"""How long a stopping process waits for the last lines."""

_MOST_WAITING = 20_000
"""Requests that wait to be written; further ones are only counted."""

_AT_ONCE, _AT_ONCE_TO_A_FILE = 4096, 65_536
"""Bytes of a write. A pipe takes so many at once, unmixed with those of another process."""

_LONGEST_PATH = 500
_TOKEN = re.compile(r"elk_\w+|eyJ[\w-]+\.[\w.-]*")
_USER = "user:"

_encode = msgspec.json.Encoder().encode


class _Answered(msgspec.Struct, gc=False):
    ended: float
    method: str
    path: bytes
    status: int | None
    """None: the client left before the answer began."""
    seconds: float
    size: int
    request_id: str | None
    credential: str | None
    client: str | None


class _JsonLine(msgspec.Struct, gc=False):
    """The members of a line in order: those of every line, then those of a request."""

    time: str
    level: str
    process: str
    logger: str
    message: str
    request_id: str | None
    method: str
    path: str
    status: int | None
    duration_ms: float
    bytes: int
    credential: str | None
    client: str | None


class AccessLog:
    """ASGI middleware around everything else; ``start`` before use, ``stop`` writes the rest."""

    def __init__(self, app: ASGIApp, log_format: LogFormat, descriptor: int) -> None:
        """``descriptor`` is the open file for the lines."""
        self._app, self._format, self._descriptor = app, log_format, descriptor
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._at_once = _AT_ONCE_TO_A_FILE if is_file else _AT_ONCE
        self._process = process_of(multiprocessing.current_process().name)
        self._waiting: deque[_Answered] = deque()
        self._dropped = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="access log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write the waiting lines, unless nobody reads them."""
        self._stopping.set()
        self._thread.join(_LAST_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        state = scope.setdefault("state", {})  # shared with the copies that inner layers make
        status = size = 0

        def send_counted(message: Message) -> Awaitable[None]:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            return send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            client = scope.get("client")
            answered = _Answered(
                time.time(),
                scope["method"],
                scope.get("raw_path") or scope["path"].encode(),
                status or None,
                time.perf_counter() - began,
                size,
                state.get("request_id"),
                state.get("credential"),
                client[0] if client else None,
            )
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(answered)
            else:
                self._dropped += 1

    def _write_on(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(_EVERY_SECONDS)
            self._write()

    def _write(self) -> None:
        chunk = bytearray()  # of whole lines
        for line in self._lines():
            if chunk and len(chunk) + len(line) > self._at_once:
                self._put(chunk)
                chunk.clear()
            chunk += line
        self._put(chunk)

    def _put(self, chunk: bytes | bytearray) -> None:
        try:
            while chunk:
                chunk = chunk[os.write(self._descriptor, chunk) :]
        except OSError:
            return  # standard error has no reader, or its disk is full: nobody could be told

    def _lines(self) -> Iterator[bytes]:
        for _ in range(len(self._waiting)):
            yield self._line_of(self._waiting.popleft())
        dropped, self._dropped = self._dropped, 0
        if dropped:
            message = f"{dropped} requests are not told here: their lines could not be written"
            line = Line(time.time(), "WARNING", self._process, "ledger.access", message, None)
            yield _ended(FORMATS[self._format](line))

    def _line_of(self, answered: _Answered) -> bytes:
        method, path, status = answered.method, redacted_path(answered.path), answered.status
        duration, size = answered.seconds * 1000, answered.size
        credential, client = redacted_credential(answered.credential), answered.client
        message = (
            f"{method} {path} {status or '-'} {duration:.1f} ms {size} bytes"
            f" {credential or '-'} {client or '-'}"
        )
        source = ("INFO", self._process, "ledger.access")
        if self._format == "text":
            return _ended(as_text(Line(answered.ended, *source, message, answered.request_id)))
        line = _JsonLine(
            utc_time(answered.ended),
            *source,
            message,
            answered.request_id,
            method,
            path,
            status,
            round(duration, 3),
            size,
            credential,
            client,
        )
        return _encode(line) + b"\n"


def _ended(line: str) -> bytes:
    return f"{line}\n".encode("utf-8", "backslashreplace")


def redacted_path(raw: bytes) -> str:
    """The path as it was sent, still percent-encoded, without query and without tokens."""
    return _redacted_start(raw[:_LONGEST_PATH])


@lru_cache(1000)
def _redacted_start(raw: bytes) -> str:
    path = raw.partition(b"?")[0].decode("ascii", "backslashreplace")
    if "%" in path and _TOKEN.search(meant := unquote(path)):
        return quote(_TOKEN.sub("***", meant), safe="/*")
    return _TOKEN.sub("***", path)


@lru_cache(1000)
def redacted_credential(credential: str | None) -> str | None:
    """A key's id as it is; a provider's subject as a digest."""
    if credential is None or not credential.startswith(_USER):
        return credential
    digest = hashlib.sha256(credential.removeprefix(_USER).encode()).hexdigest()
    return f"{_USER}{digest[:12]}"
