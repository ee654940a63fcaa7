"""Requests that a client sends without waiting for the answers before: who begins when.

A connection answers one after the other. Its client may have sent many: so few of them wait here,
the rest stays unread, and of all such connections one request begins in a turn of the loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState


class RequestTurns:
    """Requests of connections that send several at once: one begins in each turn of the loop.

    Each connection has one under way at a time, but there may be hundreds of connections: a request
    that comes alone would wait for one of each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_going_on = False

    def take(self, begin: Callable[[], None]) -> None:
        """Begin in one of the next turns, after those that came before."""
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
    """Reading is resumed by uvicorn after each answer; here only when no request waits."""

    def __init__(self, transport: asyncio.Transport, has_room: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.has_room = has_room

    def resume_reading(self) -> None:
        """Read on, unless requests wait that were read before."""
        if self.has_room():
            super().resume_reading()
