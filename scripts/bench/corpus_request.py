"""One request of the answer corpus, its answer, and the parts of an answer that are compared."""

import contextlib
import hashlib
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

HEADERS = ("content-type", "etag", "ledger-position")
"""The headers that are compared: a later version may add others."""

STREAMED_WITHIN = 10.0  # seconds until a stream must have brought its last event

_TEXTS = frozenset({"detail", "message"})
"""A refusal's texts for people, which may be reworded. Its code and pointers are compared."""

_SCHEMA_TEXTS = frozenset({"description"})
"""The same for the JSON Schemas of published events."""

_COUNTED_TO_NOW = re.compile(r"/timeline(?!.*as_of=)")
"""Timelines whose seconds go on with the clock. With ``as_of`` the seconds are compared, too."""

_LAST_USED = re.compile(rb'"last_used_at":"[^"]*"')
"""The last use of a key, which each request of the key moves."""


class Wanted(NamedTuple):
    """A wanted difference: a pattern of the path, one of the text that differs, and the reason."""

    path: str
    text: bytes
    reason: str


WANTED = (
    Wanted(
        r"/v1/audit-logs\b",
        rb'(?<="reported_by_name":)("\w+"|null)',
        "the audit log tells the names of those keys only that its reader sees",
    ),
    Wanted(
        r"/v1/audit-logs\b",
        rb'"errors":(null|\[\]),',
        "the audit log tells what was wrong in a refused write",
    ),
    Wanted(
        r"/v1/audit-logs/export\?.*format=csv",
        rb"(,\w*|,\[\])+(?=\r\n)",
        "the last cells of the audit log's table are such a name, and what was wrong",
    ),
    Wanted(
        r"/v1/execution(/LIN-[\d-]+)?(\?|$)",
        rb'(?<=",)"organization_id":"[^"]*",',
        "a line tells its organization",
    ),
    Wanted(
        r"/v1/(events|execution|webhooks)\b",
        rb',\\?"{1,2}until\\?"{1,2}:null',
        "pauses and holds tell when the ledger lifts the hold",
    ),
    Wanted(
        r"/v1/(events|execution|runs|webhooks)\b",
        rb'(,\\?"{1,2}tokens_used\\?"{1,2}:null)?,\\?"{1,2}token_usage\\?"{1,2}:null(?=})'
        rb'|,\\?"{1,2}(token_usage|usage_corrected_at)\\?"{1,2}:null',
        "runs tell their tokens by model, and cancelled ones their tokens",
    ),
    Wanted(
        r"/v1/event-types/",
        rb', ?"(statement|alert)"|, ?"trace_id"(: \{"anyOf": [^}]*\}, [^}]*\}\][^}]*\})?',
        "the subject of an event may be a statement, or an alert, and an event tells its trace",
    ),
    Wanted(
        r"/v1/execution(/summary|/LIN-[\d-]+)?(\?|$)",
        rb',"open_alerts":0',
        "a line tells how many alerts are open",
    ),
    Wanted(
        r"/v1/webhooks(/WHK-[\d-]+)?(\?|$)",
        rb'"format":"standard",|"routing_key":null,'
        rb'|"watch_ids":null,"min_severity":"info","details":true,',
        "an endpoint has a format, and chooses alerts",
    ),
    Wanted(
        r"/v1/(events|execution|runs|webhooks)\b",
        rb'(,\\?"{1,2}(attempt\\?"{1,2}:1|(retry_of|parent_external_id|trace_id)\\?"{1,2}:null))+'
        rb'(?=})|\\?"{1,2}(attempt\\?"{1,2}:1|(retry_of|parent_external_id|trace_id)\\?"{1,2}:null),',
        "runs and their events tell the attempt and the parent's name, and events the trace",
    ),
    Wanted(
        r"/v1/events/export\?.*format=csv",
        rb',+(?="\{)|trace_id,',
        "so does the table of events",
    ),
    Wanted(
        r"/v1/runs/export\?.*format=csv",
        rb',attempt,retry_of|,1,(?=,("\[|\r\n))',
        "and the table of runs",
    ),
    Wanted(
        r"/v1/runs/export\?.*format=csv",
        rb"usage_corrected_at,|,token_usage|,+(?=,\d{4}-|\r\n)",
        "so does the table of runs",
    ),
    Wanted(
        r"/v1/event-types(/run\.\w+)?$",
        rb"(?s).+",
        "and so do the types of events",
    ),
    Wanted(
        r"/v1/execution/LIN-[\d-]+/usage\b",
        rb'"check_ins":\d+,|,"tokens_by_model":\[[^]]*\]',
        "usage counts check-ins, and tells tokens by model",
    ),
    Wanted(
        r"/v1/(organizations|execution/export)\b",
        rb"(?s).+",
        "organizations are listed, and lines are exported",
    ),
    Wanted(
        r"/v1/execution(/summary)?\?.*(\b(assignee|unassigned|overdue|organization_id)=|=due_at)",
        rb"(?s).+",
        "lines are found by who should act, and by when; administrators choose an organization",
    ),
    Wanted(
        r"/v1/execution/LIN-[\d-]+$",
        rb'(?<=\netag: )"\w{24}"(?=\nledger-position: \d+\n\n\Z)',
        "a detail has another tag, of which an answer without a body tells no reason",
    ),
    Wanted(
        r"/v1/event-types(/execution\.paused)?$",
        rb"(?s).+",
        "the operator's hold is changed and has an end",
    ),
    Wanted(
        r"/v1/execution(/summary)?\?as_of=.*&(health|sort)=",
        rb"(?s).+",
        "a list of the past is sorted, and filtered by health",
    ),
    Wanted(
        r"/v1/log/proof\?position=",
        rb'"stored":"[^"]*",',
        "a proof has the stored event",
    ),
)
"""The wanted differences since e6d622b. All else of such an answer is compared."""


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
    head = [f"{answer.status}", *(f"{name}: {answer.headers.get(name)}" for name in HEADERS)]
    body = answer.body
    if answer.headers.get("content-type") == "application/problem+json":
        body = _without_texts(body, _TEXTS)
    elif request.path.startswith("/v1/event-types"):
        body = _without_texts(body, _SCHEMA_TEXTS)
    if request.path.startswith("/v1/keys"):
        body = _LAST_USED.sub(b'"last_used_at":null', body)
    if _COUNTED_TO_NOW.search(request.path):
        body = re.sub(rb":\d+(\.\d+)?", b":0", body)
    return "\n".join([*head, "", ""]).encode() + body


def _without_texts(body: bytes, texts: frozenset[str]) -> bytes:
    def without(value: object) -> object:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key not in texts}
        if isinstance(value, list):
            return [without(item) for item in value]
        return value

    return json.dumps(without(json.loads(body))).encode() if body else body


def reason_of(request: Request, old: Answer, new: Answer) -> str | None:
    """The reason why two answers may differ as they do; None if they may not."""
    reasons = [each.reason for each in WANTED if re.search(each.path, request.path)]
    is_alike = _without_wanted(request, old) == _without_wanted(request, new)
    return "; ".join(reasons) if reasons and is_alike else None


def digest_of(request: Request, answer: Answer) -> str:
    """The digest of what no later version's answer may differ in."""
    return hashlib.sha256(_without_wanted(request, answer)).hexdigest()[:16]


def _without_wanted(request: Request, answer: Answer) -> bytes:
    text, body = compared(request, answer), answer.body
    for each in WANTED:
        if re.search(each.path, request.path):
            text, body = (re.sub(each.text, b"", part) for part in (text, body))
    return text.replace(_tag(answer.body), _tag(body))


def _tag(body: bytes) -> bytes:
    """The entity tag of a body, without its quotes."""
    return hashlib.sha256(body).hexdigest()[:24].encode()


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
        try:
            return asked(request)
        except http.client.RemoteDisconnected:  # the service closes a connection that was idle
            connection.close()
            return asked(request)

    def asked(request: Request) -> Answer:
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
