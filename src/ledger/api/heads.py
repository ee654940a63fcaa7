"""Heads of requests that are refused, or read otherwise, below the application."""

import re

MOST_HEAD_BYTES = 64 * 1024
"""Of request line and headers."""

MOST_HEADERS = 128
"""Each takes ten times its bytes, where it is short."""

HEAD_END = b"\r\n\r\n"
"""The parser takes no other end of a head, so there are at least as many of these as requests."""

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""Headers that say that a body follows."""

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_NO_UPGRADE = b"\r\nupgrad-:"


class Refused(Exception):
    """A head is refused in one of the parser's callbacks; ``refusal`` is what to write."""

    def __init__(self, refusal: bytes) -> None:
        super().__init__()
        self.refusal = refusal


def without_upgrade(data: bytes) -> bytes:
    """A connection's first data, whose first head asks for no other protocol any more.

    Java's client asks for HTTP/2 in its first request, whatever that is, and the parser takes what
    comes behind such a head for the other protocol.
    """
    if not _UPGRADE.search(data):
        return data
    head, end, rest = data.partition(HEAD_END)
    return _UPGRADE.sub(_NO_UPGRADE, head) + end + rest


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
TOO_LARGE = _refusal(
    b"431 Request Header Fields Too Large", b"The request line and headers are too large."
)
