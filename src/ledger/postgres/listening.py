"""What the database tells an event loop: the notifications of one connection.

psycopg's own ``notifies`` takes 60 µs of a process's time for each, since it begins to wait anew
every time; this one 20. Under load each worker hears of hundreds a second, and answers writes then.

Silence may mean that nothing happens, or that a proxy keeps the connection alive whose server has
vanished. So an empty statement is sent now and then, which the server must answer.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any

import psycopg

_ASK_SECONDS = 3.0
"""Between two such statements. The one before must have been answered by then."""


class SilentServer(psycopg.OperationalError):
    """The server has not answered in time; connect anew."""


class Ear:
    """A connection's notifications from now on: to be made before the first LISTEN."""

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], ask_seconds: float = _ASK_SECONDS
    ) -> None:
        self._pg = connection.pgconn
        self._ask_seconds = ask_seconds
        self._is_asked = False
        """The server owes an answer to the empty statement."""
        self._early: list[str] = []
        """What came with the answers to statements."""
        connection.add_notify_handler(lambda heard: self._early.append(heard.payload))
        self._hang_up = select.poll()
        self._hang_up.register(self._pg.socket, 0)

    async def listen(self, hear: Callable[[str], object]) -> None:
        """Give ``hear`` the payload of each, until cancelled.

        Nobody else may use the connection meanwhile. Raises what ``hear`` raises, SilentServer, or
        psycopg.OperationalError when the connection is lost. A connection whose server owes an
        answer at the end is closed: psycopg would wait for it.
        """
        for payload in self._early:
            hear(payload)
        self._early.clear()
        loop, socket = asyncio.get_running_loop(), self._pg.socket
        end: asyncio.Future[None] = loop.create_future()

        def guarded(step: Callable[[], None]) -> None:
            try:
                step()
            except Exception as error:
                loop.remove_reader(socket)
                if not end.done():
                    end.set_exception(error)

        async def ask_again() -> None:
            while not end.done():
                await asyncio.sleep(self._ask_seconds)
                guarded(self._ask)

        asking = loop.create_task(ask_again())
        loop.add_reader(socket, guarded, lambda: self._take(hear))
        # What libpq has read already wakes nobody.
        guarded(lambda: self._take(hear))
        try:
            await end
        finally:
            asking.cancel()
            loop.remove_reader(socket)
            if self._is_asked:
                self._pg.finish()

    def _take(self, hear: Callable[[str], object]) -> None:
        pg = self._pg
        while True:
            pg.consume_input()
            while heard := pg.notifies():
                hear(heard.extra.decode())
            while self._is_asked and not pg.is_busy():
                self._is_asked = pg.get_result() is not None
            # As in `lane.py`: for a socket that is in error uvloop calls once only.
            if not self._hang_up.poll(0):
                return

    def _ask(self) -> None:
        if self._is_asked:
            raise SilentServer("the database has not answered in time")
        self._pg.send_query(b"")
        self._is_asked = True
