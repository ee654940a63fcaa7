"""Pipelining: the order in which requests begin that clients send without waiting for answers.

A connection answers its requests one after the other. A client may have sent many: only a few of
them wait here, and the rest stays unread. Of all such connections together, one request begins in
each turn of the loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState


class RequestTurns:
    """Pipelined requests of all connections: one request begins in each turn of the loop.

    A connection has one request under way at a time. But with hundreds of such connections, a
    request that arrives alone would otherwise wait for one request of each connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_going_on = False

    def take(self, begin: Callable[[], None]) -> None:
        """Call ``begin`` in one of the next turns, after the calls that were requested before."""
        self._waiting.append(begin)
        if not self._is_going_on:
            self._is_going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        begin = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._go_on)
        else:
            self._is_going_on = False
        begin()


_turns: "WeakKeyDictionary[ServerState, RequestTurns]" = WeakKeyDictionary()


def turns_of(server: ServerState, loop: asyncio.AbstractEventLoop) -> RequestTurns:
    """A server's turns, which its connections share."""
    return _turns.setdefault(server, RequestTurns(loop))


class Flow(FlowControl):
    """Flow control that resumes reading only if no request waits; uvicorn's does at each answer."""

    def __init__(self, transport: asyncio.Transport, has_room: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.has_room = has_room

    def resume_reading(self) -> None:
        if self.has_room():
            super().resume_reading()
