"""Request heads that are refused, or parsed specially, below the application."""

from typing import Protocol

MOST_HEAD_BYTES = 64 * 1024
"""Bytes of the request line and the headers."""

MOST_HEADERS = 128
"""Headers of a request; in memory a short header takes ten times its bytes."""

HEAD_END = b"\r\n\r\n"
"""The only end of a head that the parser accepts: data has at least as many of them as heads."""

VERSIONS = frozenset({"1.0", "1.1"})
"""The versions of HTTP that are spoken here; the parser also takes requests of others."""

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that announce a body."""


class Parsed(Protocol):
    """The callbacks of a parser."""

    def on_message_begin(self) -> None: ...

    def on_url(self, url: bytes) -> None: ...

    def on_header(self, name: bytes, value: bytes) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_message_complete(self) -> None: ...


class WithoutFirstHead:
    """Passes on the callbacks of a parser, except those of the first head, which is known already.

    After a head that asks for another protocol, httptools takes all data for that protocol, even
    the request's body. So another parser continues after that head; it gets only the headers that
    announce the body. (Java's HTTP client asks for HTTP/2 so in each of its requests.)
    """

    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        self._is_beyond = False
        self.on_body = parsed.on_body
        self.on_message_complete = parsed.on_message_complete

    def on_message_begin(self) -> None:
        if self._is_beyond:
            self._parsed.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._is_beyond:
            self._parsed.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_beyond:
            self._parsed.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_beyond:
            self._parsed.on_headers_complete()
        self._is_beyond = True


class RefusedHead(Exception):
    """Raised by a callback of the parser to refuse a head; ``refusal`` is the response."""

    def __init__(self, refusal: bytes) -> None:
        super().__init__()
        self.refusal = refusal


def _refusal(status: bytes, text: bytes) -> bytes:
    lines = (
        b"HTTP/1.1 " + status,
        b"content-type: text/plain; charset=utf-8",
        b"x-content-type-options: nosniff",
        b"content-length: %d" % len(text),
        b"connection: close",
        b"",
        text,
    )
    return b"\r\n".join(lines)


INVALID = _refusal(b"400 Bad Request", b"Invalid HTTP request received.")
HEAD_TOO_LARGE = _refusal(
    b"431 Request Header Fields Too Large", b"The request line and headers are too large."
)
