"""One request of the answer corpus, its answer, and the parts of an answer that are compared."""

import contextlib
import csv
import hashlib
import http.client
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

HEADERS = ("content-type", "etag", "ledger-position")
"""The headers that are compared. Other headers have been added since 57058cd, and more will be."""

STREAMED_WITHIN = 10.0  # seconds until a stream must have brought its last event

_TEXTS = frozenset({"detail", "message"})
"""A refusal's texts for people, which may be reworded. Its code and pointers are compared."""

_SCHEMA_TEXTS = frozenset({"description", "fact", "FactReference"})
"""The same for the JSON Schemas of published events, and the names that were added to them."""

_COUNTED_TO_NOW = re.compile(r"/timeline(?!.*as_of=)")
"""Timelines whose seconds go on with the clock. With ``as_of`` the seconds are compared, too."""

_ADDED_FIELDS = {
    "ExecutionStartedPayload": ("name",),
    "ExecutionUpdatedPayload": ("name",),
    "ExecutionBlockedPayload": ("assignee", "due_at"),
    "RunRequestedPayload": ("external_id", "parent_run_id", "lease_seconds"),
    "RunStartedPayload": ("external_id", "parent_run_id", "lease_seconds"),
    "RunCompletedPayload": ("external_id",),
    "RunFailedPayload": ("external_id", "lease_expired", "last_heard_at"),
    "RunCancelledPayload": ("external_id",),
    "RunErasedPayload": ("external_id",),
}
"""The fields that the payloads of published events have gained."""

_ADDED_TYPES = frozenset({"directory.named"})
_ADDED_SUBJECTS = frozenset({"workspace", "project"})
"""The types of events, and of their subjects, that were added."""

_TEXT = rb'"(?:[^"\\]|\\.)*"'
_NULLS = rb',"assignee":null,"due_at":null'
_LINES = r"/v1/execution(/LIN-[-0-9]+)?(/pause|/resume)?(\?|$)"
_EVENTS = r"/v1/events\b|/history\b"

ADDED: tuple[tuple[str, bytes], ...] = (
    # The fact that an event records, in feeds, histories and the audit log.
    (
        rf"{_EVENTS}|/v1/audit-logs\b",
        rb',"fact":(null|\{"source":' + _TEXT + rb',"id":' + _TEXT + rb"\})",
    ),
    # The reason of a command and the name of a key, in the audit log.
    (r"/v1/audit-logs\b", rb',"reason":(null|' + _TEXT + rb')(?=,"request_id":)'),
    (r"/v1/audit-logs\b", rb',"reported_by_name":(null|' + _TEXT + rb")"),
    # The latest request of a delivery.
    (
        r"/deliveries\b",
        rb',"request":(null|\{"url":'
        + _TEXT
        + rb',"headers":\{[^}]*\},"body":'
        + _TEXT
        + rb"\})(?=\})",
    ),
    # A line's name, score and oldest blocker; the assignee, due date and reporter of a blocker.
    (
        _LINES,
        rb',"name":null,"health_score":(null|\d+),"oldest_blocker":(null|\{"id":'
        + _TEXT
        + rb',"cause":"\w+","reason":(null|'
        + _TEXT
        + rb'),"since":'
        + _TEXT
        + _NULLS
        + rb"\})",
    ),
    (_LINES, _NULLS + rb',"reported_by":' + _TEXT),
    # A run's external id, parent and lease, also in the payloads of its request and its start. The
    # payloads of its later events have the external id alone.
    (
        rf"/runs\b|{_EVENTS}",
        rb',"external_id":null,"parent_run_id":null,"lease_seconds":null',
    ),
    (_EVENTS, rb',"external_id":null(,"lease_expired":false,"last_heard_at":null)?(?=\})'),
    # The additions to lines and blockers, in the payloads of events.
    (_EVENTS, rb',"name":null(?=,"state_before":)'),
    (_EVENTS, _NULLS + rb'(?=,"state_before":)'),
)
"""Additions to answers since 57058cd: a pattern of the paths, and a pattern of the added text.

An addition is taken out of the newer answer, and all else is compared. Tests of the addition say
what its value must be.
"""

_RETRYING = (r"/deliveries\b", rb'"status":"retrying"', b'"status":"pending"')
"""Pending deliveries after a failed attempt have a status of their own: path, new and old text."""

_AUDIT_COLUMNS = 15
"""The columns of the audit log's table in 57058cd; later versions have more columns behind them."""


class Request(NamedTuple):
    """A request in the name of a role's key; a stream is read up to the event ``until``."""

    role: str
    path: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    until: str = ""

    def __str__(self) -> str:
        more = "".join(f" {name}: {value}" for name, value in self.headers)
        return f"{self.method} {self.path} as {self.role}{more}"


@dataclass(frozen=True)
class Answer:
    """An answer, with the headers that are compared."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __post_init__(self) -> None:
        kept = {name: value for name, value in self.headers.items() if name in HEADERS}
        object.__setattr__(self, "headers", kept)


Send = Callable[[Request], Answer]


def compared(request: Request, answer: Answer) -> bytes:
    """The compared parts of an answer: status, headers and body, one after the other."""
    answer = _as_before(request, answer)
    head = [f"{answer.status}", *(f"{name}: {answer.headers.get(name)}" for name in HEADERS)]
    body = answer.body
    if answer.headers.get("content-type") == "application/problem+json":
        body = _without_texts(body, _TEXTS)
    elif request.path.startswith("/v1/event-types"):
        body = _without_texts(_without_added_fields(body), _SCHEMA_TEXTS)
    if _COUNTED_TO_NOW.search(request.path):
        body = re.sub(rb":\d+(\.\d+)?", b":0", body)
    return "\n".join([*head, "", ""]).encode() + body


def digest_of(request: Request, answer: Answer) -> str:
    """The digest of the compared parts of an answer."""
    return hashlib.sha256(compared(request, answer)).hexdigest()[:32]


def _as_before(request: Request, answer: Answer) -> Answer:
    """The answer without what was added to it; its entity tag is that of the rest.

    A request that names this tag gets the answer of an older version to it: 304.
    """
    body, kind = answer.body, answer.headers.get("content-type", "")
    for pattern, text, before in (*((pattern, added, b"") for pattern, added in ADDED), _RETRYING):
        if re.search(pattern, request.path):
            body = re.sub(text, before, body)
    if request.path.startswith("/v1/audit-logs/export") and kind.startswith("text/csv"):
        body = _first_columns(body)
    if body == answer.body or "etag" not in answer.headers:
        return Answer(answer.status, answer.headers, body)
    tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
    asked = dict(request.headers).get("if-none-match", "")
    if tag not in asked.replace("W/", "").split(", "):
        return Answer(answer.status, answer.headers | {"etag": tag}, body)
    position = answer.headers["ledger-position"]
    return Answer(304, {"etag": tag, "ledger-position": position}, b"")


def _without_texts(body: bytes, texts: frozenset[str]) -> bytes:
    def without(value: object) -> object:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key not in texts}
        if isinstance(value, list):
            return [without(item) for item in value if not _is_any_of(item, texts)]
        return value

    return json.dumps(without(json.loads(body))).encode() if body else body


def _first_columns(table: bytes) -> bytes:
    kept = io.StringIO(newline="")
    rows = csv.reader(io.StringIO(table.decode(), newline=""))
    csv.writer(kept, lineterminator="\r\n").writerows(row[:_AUDIT_COLUMNS] for row in rows)
    return kept.getvalue().encode()


def _is_any_of(value: object, texts: frozenset[str]) -> bool:
    return isinstance(value, str) and value in texts


def _without_added_fields(body: bytes) -> bytes:
    document = json.loads(body) if body else {}
    for name, fields in _ADDED_FIELDS.items():
        schema = document.get("$defs", {}).get(name, {})
        for field in fields:
            if field in schema.get("properties", {}):
                del schema["properties"][field]
                schema["required"].remove(field)
    if subject := document.get("$defs", {}).get("SubjectModel"):
        kinds = subject["properties"]["type"]
        kinds["enum"] = [kind for kind in kinds["enum"] if kind not in _ADDED_SUBJECTS]
    if isinstance(document.get("data"), list):
        document["data"] = [t for t in document["data"] if t["type"] not in _ADDED_TYPES]
    return json.dumps(document).encode() if body else body


def headers_of(request: Request, keys: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request. ``nobody`` sends no key; other roles without a key send a bad one.

    Refusals repeat the request's id, so all requests have the same id.
    """
    made = {"x-request-id": "corpus", **dict(request.headers)}
    if request.role != "nobody":
        made["authorization"] = f"Bearer {keys.get(request.role, 'elk_none')}"
    return made


@contextlib.contextmanager
def sending(port: int, keys: Mapping[str, str]) -> Iterator[Send]:
    """A function that sends requests to a port of this machine, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def send(request: Request) -> Answer:
        if request.until:
            return _streamed(port, request, keys)
        connection.request(request.method, request.path, headers=headers_of(request, keys))
        answer = connection.getresponse()
        return Answer(answer.status, _lower(answer), answer.read())

    try:
        yield send
    finally:
        connection.close()


def _streamed(port: int, request: Request, keys: Mapping[str, str]) -> Answer:
    """A stream's answer up to an event, read on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", request.path, headers=headers_of(request, keys))
        answer = connection.getresponse()
        lines, last = [], f"id: {request.until}"
        deadline = time.monotonic() + STREAMED_WITHIN
        while line := answer.readline():
            lines.append(line)
            if line == b"\n" and any(recent.decode().strip() == last for recent in lines[-4:]):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{request} did not reach {request.until}: {lines[-9:]}")
        return Answer(answer.status, _lower(answer), b"".join(lines))


def _lower(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}
