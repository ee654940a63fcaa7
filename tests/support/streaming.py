"""The service of a test on a real port, and a client of server-sent events, like a browser's."""

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import anyio
import uvicorn

from ledger.engine.http.machinery.connection import Connection
from ledger.features.feed.stream import Streams
from tests.support.edge import Edge

STREAM = "/v1/events/stream"


class Address(NamedTuple):
    """The address on which a service listens."""

    host: str
    port: int


@contextlib.contextmanager
def listening(
    edge: Edge, connection: type[Connection] = Connection, port: int = 0
) -> Iterator[Address]:
    """Serve the edge's application by the HTTP server that is used in production."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        config = uvicorn.Config(
            edge.service.app,
            lifespan="off",
            http=connection,
            ws="none",
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        task = edge.run(_start(server, listener))
        try:
            yield Address(*listener.getsockname())
        finally:
            edge.run(_stop(edge, server, task))


async def _start(server: uvicorn.Server, listener: socket.socket) -> "asyncio.Task[None]":
    listener.listen(1024)
    return asyncio.create_task(server.serve(sockets=[listener]))


async def _stop(edge: Edge, server: uvicorn.Server, task: "asyncio.Task[None]") -> None:
    """Stop as on a signal: streams finish, then the server ends."""
    streams = edge.service.app.state.services.of(Streams)
    streams.closing.set()
    server.should_exit = True
    await task
    streams.closing = anyio.Event()  # the next test's streams go on
    # The library's task that waits for signals would live as long as the loop.
    for other in asyncio.all_tasks():
        if "_shutdown_watcher" in repr(other.get_coro()):
            other.cancel()


class Message(NamedTuple):
    """A message as a browser's ``onmessage`` gets it."""

    id: str
    data: dict[str, Any]


class Listener:
    """A connection to a stream. Reading fails after ``timeout`` seconds of silence."""

    def __init__(
        self,
        address: Address,
        token: str,
        query: str = "",
        last_event_id: str | None = None,
        timeout: float = 15.0,
        receive_buffer: int | None = None,
    ) -> None:
        self._connection = http.client.HTTPConnection(*address)
        if receive_buffer is not None:
            self._connection.sock = narrow(address, receive_buffer)
        else:
            self._connection.connect()
        self._connection.sock.settimeout(timeout)
        self._timeout = timeout
        headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        self._connection.request("GET", f"{STREAM}?{query}" if query else STREAM, headers=headers)
        self.answer = self._connection.getresponse()
        self.last_event_id = last_event_id
        self.comments: list[str] = []
        self.retry: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self._connection.close()

    @property
    def position(self) -> int:
        """The position at which the stream begins."""
        return int(self.answer.headers["ledger-position"])

    def block(self) -> tuple[str | None, list[str]] | None:
        """The lines up to the next empty one: (id, data); None at a clean end."""
        identifier, data = None, []
        while line := self.answer.readline().decode():
            if line == "\n":
                return identifier, data
            name, _, value = line.rstrip("\n").partition(":")
            value = value.removeprefix(" ")
            if name == "":
                self.comments.append(value)
            elif name == "id":
                identifier = value
            elif name == "data":
                data.append(value)
            elif name == "retry":
                self.retry = int(value)
            else:
                raise AssertionError(f"an unknown field: {line!r}")
        return None

    def opened(self) -> Self:
        """Assert that the stream has begun with its first block, which has no event."""
        assert self.answer.status == 200, self.answer.read()
        assert self.block() == (None, [])
        return self

    def message(self) -> Message | None:
        """The next message; None at a clean end. Pings alone do not prolong the timeout."""
        deadline = time.monotonic() + self._timeout
        while (block := self.block()) is not None:
            assert time.monotonic() < deadline, "nothing but pings"
            identifier, data = block
            if identifier is not None:
                self.last_event_id = identifier
            if data:
                assert identifier is not None
                return Message(identifier, json.loads("\n".join(data)))
        return None

    def take(self, count: int) -> list[dict[str, Any]]:
        """The envelopes of the next messages, each under its own id."""
        found = []
        for _ in range(count):
            message = self.message()
            assert message is not None, f"the stream ended after {len(found)}"
            assert message.id == message.data["id"]
            found.append(message.data)
        return found

    def rest(self, most: int | None = None) -> list[dict[str, Any]]:
        """The envelopes of all whole messages up to the end, clean or not; ``most`` at most."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(OSError, http.client.HTTPException):
            while len(found) != most and (message := self.message()) is not None:
                found.append(message.data)
        return found

    def until(self, identifier: str) -> list[dict[str, Any]]:
        """The envelopes up to the one with this id."""
        found = self.take(1)
        while found[-1]["id"] != identifier:
            found += self.take(1)
        return found


def narrow(address: Address, size: int) -> socket.socket:
    """A connection with a small receive buffer: a client that does not read stops the sender."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.connect(address)
    return sock


def feed_of(edge: Edge, token: str | None = None, **params: Any) -> list[dict[str, Any]]:
    """All events of the feed, read page by page, as a polling client does."""
    rows: list[dict[str, Any]] = []
    params = {"limit": 100} | params
    headers = {"ledger-min-position": str(edge.log()[0][0])}
    while True:
        answer = edge.get("/v1/events", token, params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page["data"]
        if not page["meta"]["has_more"]:
            return rows
        params["cursor"] = page["meta"]["cursor"]
