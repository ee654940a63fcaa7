"""Handing commands over to the writer of the node, which is a process of its own.

    worker:  RemoteWriter ──▶ (number, commands) ──▶  HostedWriter  :writer's process
                          ◀── (number, outcomes) ◀──

One writer decides for all workers: two would halve each other's groups, and a group costs about the
same whatever its size (design 5). A worker makes a pair of sockets and leaves one end in the post,
which the processes of a node share from their fork on. So no other process can reach the writer,
which unpickles what it gets.

A worker that loses the writer does not know the outcomes of the commands that it had handed over.
It says so (503); the caller sends them again, and the identity of a fact or the idempotency key of
a command tells if they were recorded. The next writer takes the ends that wait in the post.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import selectors
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any, NamedTuple, cast

from ledger.engine.postgres.clocks import is_wrong
from ledger.engine.values.errors import RateLimited, Unavailable
from ledger.engine.views.rounds import MovedViews
from ledger.engine.writer.command import Command
from ledger.engine.writer.fair_queue import Outcomes
from ledger.engine.writer.writer import WAITING, Writer, WriterState

_logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("<Q")
_AT_ONCE = 1 << 20
"""The most bytes that are read from one connection before the others have a turn."""

_SILENT_SECONDS = 3.0
"""A writer that has noted nothing for so long has failed: it notes something every second."""

_WORKERS_SECONDS = 15.0
"""How long a stopping writer waits for its workers: they end their requests meanwhile."""

_COMMANDS, _FORGET, _PROJECTED, _LEAVE = range(4)
_OUTCOMES, _ELSEWHERE = range(2)

Deliver = Callable[[Outcomes], None]


class Post:
    """What the processes of a node share: the ends of sockets on their way, and the state."""

    def __init__(self) -> None:
        """Call it before the fork."""
        self._leaving, self.waiting = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.waiting.setblocking(False)
        self.state = RawValue(WriterState)

    def close(self) -> None:
        """In a process that neither writes nor hands over."""
        self._leaving.close()
        self.waiting.close()

    def connect(self) -> socket.socket:
        """A connection to the present writer, or to the next one."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._leaving, [b"\0"], [theirs.fileno()])
        return ours

    def accept(self) -> Iterator[socket.socket]:
        """The connections that workers have opened since the last call."""
        with contextlib.suppress(BlockingIOError):
            while True:
                _, (end, *_), _, _ = socket.recv_fds(self.waiting, 1, 1)
                yield socket.socket(fileno=end)


def _frame(*message: Any) -> bytes:
    text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(text)) + text


class _Inbox:
    """Collects the bytes of a connection; gives whole messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def take(self, data: bytes) -> Iterator[Any]:
        self._bytes += data
        start, size = 0, _LENGTH.size
        while len(self._bytes) >= start + size:
            (length,) = _LENGTH.unpack_from(self._bytes, start)
            if len(self._bytes) < start + size + length:
                break
            with memoryview(self._bytes) as view:
                message = pickle.loads(view[start + size : start + size + length])
            start += size + length
            yield message
        del self._bytes[:start]


class _Ticket(NamedTuple):
    tenant_key: str
    size: int
    deliver: Deliver


class RemoteWriter(asyncio.Protocol):
    """The node's writer, as a worker sees it: start and use it on the event loop.

    ``submit`` may be called on any other thread too.
    """

    is_on_loop = True
    """Outcomes are delivered on the event loop."""

    def __init__(self, post: Post) -> None:
        self._post, self.state = post, post.state
        self._numbers = itertools.count()
        self._tickets: dict[int, _Ticket] = {}
        self._leaving: list[tuple[int, Sequence[Command]]] = []
        self._waiting = Counter[str]()
        """The commands that were handed over, by organization."""
        self._inbox = _Inbox()
        self._transport: asyncio.Transport | None = None
        self._lost_at: float | None = None
        """When the last writer ended, until the next one has answered."""
        self._is_stopping = False
        self._emptied = asyncio.Event()
        self.on_elsewhere: Callable[[], object] = lambda: None
        """Called when the writer's connection has led to another PostgreSQL."""

    async def open(self) -> None:
        """Connect. Returns at once: the writer may still be starting."""
        self._loop = asyncio.get_running_loop()
        await self._connect()

    async def _connect(self) -> None:
        self._inbox = _Inbox()
        await self._loop.create_unix_connection(lambda: self, sock=self._post.connect())

    async def close(self) -> None:
        """Wait for the outcomes of what was handed over, then disconnect."""
        self._is_stopping = True
        if self._tickets:
            self._emptied.clear()
            await self._emptied.wait()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._lost_at = None
        for kind, value in self._inbox.take(data):
            if kind == _ELSEWHERE:
                self.on_elsewhere()
                continue
            for number, outcomes in value:
                self._settle(number, outcomes)

    def connection_lost(self, error: Exception | None) -> None:
        """The writer has ended: what it was given may be recorded, or not."""
        self._transport = None
        unknown = Unavailable("The writer has ended. The write may be recorded all the same.")
        for number, ticket in list(self._tickets.items()):
            self._settle(number, [unknown] * ticket.size)
        if not self._is_stopping:
            self._lost_at = time.monotonic()
            self._reconnecting = self._loop.create_task(self._connect())
            self.on_elsewhere()  # the next writer may find another server

    def _settle(self, number: int, outcomes: Outcomes) -> None:
        ticket = self._tickets.pop(number)
        self._waiting[ticket.tenant_key] -= ticket.size
        ticket.deliver(outcomes)
        if not self._tickets:
            self._waiting.clear()
            self._emptied.set()

    def hand_in(self, commands: Sequence[Command], deliver: Deliver) -> None:
        """As ``Writer.hand_in``, on the event loop."""
        if not commands:
            deliver([])
            return
        if self._is_stopping or self._transport is None:
            raise Unavailable("The ledger is about to stop, or its writer starts anew.")
        tenant_key, size = commands[0].principal.tenant_key, len(commands)
        if self._waiting[tenant_key] + size > WAITING:
            raise RateLimited("The ledger is busy with what waits already.")
        number = next(self._numbers)
        if not self._leaving:
            self._loop.call_soon(self._leave)
        self._leaving.append((number, commands))
        self._tickets[number] = _Ticket(tenant_key, size, deliver)
        self._waiting[tenant_key] += size

    def _leave(self) -> None:
        """Send what requests that were read together hand over, as one message."""
        if self._transport is not None:
            self._transport.write(_frame(_COMMANDS, self._leaving))
        self._leaving = []

    def submit(self, commands: Sequence[Command]) -> "Future[Outcomes]":
        """As ``Writer.submit``, on any thread but the event loop's."""
        future: Future[Outcomes] = Future()
        future.set_running_or_notify_cancel()
        self._loop.call_soon_threadsafe(self._submit, commands, future)
        return future

    def _submit(self, commands: Sequence[Command], future: "Future[Outcomes]") -> None:
        try:
            self.hand_in(commands, future.set_result)
        except Unavailable as error:
            future.set_exception(error)

    def forget_key(self, run_id: str | None) -> None:
        self._tell(_FORGET, run_id)

    def note_projected(self, position: int) -> None:
        # The writer knows what it has moved itself.
        if position > MovedViews.unpacked(self.state.folded, ()).position:
            self._tell(_PROJECTED, position)

    def stop_listening(self) -> None:
        self._tell(_LEAVE)

    def _tell(self, *message: Any) -> None:
        if self._transport is not None:
            self._transport.write(_frame(*message))

    @property
    def clock_skew(self) -> float:
        return self.state.clock_skew

    @property
    def is_skewed(self) -> bool:
        return is_wrong(self.clock_skew)

    def failing_seconds(self) -> float:
        """As the writer's; also the time since the writer ended, or noted anything."""
        now = time.monotonic()
        silent = now - self.state.noted_at
        if self._lost_at is not None:
            return now - self._lost_at
        return silent if silent > _SILENT_SECONDS else self.state.failing_seconds()


class _Worker:
    """A connection to a worker, as the writer has it."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self.listens = True
        self._inbox = _Inbox()
        self._outbox = bytearray()
        self._answers: list[tuple[int, Outcomes]] = []

    def receive(self) -> Iterator[Any]:
        """The messages that have come. Raises OSError or EOFError once the worker has ended."""
        data = self.end.recv(_AT_ONCE)
        if not data:
            raise EOFError
        yield from self._inbox.take(data)

    def answer(self, number: int, outcomes: Outcomes) -> None:
        """Keep the outcomes for the next ``flush``."""
        self._answers.append((number, outcomes))

    def tell(self, *message: Any) -> None:
        self._outbox += _frame(*message)

    def flush(self) -> bool:
        """Send as much as the worker takes; return True if nothing is left."""
        if self._answers:
            self.tell(_OUTCOMES, self._answers)
            self._answers = []
        with contextlib.suppress(BlockingIOError):
            while self._outbox:
                del self._outbox[: self.end.send(self._outbox)]
        return not self._outbox


class HostedWriter(Writer):
    """The writer of a node's own process: it takes the commands of all workers.

    Its thread alone reads the sockets, between two appends and, in a long one, between two
    commands. So no other thread competes for the interpreter while the append lock is held.
    """

    def __init__(self, post: Post, *values: Any, **options: Any) -> None:
        super().__init__(*values, state=post.state, **options)
        self._post = post
        self._workers: dict[int, _Worker] = {}
        self._is_alone = threading.Event()
        """Set while no worker is connected."""
        self._is_alone.set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(post.waiting, selectors.EVENT_READ, self._accept)
        self._wakers = socket.socketpair()
        self._selector.register(self._wakers[0], selectors.EVENT_READ, self._wake)
        self.on_elsewhere = self._tell_elsewhere

    def stop(self) -> None:
        """Wait for the end of the workers, which may still have requests, and then stop.

        All processes get the signal at once if their supervisor has died.
        """
        self._is_alone.wait(_WORKERS_SECONDS)
        super().stop()
        self._selector.close()
        for end in (*self._wakers, *(worker.end for worker in self._workers.values())):
            end.close()

    def _serve(self) -> None:
        try:
            super()._serve()
        except Exception:
            # A bug. The supervisor starts another writer once this process has ended.
            _logger.exception("the writer failed")
            os.kill(os.getpid(), signal.SIGTERM)

    def _interrupt(self) -> None:
        self._wakers[1].send(b"\0")

    def _wake(self, mask: int) -> None:
        self._wakers[0].recv(1)

    def _wait(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        self._receive(0)
        while not self._has_work():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            self._receive(left)

    def _receive(self, timeout: float | None = 0) -> None:
        """Take what workers have sent. Wait for it, or gather it for the whole time."""
        if timeout and self._is_gathering:
            time.sleep(timeout)
            timeout = 0
        for key, mask in self._selector.select(timeout):
            key.data(mask)

    def _accept(self, mask: int) -> None:
        for end in self._post.accept():
            worker = self._workers[end.fileno()] = _Worker(end)
            self._selector.register(end, selectors.EVENT_READ, partial(self._serve_one, worker))
            self._note_listening()

    def _serve_one(self, worker: _Worker, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                for kind, *values in worker.receive():
                    self._take(worker, kind, values)
            if mask & selectors.EVENT_WRITE:
                self._flush(worker)
        except BlockingIOError:
            return
        except (OSError, EOFError):
            self._drop(worker)

    def _take(self, worker: _Worker, kind: int, values: Sequence[Any]) -> None:
        if kind == _COMMANDS:
            for number, commands in values[0]:
                try:
                    self.hand_in(commands, partial(worker.answer, number))
                except Unavailable as error:
                    worker.answer(number, [error.with_traceback(None)] * len(commands))
                    self._flush(worker)
        elif kind == _FORGET:
            self.forget_key(*values)
        elif kind == _PROJECTED:
            self.note_projected(*values)
        else:
            worker.listens = False
            self._note_listening()

    def _deliver(self, finished: Sequence[Any]) -> None:
        super()._deliver(finished)
        for worker in list(self._workers.values()):
            self._flush(worker)

    def _flush(self, worker: _Worker) -> None:
        """Send what waits for a worker. One that takes nothing is written to when it does."""
        try:
            events = selectors.EVENT_READ
            if not worker.flush():
                events |= selectors.EVENT_WRITE
            if self._selector.get_key(worker.end).events != events:
                self._selector.modify(worker.end, events, partial(self._serve_one, worker))
        except OSError:
            self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        """Forget a worker that has ended. What it handed over is carried out all the same."""
        if self._workers.pop(worker.end.fileno(), None) is not None:
            self._selector.unregister(worker.end)
            worker.end.close()
            self._note_listening()

    def _note_listening(self) -> None:
        if self._workers:
            self._is_alone.clear()
        else:
            self._is_alone.set()
        self._listens = any(worker.listens for worker in self._workers.values())

    def _tell_elsewhere(self) -> None:
        for worker in list(self._workers.values()):
            worker.tell(_ELSEWHERE, None)
            self._flush(worker)  # a probe may have found it: no outcome follows
