"""Client connections: uvicorn's protocol with limits of time, size and waiting requests.

No other layer below the application sets these limits: the parser accepts heads of any size and any
number of pipelined requests, and silent connections stay open for ever. A single client could fill
the memory, or hold all connections that the system allows.

A connection answers its requests one after the other. Only a few pipelined requests wait here, and
the rest stays unread. Of all such connections together, one request begins in each iteration of the
loop.

    socket ─▶ data_received ─▶ _feed ─▶ parser ─▶ the request that is answered
                  │  more than may wait              ├─▶ pipeline: the requests behind it
                  └─▶ _held, and nothing is read  ◀──┘   until the last of them begins
"""

import asyncio
from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ledger.engine.http.machinery import heads
from ledger.engine.http.machinery.bodies import IS_COMPLETE, Pace
from ledger.engine.http.machinery.loop_slices import LoopSlices

_loop_slices: "WeakKeyDictionary[ServerState, LoopSlices]" = WeakKeyDictionary()


def slices_of(server: ServerState) -> LoopSlices:
    """All connections share the slices of pipelined requests, so that a lone request waits less."""
    return _loop_slices.setdefault(server, LoopSlices())


class Flow(FlowControl):
    """Flow control that resumes reading only if no request waits; uvicorn's does at each answer."""

    def __init__(self, transport: asyncio.Transport, has_room: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.has_room = has_room

    def resume_reading(self) -> None:
        if self.has_room():
            super().resume_reading()


MOST_WAITING = 16
"""Requests of one connection that may wait, including the request that is being answered."""

_PIECES_AT_ONCE = 64
"""Pieces of data that the parser gets in one iteration of the loop. Data is cut at the ends of
heads. A body may contain this sequence many times, and each piece costs a parser call."""


def _never() -> bool:
    return False


class Connection(HttpToolsProtocol):
    """A connection of a client."""

    flow: Flow

    keep_alive_seconds = 75
    """How long an idle connection is kept: longer than clients and proxies keep it, mostly 60 s.
    The client must close first: if the server does, a request on its way is lost, and a client does
    not repeat a write by itself."""

    head_seconds = 20.0
    """How long a part of a head may take, or the first byte of a connection. A check runs at this
    interval, so a stuck connection is found after twice the time, and requests need no timer.
    (``bodies.py`` limits the time of a body whose request is not answered yet.)"""

    closing_seconds = 3.0
    """How long a stopping service waits for the rest of a request, and a refused connection is
    read."""

    pace = Pace()
    """The time limit for the rest of a body whose request was answered before its end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self._has_room)
        self._idle_since: float | None = None
        """When the latest request was answered; None while another one is awaited or answered."""
        self._idle_timer: asyncio.TimerHandle | None = None
        """Runs on while requests come, so that a request needs no timer of its own."""
        self._held = b""
        """Data beyond the requests that may wait; the parser has not seen this data."""
        self._answering: RequestResponseCycle | None = None
        """The request that the application answers; uvicorn's ``cycle`` is the latest to arrive."""
        self._has_several = False
        """True if more than one request has ever arrived at once."""
        self._received = self._fed = 0
        """Bytes that have arrived, and bytes in the parser's latest call."""
        self._rest_timer: asyncio.TimerHandle | None = None
        self._rest_since = 0  # bytes that had arrived when the request was answered
        self._refusal: bytes | None = None
        """The response that ends the connection, once all earlier requests are answered."""
        self._is_body_skipped = False  # the parser took a head for the whole request
        self._is_over = False  # the last response is written; later data is ignored
        self._head: object = None
        self._head_bytes = 0
        """The latest head that did not arrive at once: its scope, and its bytes so far."""
        self._progress = self._checked_progress = 0
        """Parts that did more than lengthen a head: until now, and until the last check."""
        self._check_timer = self.loop.call_later(self.head_seconds, self._end_if_stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the checks, tell the application, and drop all waiting requests.

        A connection and its requests refer to each other; the garbage collector, which runs
        seldom, would free this cycle late.
        """
        self._check_timer.cancel()
        self._await_no_rest()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()
        self._held = b""
        self.flow.has_room = _never
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]
        self._head = self._answering = None

    def shutdown(self) -> None:
        """Stop with the service: answer the requests that have begun, if their rest comes soon."""
        super().shutdown()
        self._check_timer.cancel()
        self._check_timer = self.loop.call_later(self.closing_seconds, self._end_if_unfinished)

    def data_received(self, data: bytes) -> None:
        """Parse data as far as its requests may wait; read no more before the rest is parsed."""
        if self._is_over:
            return
        self._received += len(data)
        is_behind = self._has_several or self.pipeline or self._held or self._is_ending()
        if not is_behind and data.count(heads.HEAD_END) < 2:
            self._feed(data)  # most data belongs to one request: no count is needed
            return
        self._held = self._held + data if self._held else data
        if self._has_several:
            self.flow.pause_reading()
            slices_of(self.server_state).schedule(self._parse_held)
        else:
            self._parse_held()

    def _parse_held(self) -> None:
        held, self._held = self._held, b""
        # Parsing may pause the reading again. (The loop reads nothing before this method returns.)
        self.flow.resume_reading()
        start = pieces = 0
        while start < len(held) and not self._is_ending():
            end = self._end_of_room(held, start)
            if end == start or pieces == _PIECES_AT_ONCE:
                self._held = held[start:]
                self.flow.pause_reading()
                if end > start:
                    slices_of(self.server_state).schedule(self._parse_held)
                return
            self._feed(held[start:end])
            start, pieces = end, pieces + 1

    def _is_ending(self) -> bool:
        return self._is_over or self._refusal is not None or self.transport.is_closing()

    def on_response_complete(self) -> None:
        """Begin the next request; if no request waits, parse the held data."""
        answered, is_last = self._answering, not self.pipeline
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.keep_alive_seconds, self._end_if_idle)
        if is_last and self._refusal is not None:
            self._end_with(self._refusal)
            return
        if answered is not None and answered.more_body:
            self._await_rest()
        if self._held and not self.pipeline:
            self._parse_held()

    def on_headers_complete(self) -> None:
        is_large = self._fed > heads.MOST_HEAD_BYTES and self._is_head_large()
        if is_large or len(self.headers) > heads.MOST_HEADERS:
            raise heads.RefusedHead(heads.HEAD_TOO_LARGE)
        if self.parser.get_http_version() not in heads.VERSIONS:
            raise heads.RefusedHead(heads.INVALID)
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self._is_body_skipped = any(name in heads.FRAMING for name, _ in self.headers)

    def _is_head_large(self) -> bool:
        """True if the head is too large. (``_feed`` checks a head that arrives in parts.)"""
        size = sum(len(name) + len(value) for name, value in self.headers)
        return size + len(self.url) > heads.MOST_HEAD_BYTES

    def on_message_complete(self) -> None:
        """Note that the body is complete, also if the request is answered already."""
        if self._is_body_skipped:
            return  # the body comes after the point that the parser takes for its end
        cycle = self.cycle
        cycle.more_body = False
        cycle.scope[IS_COMPLETE] = True  # type: ignore[literal-required]
        cycle.message_event.set()
        self._await_no_rest()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if self._has_several:
            slices_of(self.server_state).schedule(partial(self._begin, cycle, app))
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not cycle.disconnected:
            super()._start_asgi_task(cycle, app)

    def _has_room(self) -> bool:
        return self._is_over or not (self.pipeline or self._held or self._refusal)

    def _end_of_room(self, data: bytes, start: int) -> int:
        """Return the end of the data that the parser may see.

        At most as many heads end before it as requests may still wait. A head whose end began in
        earlier data is not counted: one place stays free for it.
        """
        end = start
        for _ in range(MOST_WAITING - 1 - self._waiting()):
            found = data.find(heads.HEAD_END, end)
            if found < 0:
                return len(data)
            self._has_several |= end > start
            end = found + len(heads.HEAD_END)
        return end

    def _waiting(self) -> int:
        return len(self.pipeline) + self._is_answering()

    def _feed(self, data: bytes) -> None:
        self._fed = len(data)
        self._idle_since = None
        try:
            rest = self._parse(data)
        except HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.refusal if isinstance(cause, heads.RefusedHead) else heads.INVALID)
            return
        if rest is not None:
            self._progress += 1
            if rest:
                self._feed(rest)
            return
        if not self._is_in_head():
            self._progress += 1
            return
        if self._head is not self.scope:
            self._head, self._head_bytes = self.scope, -self._bytes_before_head(data)
            self._progress += 1
        self._head_bytes += len(data)
        if self._head_bytes > heads.MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(heads.HEAD_TOO_LARGE)

    def _parse(self, data: bytes) -> bytes | None:
        """Parse; return the data after a head with an upgrade, or None. Raises HttpParserError."""
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self._is_body_skipped:
                self._is_body_skipped = False
                self.parser = HttpRequestParser(heads.WithoutFirstHead(self))
                framing = (
                    b"%b: %b\r\n" % pair for pair in self.headers if pair[0] in heads.FRAMING
                )
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")
            return data[upgrade.args[0] :]
        return None

    def _bytes_before_head(self, data: bytes) -> int:
        """The bytes of the data that belong to requests before the head that begins in it."""
        before, end, _ = data.rpartition(heads.HEAD_END)
        body = b"" if self.cycle is None else self.cycle.body
        return len(before) + len(end) + len(body)

    def _refuse(self, refusal: bytes) -> None:
        """End the connection after all earlier answers; an incomplete body's request is refused."""
        last, is_answering = self.cycle, self._is_answering()
        if last is not None and last.more_body and not last.response_complete:
            if self.pipeline:
                self.pipeline.popleft()
            else:
                is_answering = False
                if last.response_started:
                    refusal = b""
                last.disconnected = True
                last.message_event.set()
        if is_answering:
            self._refusal = refusal
            self.flow.pause_reading()
        else:
            self._end_with(refusal)

    def _end_with(self, refusal: bytes) -> None:
        """Write the last response and read on: else the client may lose it (RFC 9112, 9.6)."""
        self._is_over = True
        self.transport.write(refusal)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._check_timer.cancel()
        self._check_timer = self.loop.call_later(self.closing_seconds, self.transport.close)

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _is_in_head(self) -> bool:
        """True if the latest head is incomplete: a request gets its cycle when it is complete."""
        cycle: RequestResponseCycle | None = self.cycle
        return self.scope is not (None if cycle is None else cycle.scope)

    def _end_if_stuck(self) -> None:
        if self._is_head_due() and self._progress == self._checked_progress:
            self.transport.close()
        else:
            self._checked_progress = self._progress
            self._check_timer = self.loop.call_later(self.head_seconds, self._end_if_stuck)

    def _end_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is not None:  # else the next answer starts the timer again
            left = self._idle_since + self.keep_alive_seconds - self.loop.time()
            if left > 0:
                self._idle_timer = self.loop.call_later(left, self._end_if_idle)
            else:
                self.transport.close()

    def _await_rest(self) -> None:
        """Start the time limit for the rest of an answered request's body."""
        self._await_no_rest()
        self._rest_since = self._received
        self._rest_timer = self.loop.call_later(self.pace.seconds, self._end_without_rest)

    def _await_no_rest(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _end_without_rest(self) -> None:
        if self.pace.seconds_for(self._received - self._rest_since) > self.pace.seconds:
            self._await_rest()
        else:
            self.transport.close()

    def _end_if_unfinished(self) -> None:
        is_body_due = self.cycle is not None and self.cycle.more_body
        if self._is_head_due() or (is_body_due and not self.flow.read_paused):
            self.transport.close()

    def _is_head_due(self) -> bool:
        """True if the client owes a part of a head. Between two requests none is due."""
        if self.flow.read_paused:
            return False
        cycle: RequestResponseCycle | None = self.cycle
        if self._is_in_head() or cycle is None:
            return True
        return cycle.response_complete and self._idle_since is None and not cycle.more_body
