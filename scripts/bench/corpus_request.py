"""One request of the answer corpus, its answer, and what of an answer is compared."""

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
"""The headers that are compared. Others have been added since 57058cd, and more will be."""

STREAMED_WITHIN = 10.0  # seconds for an event that a stream is read up to

_WORDS = ("detail", "message")
"""Of a refusal: texts for people, which may be said better. Its code and pointers stay."""


_COUNTED_TO_NOW = re.compile(r"/timeline(?!.*as_of=)")
"""Timelines whose seconds go on to be counted; those as of then are compared with theirs."""


class Request(NamedTuple):
    """What is asked, in the name of which key; a stream is read up to an event."""

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
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __post_init__(self) -> None:
        kept = {name: value for name, value in self.headers.items() if name in HEADERS}
        object.__setattr__(self, "headers", kept)


Send = Callable[[Request], Answer]


def compared(request: Request, answer: Answer) -> bytes:
    """What of an answer is compared: status, headers and body, one after the other."""
    head = [f"{answer.status}", *(f"{name}: {answer.headers.get(name)}" for name in HEADERS)]
    body = answer.body
    if answer.headers.get("content-type") == "application/problem+json" and body:
        body = json.dumps(_without_words(json.loads(body))).encode()
    if _COUNTED_TO_NOW.search(request.path):
        body = re.sub(rb":\d+(\.\d+)?", b":0", body)
    return "\n".join([*head, "", ""]).encode() + body


def digest_of(request: Request, answer: Answer) -> str:
    """Of what is compared."""
    return hashlib.sha256(compared(request, answer)).hexdigest()[:32]


def _without_words(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_words(v) for k, v in value.items() if k not in _WORDS}
    return [_without_words(one) for one in value] if isinstance(value, list) else value


def headers_of(request: Request, keys: Mapping[str, str]) -> dict[str, str]:
    """What is sent with a request; a role without a key asks with none, or with one that is none.

    Refusals repeat the request's id, so all have the same.
    """
    made = {"x-request-id": "corpus", **dict(request.headers)}
    if request.role != "nobody":
        made["authorization"] = f"Bearer {keys.get(request.role, 'elk_none')}"
    return made


@contextlib.contextmanager
def sending(port: int, keys: Mapping[str, str]) -> Iterator[Send]:
    """Sends requests to a port of this machine, one after the other."""
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
    """A stream's answer up to an event, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", request.path, headers=headers_of(request, keys))
        answer = connection.getresponse()
        lines, last = [], f"id: {request.until}"
        deadline = time.monotonic() + STREAMED_WITHIN
        while line := answer.readline():
            lines.append(line)
            if line == b"\n" and any(said.decode().strip() == last for said in lines[-4:]):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{request} did not come to {request.until}: {lines[-9:]}")
        return Answer(answer.status, _lower(answer), b"".join(lines))


def _lower(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}
