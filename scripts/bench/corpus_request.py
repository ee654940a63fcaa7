"""One request of the answer corpus, its answer, and the parts that are compared."""

import contextlib
import http.client
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

HEADERS = ("content-type", "etag", "ledger-position")
"""The compared headers. A later version may add others."""

_OWN = re.compile(rb'"last_(used|seen)_at":"[^"]*"')
"""The last use of a key or session, which each request changes."""

_CURSOR = re.compile(rb'"cursor":"[^"]*"|cursor=[\w-]+')


class Request(NamedTuple):
    """A request with the key of a role."""

    role: str
    path: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()

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
        headers = {name: value for name, value in self.headers.items() if name in HEADERS}
        object.__setattr__(self, "headers", headers)

    @property
    def compared(self) -> bytes:
        """Status, headers and body as one text."""
        head = [f"{self.status}", *(f"{name}: {self.headers.get(name)}" for name in HEADERS)]
        body = _OWN.sub(rb'"last_\1_at":null', self.body)
        return "\n".join([*head, "", ""]).encode() + body

    @property
    def still(self) -> bytes:
        """The same without what changes with the clock: numbers, cursors and the entity tag."""
        text = re.sub(rb"\netag: \S+", b"", _CURSOR.sub(b"", self.compared))
        return re.sub(rb"\d+(\.\d+)?", b"0", text)


Send = Callable[[Request], Answer]


@contextlib.contextmanager
def sending(port: int, keys: Mapping[str, str]) -> Iterator[Send]:
    """A function that sends requests to a port of this machine, one at a time.

    ``nobody`` sends no key; other roles without a key send a bad one. Refusals repeat the request's
    id, so all requests have the same id.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def send(request: Request) -> Answer:
        try:
            return fetch(request)
        except http.client.RemoteDisconnected:  # the service closed an idle connection
            connection.close()
            return fetch(request)

    def fetch(request: Request) -> Answer:
        headers = {"x-request-id": "corpus", **dict(request.headers)}
        if request.role != "nobody":
            headers["authorization"] = f"Bearer {keys.get(request.role, 'elk_none')}"
        connection.request(request.method, request.path, headers=headers)
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, named, answer.read())

    try:
        yield send
    finally:
        connection.close()
