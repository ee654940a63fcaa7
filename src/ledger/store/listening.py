"""What the database tells an event loop: the notifications of one connection.

psycopg's own ``notifies`` takes 60 µs of a process's time for each, since it begins to wait anew
every time; this one 20. Under load each worker hears of hundreds a second, and answers writes then.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any

import psycopg


class Ear:
    """A connection's notifications from now on: to be made before the first LISTEN."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._pg = connection.pgconn
        self._early: list[str] = []
        """What came with the answers to statements."""
        connection.add_notify_handler(lambda heard: self._early.append(heard.payload))

    async def listen(self, hear: Callable[[str], object]) -> None:
        """Give ``hear`` the payload of each, until cancelled.

        Nobody else may use the connection meanwhile. Raises psycopg.OperationalError when it is
        lost, or what ``hear`` raises.
        """
        for payload in self._early:
            hear(payload)
        self._early.clear()
        loop, pg, socket = asyncio.get_running_loop(), self._pg, self._pg.socket
        end: asyncio.Future[None] = loop.create_future()
        hang_up = select.poll()
        hang_up.register(socket, 0)

        def take() -> None:
            try:
                while True:
                    pg.consume_input()
                    while heard := pg.notifies():
                        hear(heard.extra.decode())
                    # As in `lane.py`: for a socket that is in error uvloop calls once only.
                    if not hang_up.poll(0):
                        return
            except Exception as error:
                loop.remove_reader(socket)
                if not end.done():
                    end.set_exception(error)

        loop.add_reader(socket, take)
        # What libpq has read already wakes nobody.
        take()
        try:
            await end
        finally:
            loop.remove_reader(socket)
