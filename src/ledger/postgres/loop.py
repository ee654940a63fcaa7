"""The event loop's driver of an exchange: reads and writes when the socket is ready.

psycopg registers a reader with the loop anew for each reply. The driver here keeps its reader
registered.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any

import psycopg

from ledger.postgres.exchange import Exchange


class LoopDriver:
    """Drives an exchange on the running loop until ``stop``.

    The driver calls ``take()`` when bytes have arrived; ``take`` returns whether every expected
    reply is there. The driver calls ``lose(error)`` when the connection is lost, perhaps from
    within ``sync``.
    """

    def __init__(
        self,
        exchange: Exchange[Any],
        take: Callable[[], bool],
        lose: Callable[[psycopg.Error], None],
    ) -> None:
        self._exchange, self._take, self._lose = exchange, take, lose
        self._socket = exchange.socket
        self._hang_up = select.poll()
        self._hang_up.register(self._socket, 0)
        self._is_full = False
        """Whether the socket's send buffer is full."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self.receive)

    def stop(self) -> None:
        """Unregister the socket from the loop. Call it before the connection is closed."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)

    def sync(self) -> None:
        """End the group with a sync message, and write the group."""
        try:
            self._exchange.sync(self._loop.time())
        except psycopg.OperationalError as error:
            self._lose(error)
        else:
            self._flush()

    def receive(self) -> None:
        """Read the bytes that have arrived, and give them to ``take``.

        Call it once at the start too if psycopg used the connection before: psycopg may have read
        bytes already, for which the socket does not become readable again.

        uvloop calls back only once for a socket in error, for example when the server closed the
        connection without reading everything. So the callback must read up to the error, or the
        group would wait for ever.
        """
        try:
            while True:
                self._exchange.consume()
                if self._take() or not self._hang_up.poll(0):
                    return
        except psycopg.OperationalError as error:
            self._lose(error)

    def _flush(self) -> None:
        """Write the rest of the output; if the send buffer is full, go on when it has room."""
        try:
            is_full = self._exchange.flush()
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if is_full and not self._is_full:
            self._loop.add_writer(self._socket, self._flush)
        elif self._is_full and not is_full:
            self._loop.remove_writer(self._socket)
        self._is_full = is_full
