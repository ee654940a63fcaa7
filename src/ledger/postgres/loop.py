"""The event loop's driver of an exchange: reads and writes when the socket is ready.

psycopg begins to wait anew for each reply. Here the reader stays registered with the loop.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any

import psycopg

from ledger.postgres.exchange import Exchange


class LoopDriver:
    """Drives an exchange on the running loop until ``stop``.

    ``take()`` is called when something has come, and says whether all is there that was expected.
    ``lose(error)`` is called when the connection is lost, perhaps within ``sync``.
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
        """The socket takes no more for now."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self.receive)

    def stop(self) -> None:
        """Leave the socket alone; before the connection is closed."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)

    def sync(self) -> None:
        """End the group and write it."""
        try:
            self._exchange.sync(self._loop.time())
        except psycopg.OperationalError as error:
            self._lose(error)
        else:
            self._flush()

    def receive(self) -> None:
        """Take what has come; also once at the start, if psycopg had the connection before.

        uvloop calls only once for a socket in error, as when the other end closed without reading
        everything. So the callback must read on up to the error, or the group would wait for ever.
        """
        try:
            while True:
                self._exchange.consume()
                if self._take() or not self._hang_up.poll(0):
                    return
        except psycopg.OperationalError as error:
            self._lose(error)

    def _flush(self) -> None:
        """Write what is left; where the socket takes no more, go on when it does."""
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
