"""A relay to PostgreSQL that adds a distance: it delays data in both directions.

    python relay.py SOCKET SECONDS    prints its port, and relays to the unix socket until its end

Pieces of data keep their order. Any number of them may be under way at once, so the distance costs
time, but no throughput.
"""

import asyncio
import sys
from collections import deque

import uvloop


class _End(asyncio.Protocol):
    """One end of a connection. It sends what its peer has received, some time later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._late: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._connected = self._loop.create_future()
        self.peer: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the connection."""
        self._connected.set_result(transport)

    def data_received(self, data: bytes) -> None:
        """Have the peer send the data later."""
        if self.peer is not None:
            self.peer.send_late(data)

    def send_late(self, data: bytes) -> None:
        """Send data after the delay."""
        self._late.append(data)
        self._loop.call_later(self._seconds, self._connected.add_done_callback, self._send)

    def _send(self, connected: asyncio.Future[asyncio.Transport]) -> None:
        data, transport = self._late.popleft(), connected.result()
        if not transport.is_closing():
            transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the peer's connection too."""
        if self.peer is not None:
            self.peer.close()

    def close(self) -> None:
        """Close the connection, once there is one."""
        self._connected.add_done_callback(lambda connected: connected.result().close())


class _Client(_End):
    """The end towards the service. It stores data until PostgreSQL is connected."""

    def __init__(self, seconds: float, server: str) -> None:
        super().__init__(seconds)
        self.peer = end = _End(seconds)
        end.peer = self
        self._connecting = self._loop.create_task(
            self._loop.create_unix_connection(lambda: end, server)
        )


async def relay(server: str, seconds: float) -> None:
    """Relay to PostgreSQL's unix socket. ``seconds`` is the time of a round trip."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Client(seconds / 2, server), "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    uvloop.run(relay(sys.argv[1], float(sys.argv[2])))
