"""Connections from clients: uvicorn's, which end where a request does not come to its end.

Below the application nobody else looks: the parser takes a head of any size, and a connection on
which nothing comes stays open for good. Without bounds a single client could fill the memory with
one head, or hold all connections that the system allows.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_MOST_HEAD_BYTES = 64 * 1024
"""Of request line and headers; what is read at once may be as much again."""

_TOO_LARGE = b"The request line and headers are too large."
_REFUSAL = b"\r\n".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"content-type: text/plain; charset=utf-8",
        b"content-length: %d" % len(_TOO_LARGE),
        b"connection: close",
        b"",
        _TOO_LARGE,
    )
)


class Connection(HttpToolsProtocol):
    """One of a client's."""

    keep_alive_seconds = 75
    """How long it is kept between two requests: longer than clients and proxies keep theirs, 60 s
    most often. Who ends it first must be they: a request that is on its way meanwhile is lost, and
    one that writes is not sent again by itself."""

    patience_seconds = 20.0
    """How long a head may take, or a part of a body that is due, or the first byte of all. It is
    looked at as often, so that may be found after twice as long; requests pay for no clock."""

    last_patience_seconds = 3.0
    """How long the rest of a request may take that has begun when the service stops."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self.timeout_keep_alive = self.keep_alive_seconds
        self._head: object = None
        self._head_bytes = 0
        """Of the latest head that did not come at once: its scope, and how much has come of it."""
        self._progress = self._seen = 0
        """Parts that did more than lengthen a head, and how many there were at the last look."""
        self._look = self.loop.call_later(self.patience_seconds, self._end_if_stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._look.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The service stops: what has begun is answered, if the rest of it comes soon."""
        super().shutdown()
        self._look.cancel()
        self._look = self.loop.call_later(self.last_patience_seconds, self._end_if_unfinished)

    def data_received(self, data: bytes) -> None:
        """Take what has come; refuse a head that is too large."""
        super().data_received(data)
        if not self._is_in_head():
            self._progress += 1
            return
        if self._head is not self.scope:
            self._head, self._head_bytes = self.scope, -self._bytes_before_head(data)
            self._progress += 1
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def _bytes_before_head(self, data: bytes) -> int:
        """How much of what has come belongs to requests before the head that has begun in it."""
        before, end, _ = data.rpartition(b"\r\n\r\n")
        body = b"" if self.cycle is None else self.cycle.body
        return len(before) + len(end) + len(body)

    def _refuse_head(self) -> None:
        """In its turn: what was asked before is answered first, and nothing is read until then."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_REFUSAL)
            self.transport.close()
        else:
            self.flow.pause_reading()

    def _is_in_head(self) -> bool:
        """Whether a request has begun whose head is not complete: that is when it gets a cycle."""
        cycle: RequestResponseCycle | None = self.cycle
        return self.scope is not (None if cycle is None else cycle.scope)

    def _end_if_stuck(self) -> None:
        if self._is_clients_turn() and self._progress == self._seen:
            self.transport.close()
        else:
            self._seen = self._progress
            self._look = self.loop.call_later(self.patience_seconds, self._end_if_stuck)

    def _end_if_unfinished(self) -> None:
        if self._is_clients_turn():
            self.transport.close()

    def _is_clients_turn(self) -> bool:
        """Whether something must come from there: we read, and have no whole request.

        Between two requests, as long as nothing has come of the next, nothing must.
        """
        if self.flow.read_paused:
            return False
        cycle: RequestResponseCycle | None = self.cycle
        if self._is_in_head() or cycle is None or cycle.more_body:
            return True
        return cycle.response_complete and self.timeout_keep_alive_task is None
