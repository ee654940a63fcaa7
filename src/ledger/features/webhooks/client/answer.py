"""Reads a receiver's answer to one request, piece by piece.

A receiver may be hostile, so everything that it sends is bounded. The end of the answer is found to
the byte: bytes after it would be taken for the answer to the next request.
"""

import time

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

# Contract, Feeds: an answer with more bytes before its body fails the attempt.
_MOST_HEAD_BYTES = 64 * 1024
_MOST_INFORMATIONAL = 8

# How many bytes of an answer an operator sees. A longer answer costs the connection.
_STORED_BYTES = 1024
_READ_BYTES = 64 * 1024

# Header fields and pieces of the body. Each costs some calls: 64 KiB of the shortest ones would
# block the event loop, and so all other deliveries, for 11 ms.
_MOST_PARTS = 1000


class NoAnswer(Exception):
    """No acceptable answer came. The message says why, without text of the receiver."""


class ReceiverAnswer:
    """The answer to one request; its connection feeds it.

    Each answer has its own parser, since a parser would continue with bytes after the answer.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        """None until the final head has come."""
        self.head_at = 0.0
        """When the final head had come: a reading of ``time.perf_counter()``."""
        self.retry_after: str | None = None
        self.start = b""
        """The first KB of the body."""
        self.has_begun = False
        """True if any byte has come."""
        self.is_over = False
        """True if no more is wanted: the answer is whole, or its body is too long."""
        self.keeps_connection = False
        """True if the answer is whole, and its connection may take another request."""
        self._is_whole = self._may_keep = False
        self._informational = self._parts = 0
        self._left = _MOST_HEAD_BYTES
        self._parser = HttpResponseParser(self)
        # A bare LF as the end of a line is accepted, as RFC 9112 (2.2) allows.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises NoAnswer if they are not acceptable.

        Bytes after the answer are not parsed, and the connection is not used again.
        """
        self.has_begun = True
        while data and not self.is_over:
            if not self._left:
                if self.status is None:
                    raise NoAnswer("more than 64 KiB came before the answer")
                self.is_over = True
                return
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self._parse(piece)
        self.keeps_connection &= not data

    def _parse(self, piece: bytes) -> None:
        # The parser does not say where in a piece the answer ended. So the last byte is fed alone:
        # if the answer ends before it, more bytes follow the answer.
        try:
            self._parser.feed_data(piece[:-1])
            if not self._is_whole:
                self._parser.feed_data(piece[-1:])
                self.keeps_connection = self._is_whole and self._may_keep
        except HttpParserUpgrade:
            pass
        except HttpParserError as error:
            if not self._is_whole:
                raise _reason(error) from error
        self.is_over = self._is_whole

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise NoAnswer  # this ends the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_part()
        if self.status is None and self.retry_after is None and name.lower() == b"retry-after":
            self.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100:
            raise NoAnswer("no HTTP answer came")
        if status >= 200 or status == 101:
            self.status, self.head_at, self._left = status, time.perf_counter(), _READ_BYTES
            return
        self.retry_after = None
        self._informational += 1
        if self._informational > _MOST_INFORMATIONAL:
            raise NoAnswer("more than 8 informational answers came")

    def on_body(self, part: bytes) -> None:
        self._count_part()
        self.start += part[: _STORED_BYTES - len(self.start)]

    def on_message_complete(self) -> None:
        self._is_whole = self.status is not None
        self._may_keep = self._parser.should_keep_alive()

    def _count_part(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise NoAnswer("more than 1,000 header fields came")


def _reason(error: HttpParserError) -> NoAnswer:
    """The reason that a callback gave to end the parser, or else a fixed text."""
    cause = error.__context__
    return cause if isinstance(cause, NoAnswer) else NoAnswer("no HTTP answer came")
