"""Connections from clients: uvicorn's, which end where a request does not come to its end.

Below the application nobody else looks: the parser takes a head of any size and any number of
requests, and a connection on which nothing comes stays open for good. Without bounds a single
client could fill the memory with one head, or with requests whose answers it never reads, or hold
all connections that the system allows.

    socket ─▶ data_received ─▶ _feed ─▶ parser ─▶ the request that is answered
                  │  more than may wait              ├─▶ pipeline: the requests behind it
                  └─▶ _held, and nothing is read  ◀──┘   until the last of them begins
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ledger.api.bodies import Pace

MOST_WAITING = 16
"""Requests of one connection that wait for their answers, the one that is answered among them."""

_HEAD_END = b"\r\n\r\n"
"""The parser takes no other end of a head, so there are at least as many of these as requests."""

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


class _Turns:
    """Requests of connections that send several at once: one begins in each turn of the loop.

    Each connection has one under way at a time, but there may be hundreds of connections: a request
    that comes alone would wait for one of each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, begin: Callable[[], None]) -> None:
        """Begin in one of the next turns, after those that came before."""
        if not self._waiting:
            self._loop.call_soon(self._go_on)
        self._waiting.append(begin)

    def _go_on(self) -> None:
        self._waiting.popleft()()
        if self._waiting:
            self._loop.call_soon(self._go_on)


_turns: "WeakKeyDictionary[ServerState, _Turns]" = WeakKeyDictionary()
"""Each server's."""


class _Flow(FlowControl):
    """Reading is resumed by uvicorn after each answer; here only when no request waits."""

    def __init__(self, transport: asyncio.Transport, has_room: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.has_room = has_room

    def resume_reading(self) -> None:
        """Read on, unless requests wait that were read before."""
        if self.has_room():
            super().resume_reading()


def _never() -> bool:
    return False


class Connection(HttpToolsProtocol):
    """One of a client's."""

    flow: _Flow

    keep_alive_seconds = 75
    """How long it is kept between two requests: longer than clients and proxies keep theirs, 60 s
    most often. Who ends it first must be they: a request that is on its way meanwhile is lost, and
    one that writes is not sent again by itself."""

    patience_seconds = 20.0
    """How long a part of a head may take, or the first byte of all. It is looked at as often, so
    that may be found after twice as long; requests pay for no clock. (How long a body may take
    whose request is not answered yet, is said in ``bodies.py``.)"""

    last_patience_seconds = 3.0
    """How long the rest of a request may take that has begun when the service stops."""

    pace = Pace()
    """How long the rest of a body may take whose request was answered without it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._has_room)
        self.timeout_keep_alive = self.keep_alive_seconds
        self._held = b""
        """Data behind as many requests as may wait; the parser has not seen it."""
        self._answering: RequestResponseCycle | None = None
        """The request that the application has; uvicorn's ``cycle`` is the last that came."""
        self._has_several = False
        """More than one request came at once."""
        self._received = 0
        """Bytes that have come."""
        self._rest_look: asyncio.TimerHandle | None = None
        self._head: object = None
        self._head_bytes = 0
        """Of the latest head that did not come at once: its scope, and how much has come of it."""
        self._progress = self._seen = 0
        """Parts that did more than lengthen a head, and how many there were at the last look."""
        self._look = self.loop.call_later(self.patience_seconds, self._end_if_stuck)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more, tell the application, and let go of all that waits.

        A connection and its requests refer to each other; the collector, which comes seldom, would
        find them late.
        """
        for timer in (self._look, self._rest_look):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()
        self._held = b""
        self.flow.has_room = _never
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]
        self._head = self._answering = None

    def shutdown(self) -> None:
        """The service stops: what has begun is answered, if the rest of it comes soon."""
        super().shutdown()
        self._look.cancel()
        self._look = self.loop.call_later(self.last_patience_seconds, self._end_if_unfinished)

    def data_received(self, data: bytes) -> None:
        """Take what has come, as far as its requests may wait; nothing is read before the rest."""
        self._received += len(data)
        self._held = self._held + data if self._held else data
        if self._has_several:
            self.flow.pause_reading()
            self._turns.take(self._take_held)
        else:
            self._take_held()

    def _take_held(self) -> None:
        held, self._held = self._held, b""
        # Whatever comes of it may pause the reading again. (Nothing is read before this returns.)
        self.flow.resume_reading()
        while held and not self.transport.is_closing():
            end = self._end_of_room(held)
            if end == 0:
                self._held = held
                self.flow.pause_reading()
                return
            self._feed(held[:end])
            held = held[end:]

    def on_response_complete(self) -> None:
        """Go on with the next request, and with what was held back once none waits."""
        answered = self._answering
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if answered is not None and answered.more_body:
            self._rest_look = self._end_without_rest(answered)
        if self._held and not self.pipeline:
            self._take_held()

    def on_message_complete(self) -> None:
        """Note that its body is complete, also where the request is answered already."""
        super().on_message_complete()
        self.cycle.more_body = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if self._has_several:
            self._turns.take(partial(self._begin, cycle, app))
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not cycle.disconnected:
            super()._start_asgi_task(cycle, app)

    @property
    def _turns(self) -> _Turns:
        return _turns.setdefault(self.server_state, _Turns(self.loop))

    def _has_room(self) -> bool:
        return not self.pipeline and not self._held

    def _end_of_room(self, data: bytes) -> int:
        """How much of it the parser may see: at most as many heads end in it as may still wait.

        A head whose end has begun before is not counted; it has a place that is kept free.
        """
        waiting = len(self.pipeline) + (self.cycle is not None and not self.cycle.response_complete)
        end = 0
        for _ in range(MOST_WAITING - 1 - waiting):
            found = data.find(_HEAD_END, end)
            if found < 0:
                return len(data)
            self._has_several |= end > 0
            end = found + len(_HEAD_END)
        return end

    def _feed(self, data: bytes) -> None:
        """Have the parser take it; refuse a head that is too large."""
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
        if self._is_head_due() and self._progress == self._seen:
            self.transport.close()
        else:
            self._seen = self._progress
            self._look = self.loop.call_later(self.patience_seconds, self._end_if_stuck)

    def _end_without_rest(self, answered: RequestResponseCycle) -> asyncio.TimerHandle:
        """End it where the rest of an answered request's body does not come in time."""
        came = self._received

        def look() -> None:
            is_left = self.cycle is answered and answered.more_body
            allowed = self.pace.seconds_for(self._received - came)
            if is_left and allowed <= self.pace.seconds:
                self.transport.close()
            elif is_left:
                self._rest_look = self._end_without_rest(answered)

        return self.loop.call_later(self.pace.seconds, look)

    def _end_if_unfinished(self) -> None:
        is_body_due = self.cycle is not None and self.cycle.more_body
        if self._is_head_due() or (is_body_due and not self.flow.read_paused):
            self.transport.close()

    def _is_head_due(self) -> bool:
        """Whether a part of a head must come from the client: we read, and have no whole one.

        Between two requests, as long as nothing has come of the next, nothing must.
        """
        if self.flow.read_paused:
            return False
        cycle: RequestResponseCycle | None = self.cycle
        if self._is_in_head() or cycle is None:
            return True
        return (
            cycle.response_complete and self.timeout_keep_alive_task is None and not cycle.more_body
        )
