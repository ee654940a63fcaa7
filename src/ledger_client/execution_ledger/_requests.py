"""Requests and answers without a connection: shared by both clients, the reporter and tests."""

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
"""The pauses between attempts double, from the first to the longest one, in seconds."""

ENCODER = msgspec.json.Encoder(decimal_format="number")
ATTRIBUTES = ("id", "source", "time", "actortype", "actorid")
"""The attributes of a fact that a caller may give with its data."""


@dataclass(frozen=True)
class Settings:
    """The service's address, the credential, and what else applies to each request."""

    url: str
    token: str = field(repr=False)
    source: str
    timeout: float

    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        agent = f"execution-ledger-client/{VERSION}"
        return {"authorization": f"Bearer {self.token}", "user-agent": agent}

    def options(self, transport: object | None) -> dict[str, Any]:
        """The options of an HTTP client that sends the token only to this service."""
        options: dict[str, Any] = {"base_url": self.url, "headers": self.headers()}
        # Without TLS, skip loading the certificates of authorities, which takes 8 ms.
        options |= {"follow_redirects": False, "verify": self.url.startswith("https:")}
        # Without TLS, a token for this machine must not pass through a proxy of the environment.
        options |= {"trust_env": not is_plain_loopback(self.url)}
        return options | ({"transport": transport} if transport is not None else {})


def settings_of(url: str | None, token: str | None, source: str | None, timeout: float) -> Settings:
    """The given settings, else those of the environment. Raises NotConfigured."""
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
    """Return True for an http address of this machine."""
    parsed = httpx.URL(url)
    return parsed.scheme == "http" and is_loopback(parsed.host)


def is_loopback(host: str) -> bool:
    """Return True if a host is this machine, by name or address."""
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
    """A value as a query parameter; a list becomes one text with commas."""
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
    """The body of a command, with instants as texts, and ``from`` instead of ``from_``."""
    if isinstance(value, Mapping):
        return {_name(name): _sent(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sent(each) for each in value]
    return instant(value) if isinstance(value, datetime) else value


def fact_of(
    kind: str, subject: str | None, fields: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """A fact as a CloudEvent, from the attributes and data that the caller gave."""
    data, fact = dict(fields), {"specversion": "1.0", "source": source, "type": kind}
    fact |= {} if subject is None else {"subject": subject}
    if "id" not in data:  # with its own id, the caller sets the time too: see ``reporter.encoded``
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
    """An answer whose value is in ``data``."""

    data: T


_EVENT: Any = types.Event


def _event(kind: type, value: Any) -> Any:
    """An event as its own class; of an unknown type or form, an ``OtherEvent``."""
    if kind is not _EVENT:
        raise NotImplementedError
    word = value.get("type") if isinstance(value, dict) else None
    with _reading_types:
        try:
            return msgspec.convert(value, types.EVENTS.get(str(word), types.OtherEvent))
        except msgspec.ValidationError:
            return msgspec.convert(value, types.OtherEvent)


_reading_types = threading.RLock()
"""Held while msgspec may read the annotations of a type for the first time.

If another thread decodes with the half-read type, the process dies by SIGSEGV (msgspec 0.22). The
lock also prevents a fork meanwhile: its child would keep the half-read type."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_reading_types.acquire,
        after_in_parent=_reading_types.release,
        after_in_child=_reading_types.release,
    )


@functools.cache
def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    with _reading_types:
        return msgspec.json.Decoder(kind, dec_hook=_event)


def event_of(body: bytes) -> types.Event:
    """Decode an event from the JSON of its envelope."""
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
"""The errors of decoding an answer that does not have the form of its route."""


def unexpected(answer: httpx.Response, url: str) -> UnexpectedAnswer:
    """The error for an answer that is not a ledger's; ``url`` is the ledger's address."""
    return UnexpectedAnswer(url, answer.status_code, media_of(answer) or None)


def media_of(answer: httpx.Response) -> str:
    """The media type of an answer in lower case; empty if it has none."""
    content_type: str = answer.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


def decoded(kind: Any, answer: httpx.Response, url: str) -> Any:
    """Decode the JSON of an answer into a type. Raises UnexpectedAnswer."""
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
"""The media type of a page for people. No route of the API answers it."""


def error_of(answer: httpx.Response, url: str) -> Problem | UnexpectedAnswer:
    """The error for an answer without success, whose body was read."""
    document, status = document_of(answer), answer.status_code
    if 300 <= status < 400 or (document is None and status in (401, 403, 404)):
        return unexpected(answer, url)
    return problem_of(status, document, answer.headers.get("retry-after"))


def document_of(answer: httpx.Response) -> dict[str, Any] | None:
    """The problem document of an answer; None without a code or the media type of problems."""
    try:
        document = msgspec.json.decode(answer.content)
    except BROKEN:
        document = None
    members = document if isinstance(document, dict) else {}
    is_document = media_of(answer) == "application/problem+json"
    return members if is_document or isinstance(members.get("code"), str) else None


class Attempts:
    """The attempts of one request: which failures are retried, and after how many seconds."""

    def __init__(
        self, method: str, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._method, self._clock = method, clock
        self._end = clock() + timeout
        self._pause = FIRST_PAUSE

    @property
    def timeout(self) -> httpx.Timeout:
        """The time limit of the next attempt."""
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
    """Return True if a retry is safe and may succeed: nothing happens twice."""
    if isinstance(failure, Problem):
        if failure.status == 503:
            return failure.code != "read_only" and method != "DELETE"
        return failure.status in (408, 429)
    if isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return True
    # If the answer to a DELETE was lost, it may have happened, and a retry would be refused.
    return method != "DELETE" and not isinstance(failure, httpx.UnsupportedProtocol)


def is_lost(failure: Exception) -> bool:
    """Return True if a reader should try again later."""
    return isinstance(failure, NotReachable | Unavailable) or (
        isinstance(failure, Problem) and failure.status in (408, 429, 500, 502, 504)
    )


class Rows:
    """Splits bytes that arrive in pieces into whole lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Add a piece, and return the lines that are complete now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return lines

    @property
    def rest(self) -> list[bytes]:
        """The last line, if no line end follows it."""
        return [self._rest] if self._rest else []
