"""What a read is answered with: ready JSON, its position, and an entity tag where it has one."""

import hashlib
from collections.abc import Sequence

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from ledger.api.machinery.compression import compresses, weak
from ledger.api.machinery.headers import joined
from ledger.language.rendering import json_text

_JSON = b"application/json"


class Reply(Response):
    """A response that is made once, headers and all, and may be given to many (``answers.py``).

    So nobody changes one: to say something else, make another.
    """

    def __init__(
        self,
        body: bytes,
        position: int,
        status: int = 200,
        *,
        tagged: bool = False,
        media: bytes = _JSON,
    ) -> None:
        self.body = body
        self.position = position
        self.status_code = status
        self.background = None
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media),
            (b"ledger-position", b"%d" % position),
        ]
        self.tag: bytes | None = None
        if tagged:
            self.tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:24].encode()
            self.raw_headers.append((b"etag", self.tag))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, with a list of headers that whoever passes it on may add to."""
        headers = self.raw_headers.copy()
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def answer(body: str, position: int, status: int = 200, *, tagged: bool = False) -> Reply:
    """Ready JSON with the position it was read at."""
    return Reply(body.encode(), position, status, tagged=tagged)


def page(
    items: Sequence[str],
    cursor: str | None,
    has_more: bool,
    position: int,
    *,
    tagged: bool = False,
) -> Reply:
    """A list's answer from ready JSON items."""
    meta = json_text({"cursor": cursor, "has_more": has_more})
    body = f'{{"data":[{",".join(items)}],"meta":{meta}}}'
    return answer(body, position, tagged=tagged)


def unless_known(request: Request, reply: Reply) -> Response:
    """The reply, or 304 where the caller has it already, by its entity tag (RFC 9110)."""
    asked = joined(request.scope, b"if-none-match")
    if asked is None or reply.tag is None:
        return reply
    tags = {part.strip().removeprefix(b"W/") for part in asked.split(b",")}
    if reply.tag not in tags and b"*" not in tags:
        return reply
    known = Response(status_code=304)
    # The tag that the reply would go out with.
    tag = weak(reply.tag) if compresses(request.scope, len(reply.body)) else reply.tag
    known.raw_headers = [(b"etag", tag), (b"ledger-position", b"%d" % reply.position)]
    return known
