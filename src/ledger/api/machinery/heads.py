"""Heads of requests that are refused, or read otherwise, below the application."""

from typing import Protocol

MOST_HEAD_BYTES = 64 * 1024
"""Of request line and headers."""

MOST_HEADERS = 128
"""Each takes ten times its bytes, where it is short."""

HEAD_END = b"\r\n\r\n"
"""The parser takes no other end of a head, so there are at least as many of these as requests."""

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that say that a body follows."""


class Parsed(Protocol):
    """What a parser tells of requests."""

    def on_message_begin(self) -> None:
        """A request begins."""

    def on_url(self, url: bytes) -> None:
        """A part of its target."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""

    def on_headers_complete(self) -> None:
        """Its head is complete."""

    def on_body(self, body: bytes) -> None:
        """A part of its body."""

    def on_message_complete(self) -> None:
        """The request is complete."""


class WithoutFirstHead:
    """Passes on what a parser tells, but for the first head: that is known already.

    httptools takes what follows a head that asks for another protocol for that protocol, a body
    too. So another parser, which was given no more of that head than the length of the body, goes
    on behind it. (Java's client asks for HTTP/2 so, in each of its requests.)
    """

    def __init__(self, parsed: Parsed) -> None:
        self._parsed = parsed
        self._is_beyond = False
        self.on_body = parsed.on_body
        self.on_message_complete = parsed.on_message_complete

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._is_beyond:
            self._parsed.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        if self._is_beyond:
            self._parsed.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._is_beyond:
            self._parsed.on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        if self._is_beyond:
            self._parsed.on_headers_complete()
        self._is_beyond = True


class RefusedHead(Exception):
    """A head is refused in one of the parser's callbacks; ``refusal`` is what to write."""

    def __init__(self, refusal: bytes) -> None:
        super().__init__()
        self.refusal = refusal


def _refusal(status: bytes, said: bytes) -> bytes:
    lines = (
        b"HTTP/1.1 " + status,
        b"content-type: text/plain; charset=utf-8",
        b"x-content-type-options: nosniff",
        b"content-length: %d" % len(said),
        b"connection: close",
        b"",
        said,
    )
    return b"\r\n".join(lines)


INVALID = _refusal(b"400 Bad Request", b"Invalid HTTP request received.")
HEAD_TOO_LARGE = _refusal(
    b"431 Request Header Fields Too Large", b"The request line and headers are too large."
)
