"""Requests and answers without any connection: shared by both clients, the reporter and tests."""

import functools
import ipaddress
import keyword
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from execution_ledger import types
from execution_ledger._operation import Answer, Command, File, Listing, Operation, Text
from execution_ledger.errors import (
    NotConfigured,
    NotReachable,
    Problem,
    Unavailable,
    UnexpectedAnswer,
    problem_of,
)

T = TypeVar("T")

VERSION = "0.1.0"
CONNECT_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""The pauses between attempts double, from the first to the longest, in seconds."""

ENCODER = msgspec.json.Encoder(decimal_format="number")
ATTRIBUTES = ("id", "source", "time", "actortype", "actorid")
"""The attributes of a fact that may be given beside its data."""


@dataclass(frozen=True)
class Settings:
    """The service, and the credential for it."""

    url: str
    token: str = field(repr=False)
    source: str
    timeout: float

    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        agent = f"execution-ledger-client/{VERSION}"
        return {"authorization": f"Bearer {self.token}", "user-agent": agent}

    def options(self, transport: object | None) -> dict[str, Any]:
        """The options of an HTTP client that sends the token to this service alone."""
        options: dict[str, Any] = {"base_url": self.url, "headers": self.headers()}
        # A connection without TLS needs no certificates of authorities, which take 8 ms to load.
        options |= {"follow_redirects": False, "verify": self.url.startswith("https:")}
        # A token that goes without TLS to this machine must not go by a proxy of the environment.
        options |= {"trust_env": not is_plain_loopback(self.url)}
        return options | ({"transport": transport} if transport is not None else {})


def settings_of(url: str | None, token: str | None, source: str | None, timeout: float) -> Settings:
    """The settings that were given, else those of the environment. Raises NotConfigured."""
    url, token = url or os.environ.get("ELK_URL"), token or os.environ.get("ELK_TOKEN")
    if not url or not token:
        raise NotConfigured("Give the ledger's address and a token, or set ELK_URL and ELK_TOKEN.")
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise NotConfigured("The address must be http://… or https://…, without user or password.")
    program = Path(sys.argv[0] if sys.argv else "").stem.strip("-") or "python"
    source = source or os.environ.get("ELK_SOURCE") or f"/{program}"
    return Settings(url.rstrip("/"), token, source, timeout)


def is_plain_loopback(url: str) -> bool:
    """True if an address is http, and of this machine."""
    parsed = httpx.URL(url)
    return parsed.scheme == "http" and is_loopback(parsed.host)


def is_loopback(host: str) -> bool:
    """True if a host is this machine, by its name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Outgoing(NamedTuple):
    """A request to the service."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes | None


def request_of(
    operation: Operation[Any], ids: tuple[object, ...], arguments: Mapping[str, object]
) -> Outgoing:
    """The request for a route, with the ids in its path. Raises ValueError for impossible ids."""
    path, fields = operation.path, dict(arguments)
    for value in map(str, ids):
        if value in ("", ".", ".."):
            raise ValueError(f"{value!r} is no id")
        before, _, after = path.partition("{")
        path = before + quote(value, safe="") + after.partition("}")[2]
    headers = {}
    if (least := fields.pop("min_position", None)) is not None:
        headers["ledger-min-position"] = str(least)
    key = fields.pop("idempotency_key", None)
    if operation.method == "GET":
        query = {_name(name): word(value) for name, value in fields.items() if value is not None}
        return Outgoing("GET", path, query, headers, None)
    if operation.method == "DELETE" or operation.path.endswith("/heartbeat"):
        return Outgoing(operation.method, path, {}, headers, None)
    headers["idempotency-key"] = str(key or uuid.uuid4().hex)
    headers["content-type"] = "application/json"
    return Outgoing(operation.method, path, {}, headers, ENCODER.encode(_sent(fields)))


def word(value: object) -> str:
    """A value as a word of a query; several words with commas between them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(map(word, value))
    return str(value)


def instant(value: object) -> str:
    """An instant as RFC 3339. Raises ValueError for a ``datetime`` without a zone."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a datetime needs a zone, such as datetime.now(UTC)")
        return value.isoformat().replace("+00:00", "Z")
    return word(value)


def _name(name: str) -> str:
    bare = name.removesuffix("_")
    return bare if keyword.iskeyword(bare) else name


def _sent(value: object) -> object:
    """The body of a command, with instants as texts, and ``from`` for ``from_``."""
    if isinstance(value, Mapping):
        return {_name(name): _sent(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sent(each) for each in value]
    return instant(value) if isinstance(value, datetime) else value


def fact_of(
    kind: str, subject: str | None, fields: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """A fact as a CloudEvent, of the attributes and the data that the caller gave."""
    data, fact = dict(fields), {"specversion": "1.0", "source": source, "type": kind}
    fact |= {} if subject is None else {"subject": subject}
    if "id" not in data:  # else the time is the caller's, too: see ``reporter.encoded``
        fact |= {"id": uuid.uuid4().hex, "time": instant(datetime.now(UTC))}
    for name in ATTRIBUTES:
        if name in data:
            value = data.pop(name)
            fact[name] = instant(value) if name == "time" else value
    return fact | {"data": _instants(data)}


def _instants(data: dict[str, Any]) -> dict[str, Any]:
    return {
        name: instant(each) if isinstance(each, datetime) else each for name, each in data.items()
    }


class _Data(msgspec.Struct, Generic[T]):
    """The answer that has what is asked for as its ``data``."""

    data: T


_EVENT: Any = types.Event


def _event(kind: type, value: Any) -> Any:
    """An event of its own class; of an unknown type, or of an unknown form, an ``OtherEvent``."""
    if kind is not _EVENT:
        raise NotImplementedError
    word = value.get("type") if isinstance(value, dict) else None
    with _reading_types:
        try:
            return msgspec.convert(value, types.EVENTS.get(str(word), types.OtherEvent))
        except msgspec.ValidationError:
            return msgspec.convert(value, types.OtherEvent)


_reading_types = threading.RLock()
"""Held while msgspec may read the annotations of a type for the first time. Meanwhile other threads
run, and one that decodes by the half-read type ends the process by SIGSEGV (msgspec 0.22). No fork
comes between either, since its child would have the half-read type for ever."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_reading_types.acquire,
        after_in_parent=_reading_types.release,
        after_in_child=_reading_types.release,
    )


@functools.cache
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """The decoder of a type."""
    with _reading_types:
        return msgspec.json.Decoder(kind, dec_hook=_event)


def event_of(body: bytes) -> types.Event:
    """The event of an envelope in JSON."""
    event: types.Event = decoder(types.Event).decode(body)
    return event


BROKEN = (
    msgspec.MsgspecError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""The errors of reading an answer that has another form than its route's."""


def unexpected(answer: httpx.Response, url: str) -> UnexpectedAnswer:
    """The error of an answer that is none of a ledger's; ``url`` is the ledger's address."""
    return UnexpectedAnswer(url, answer.status_code, media_of(answer) or None)


def media_of(answer: httpx.Response) -> str:
    """The media type of an answer, in small letters; empty if it names none."""
    content_type: str = answer.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


def decoded(kind: Any, answer: httpx.Response, url: str) -> Any:
    """The JSON of an answer, as an object of a type. Raises UnexpectedAnswer."""
    try:
        return decoder(kind).decode(answer.content)
    except BROKEN:
        raise unexpected(answer, url) from None


def answer_of(operation: Operation[T], answer: httpx.Response, url: str) -> T:
    """The value of a successful answer. Raises UnexpectedAnswer."""
    kind: Any = operation.type
    if isinstance(operation, Text | File):
        if media_of(answer) == PAGE:
            raise unexpected(answer, url)
        return answer.text if kind is str else answer.content  # type: ignore[return-value]
    if kind is None:
        if answer.content:
            raise unexpected(answer, url)
        return None  # type: ignore[return-value]
    if isinstance(operation, Listing):
        kind = types.Page[kind]
    is_wrapped = isinstance(operation, Answer | Command)
    value = decoded(_Data[kind] if is_wrapped else kind, answer, url)
    return value.data if is_wrapped else value  # type: ignore[no-any-return]


PAGE = "text/html"
"""The media type of a page for people, which no route of the API answers."""


def error_of(answer: httpx.Response, url: str) -> Problem | UnexpectedAnswer:
    """The error of an answer without success, whose body was read."""
    document, status = document_of(answer), answer.status_code
    if 300 <= status < 400 or (document is None and status in (401, 403, 404)):
        return unexpected(answer, url)
    return problem_of(status, document, answer.headers.get("retry-after"))


def document_of(answer: httpx.Response) -> dict[str, Any] | None:
    """The problem document of an answer, which has a code or its own media type; else None."""
    try:
        document = msgspec.json.decode(answer.content)
    except BROKEN:
        document = None
    members = document if isinstance(document, dict) else {}
    is_document = media_of(answer) == "application/problem+json"
    return members if is_document or isinstance(members.get("code"), str) else None


class Attempts:
    """The attempts of one request: which failure is tried again, and after how many seconds."""

    def __init__(
        self, method: str, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._method, self._clock = method, clock
        self._end = clock() + timeout
        self._pause = FIRST_PAUSE

    @property
    def timeout(self) -> httpx.Timeout:
        """The time that the next attempt has."""
        left = max(self._end - self._clock(), 0.001)
        return httpx.Timeout(left, connect=min(left, CONNECT_SECONDS))

    def again(self, failure: Problem | UnexpectedAnswer | httpx.TransportError) -> float:
        """The seconds until the next attempt. Raises the error if there is none."""
        if isinstance(failure, UnexpectedAnswer):
            raise failure
        if isinstance(failure, Problem):
            error: Problem | NotReachable = failure
            wait = failure.retry_after or 0.0
        else:
            error, wait = not_reachable(failure), 0.0
        pause = max(wait, self._pause) * random.uniform(1.0, 1.5)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if not is_passing(failure, self._method) or self._clock() + pause >= self._end:
            raise error from (None if error is failure else failure)
        return pause


def not_reachable(failure: httpx.TransportError) -> NotReachable:
    """The error of a connection that failed."""
    return NotReachable(f"No answer from the ledger: {failure or type(failure).__name__}")


def is_passing(failure: Problem | httpx.TransportError, method: str) -> bool:
    """True if the same request may be tried again: nothing happens twice, and it may succeed."""
    if isinstance(failure, Problem):
        if failure.status == 503:
            return failure.code != "read_only" and method != "DELETE"
        return failure.status in (408, 429)
    if isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return True
    # A DELETE may have been done when its answer was lost, and would then be refused.
    return method != "DELETE" and not isinstance(failure, httpx.UnsupportedProtocol)


def is_lost(failure: Exception) -> bool:
    """True if a reader should come back later."""
    return isinstance(failure, NotReachable | Unavailable) or (
        isinstance(failure, Problem) and failure.status in (408, 429, 500, 502, 504)
    )


class Rows:
    """Bytes that come in pieces, as whole lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are complete now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return lines

    @property
    def rest(self) -> list[bytes]:
        """The last line, if no line end came after it."""
        return [self._rest] if self._rest else []
