"""Pipelining: the order in which requests begin that clients send without waiting for answers.

A connection answers its requests one after the other. A client may have sent many: only a few of
them wait here, and the rest stays unread. Of all such connections together, one request begins in
each turn of the loop.
"""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from ledger.api.machinery.loop_turns import LoopTurns

_turns: "WeakKeyDictionary[ServerState, LoopTurns]" = WeakKeyDictionary()


def turns_of(server: ServerState) -> LoopTurns:
    """The turns of a server, in which the pipelined requests of all its connections begin.

    A connection has one request under way at a time. But with hundreds of such connections, a
    request that arrives alone would otherwise wait for one request of each connection.
    """
    return _turns.setdefault(server, LoopTurns())


class Flow(FlowControl):
    """Flow control that resumes reading only if no request waits; uvicorn's does at each answer."""

    def __init__(self, transport: asyncio.Transport, has_room: Callable[[], bool]) -> None:
        super().__init__(transport)
        self.has_room = has_room

    def resume_reading(self) -> None:
        if self.has_room():
            super().resume_reading()
