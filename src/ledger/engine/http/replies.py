"""Answers of reads: ready JSON with its position, and for some routes an entity tag."""

import hashlib
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar, get_args

import msgspec
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from ledger.engine.http.machinery.headers import HEADERS, compresses, joined, packed, weak
from ledger.engine.values.rendering import json_text

T = TypeVar("T")

_JSON = b"application/json"


def keyed(words: Any) -> msgspec.Meta:
    """Annotates a mapping whose keys are these words: msgspec's schemas do not list them."""
    return msgspec.Meta(extra_json_schema={"propertyNames": {"enum": list(get_args(words))}})


class Meta(msgspec.Struct):
    """The end of a page."""

    cursor: str | None
    has_more: bool


class AnswerOf(msgspec.Struct, Generic[T]):
    """The answer that shows one thing, or all of a kind."""

    data: T


class PageOf(msgspec.Struct, Generic[T]):
    """A page of a list."""

    data: list[T]
    meta: Meta


class DisclosedLine(NamedTuple):
    """A line, with its tenant, whose runs' data is in an answer."""

    line_id: str
    organization_id: str
    workspace_id: str


class Reply(Response):
    """A response that may be sent to many (``answers.py``), so it never changes."""

    disclosed: frozenset[DisclosedLine] = frozenset()
    """The lines whose runs' inputs, outputs or errors the reply holds."""

    def __init__(
        self,
        body: bytes,
        position: int,
        status: int = 200,
        *,
        tagged: bool = False,
        tag: bytes | None = None,
        media: bytes = _JSON,
    ) -> None:
        """``tagged``: with an entity tag of the body, if ``tag`` gives none."""
        self.body = body
        self.position = position
        self.status_code = status
        self.background = None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media),
            (b"ledger-position", b"%d" % position),
        ]
        if tagged:
            tag = tag or b'"%s"' % hashlib.sha256(body).hexdigest()[:24].encode()
        self.tag = tag
        if tag is not None:
            self.raw_headers.append((b"etag", tag))
        self._packed: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply, with a copy of its headers, which middleware may change.

        A reply that many clients get is compressed once.
        """
        headers, body = self.raw_headers.copy(), bytes(self.body)
        if compresses(scope, len(body)):
            if self._packed is None:
                self._packed = packed(body)
            body = self._packed
            headers[0] = (b"content-length", b"%d" % len(body))
            headers = [(n, weak(v) if n == b"etag" else v) for n, v in headers]
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def answer(body: str, position: int, status: int = 200, *, tagged: bool = False) -> Reply:
    return Reply(body.encode(), position, status, tagged=tagged)


def page(
    items: Sequence[str], cursor: str | None, has_more: bool, position: int, *, tagged: bool = False
) -> Reply:
    meta = json_text({"cursor": cursor, "has_more": has_more})
    body = f'{{"data":[{",".join(items)}],"meta":{meta}}}'
    return answer(body, position, tagged=tagged)


def or_not_modified(request: Request, reply: Reply) -> Response:
    """Return the reply, or 304 if the request names the reply's entity tag (RFC 9110)."""
    if reply.tag is None or b"if-none-match" not in request.scope[HEADERS]:
        return reply
    sent = joined(request.scope, b"if-none-match") or b""
    tags = {part.strip().removeprefix(b"W/") for part in sent.split(b",")}
    if reply.tag not in tags and b"*" not in tags:
        return reply
    unchanged = Response(status_code=304)
    # The tag that the reply itself would have been sent with.
    tag = weak(reply.tag) if compresses(request.scope, len(reply.body)) else reply.tag
    unchanged.raw_headers = [(b"etag", tag), (b"ledger-position", b"%d" % reply.position)]
    return unchanged
