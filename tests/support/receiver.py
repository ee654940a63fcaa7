"""A webhook receiver: a real HTTP server on a thread of the test, which records and misbehaves.

The receiver lives in the test's process, so it outlives a ledger that is killed::

    with Receiver(lambda request: Answer(500)) as receiver:
        … receiver.url …
        first, second = receiver.await_count(2)
"""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Action = Literal["answer", "drop", "hang", "drip", "raw", "say"]


@dataclass(frozen=True)
class Request:
    """A received request; ``number`` counts all requests from 1, ``connection`` all connections."""

    number: int
    connection: int
    method: str
    path: str
    headers: Mapping[str, str]
    """Lower-case name → value."""
    body: bytes
    arrived_at: float
    """A reading of ``time.time()``."""


@dataclass(frozen=True)
class Answer:
    """The receiver's reaction to a request.

    ``answer`` sends the answer; ``drop`` closes the connection without an answer; ``hang`` waits
    until the sender leaves; ``drip`` sends the head at once and then the body, a byte each delay;
    ``raw`` sends the body as the whole answer, head and all, and closes; ``say`` does not close.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    action: Action = "answer"


Script = Callable[[Request], Answer]


def always_ok(request: Request) -> Answer:
    return Answer()


class Receiver:
    """A server that answers by ``script``, which may be replaced at any time.

    The script runs on the server's thread. ``accept`` is called with the number of each connection;
    False closes the connection before a request is read. Every path is served.
    """

    def __init__(
        self,
        script: Script = always_ok,
        *,
        accept: Callable[[int], bool] = lambda connection: True,
        ssl_context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.script = script
        self._accept, self._ssl_context = accept, ssl_context
        self.port = port
        self._peers: list[tuple[str, int]] = []
        self._probes = 0
        self._open = 0
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="receiver", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the receiver did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        scheme = "https" if self._ssl_context else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order of their arrival."""
        with self._changed:
            return list(self._requests)

    def count_connections(self) -> int:
        """The number of connections ever made, with or without a request.

        Connections are accepted in order. This method makes a connection itself: once that has been
        accepted, all earlier connections are counted.
        """
        with socket.create_connection(("127.0.0.1", self.port)) as probe:
            name = probe.getsockname()
            with self._changed:
                assert self._changed.wait_for(lambda: name in self._peers, 10), "not accepted"
                self._probes += 1
                return len(self._peers) - self._probes

    def await_count(
        self, count: int, seconds: float = 10, path: str | None = None
    ) -> list[Request]:
        """The requests, to one path or all, once there are ``count`` of them."""

        def matching() -> list[Request]:
            return [each for each in self._requests if path is None or each.path == path]

        with self._changed:
            self._changed.wait_for(lambda: len(matching()) >= count, seconds)
            found = matching()
        assert len(found) >= count, f"{len(found)} of {count} requests arrived in {seconds} s"
        return found

    def await_closed(self, seconds: float = 10) -> None:
        """Wait until no connection is open."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._open == 0, seconds), "still connected"

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._talks: set[asyncio.Task[None]] = set()
        with socket.create_server(("127.0.0.1", self.port), backlog=1024) as listener:
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self._loop.add_reader(listener, self._take, listener)
            self._ready.set()
            await self._stopping.wait()
            self._loop.remove_reader(listener)
        # Let every task begin: a task that is cancelled before does not run its ``finally``.
        await asyncio.sleep(0)
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _take(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, peer = listener.accept()
            with self._changed:
                self._peers.append(peer)
                self._open += 1
                self._changed.notify_all()
            talk = self._loop.create_task(self._connected(connection, len(self._peers)))
            self._talks.add(talk)
            talk.add_done_callback(self._talks.discard)

    async def _connected(self, connection: socket.socket, number: int) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            if not self._accept(number):
                return
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._ssl_context
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            try:
                await self._talk(number, reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            connection.close()
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    async def _talk(
        self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async for request in self._read(connection, reader):
            answer = self.script(request)
            if answer.action == "hang":
                await reader.read()
            if answer.action in ("hang", "drop"):
                return
            if answer.action == "drip":
                writer.write(_head(answer))
                for byte in answer.body:
                    await writer.drain()
                    await asyncio.sleep(answer.delay_seconds)
                    writer.write(bytes([byte]))
                continue
            if answer.delay_seconds:
                await asyncio.sleep(answer.delay_seconds)
            raw = answer.action in ("raw", "say")
            writer.write(answer.body if raw else _head(answer) + answer.body)
            await writer.drain()
            if answer.action == "raw":
                return

    async def _read(self, connection: int, reader: asyncio.StreamReader) -> AsyncIterator[Request]:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            method, path, _ = first.split(" ")
            headers = {
                name.lower(): value.strip()
                for name, value in (line.split(":", 1) for line in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            with self._changed:
                number = len(self._requests) + 1
                request = Request(number, connection, method, path, headers, body, time.time())
                self._requests.append(request)
                self._changed.notify_all()
            yield request


def _head(answer: Answer) -> bytes:
    headers = {"content-length": str(len(answer.body)), **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
