"""Connections to receivers: when they are used again, and when they are closed."""

import asyncio
import gc
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self

import httpcore
import pytest
import uvloop

from ledger.feed.connections import Connections
from ledger.feed.sender import Sender
from ledger.feed.target import PinnedBackend
from tests.feed.sending import BODY, EVENT, SECRET, answers, now, resolves, send_all
from tests.support.certificate import create_contexts
from tests.support.receiver import Answer, Receiver, Request


def test_a_connection_is_used_again_after_any_whole_answer() -> None:
    def script(request: Request) -> Answer:
        return Answer((200, 500, 302, 410)[request.number % 4], b"a" * 60_000)

    with Receiver(script) as receiver:
        attempts = send_all([receiver.url] * 20)
        assert all(attempt.response_status for attempt in attempts)
        assert receiver.count_connections() == 1
        receiver.await_closed()


def test_a_connection_that_the_receiver_has_closed_is_not_used_again() -> None:
    async def run(sender: Sender, receiver: Receiver) -> None:
        async with sender:
            for _ in range(10):
                attempt = await sender.send(receiver.url, EVENT, BODY, [SECRET])
                assert attempt.delivered
                await asyncio.to_thread(receiver.await_closed)

    # The receiver announces no end of the connection, and closes it.
    answer = Answer(action="raw", body=b"HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n")
    with answers(answer) as receiver:
        asyncio.run(run(Sender(True, now), receiver))
        assert receiver.count_connections() == 10


def test_a_new_connection_is_tried_once_when_a_kept_one_breaks() -> None:
    """A receiver may close a kept connection just when the sender uses it again."""

    def script(request: Request) -> Answer:
        return Answer(action="drop") if request.number in (2, 4, 5) else Answer()

    with Receiver(script) as receiver:
        attempts = send_all([receiver.url] * 4)
        assert [a.response_status for a in attempts] == [200, 200, None, 200]
        assert attempts[2].error == "no HTTP answer came"
        assert [r.connection for r in receiver.requests] == [1, 1, 2, 2, 3, 4]


def test_a_closed_connection_behind_an_open_one_is_not_used_again() -> None:
    async def run(steady: Receiver, closing: Receiver) -> None:
        async with Sender(True, now) as sender:
            for receiver in (steady, closing, closing):
                attempt = await sender.send(receiver.url, EVENT, BODY, [SECRET])
                assert attempt.delivered
                await asyncio.to_thread(closing.await_closed)

    answer = Answer(action="raw", body=b"HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n")
    with Receiver() as steady, answers(answer) as closing:
        asyncio.run(run(steady, closing))


def test_each_receiver_has_its_own_connections() -> None:
    with Receiver() as one, Receiver() as other:
        send_all([one.url, other.url] * 5)
        assert (one.count_connections(), other.count_connections()) == (1, 1)
        assert (len(one.requests), len(other.requests)) == (5, 5)


def test_at_most_128_idle_connections_are_kept() -> None:
    async def run(url: str) -> None:
        async with Sender(True, now) as sender:
            for _ in range(2):
                await asyncio.gather(*(sender.send(url, EVENT, BODY, [SECRET]) for _ in range(150)))

    with answers(Answer(delay_seconds=0.3)) as receiver:
        asyncio.run(run(receiver.url))
        assert receiver.count_connections() == 150 + 150 - 128
        receiver.await_closed()


def test_hosts_that_refuse_drive_out_no_connection_that_works() -> None:
    with Receiver() as receiver, socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        dead = [f"http://127.0.0.{number}:{port}/" for number in range(2, 140)]
        send_all([receiver.url, *dead, receiver.url])
        assert receiver.count_connections() == 1


def test_an_expired_connection_is_closed_at_the_next_request_to_any_receiver() -> None:
    async def post(connections: Connections, url: str) -> None:
        request = httpcore.Request("POST", url, headers=[("host", "any"), ("content-length", "0")])
        async with connections.borrow(request.url.origin) as connection:
            response = await connection.handle_async_request(request)
            await response.aread()
            await response.aclose()

    async def run(one: Receiver, other: Receiver) -> None:
        connections = Connections(PinnedBackend(True), None, keepalive_seconds=0)
        await post(connections, one.url)
        await post(connections, other.url)
        await asyncio.to_thread(one.await_closed)
        await connections.close()

    with Receiver() as one, Receiver() as other:
        asyncio.run(run(one, other))


class CancelledAt:
    """Awaits a coroutine, and cancels the task when the coroutine waits for the n-th time."""

    def __init__(self, wait: int, work: Coroutine[Any, Any, object]) -> None:
        self._left, self._waits = wait, work.__await__()

    def __await__(self) -> Self:
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> object:
        return self.send(None)

    def send(self, value: object) -> object:
        return self._count(self._waits.send(value))

    def throw(self, error: BaseException) -> object:
        return self._count(self._waits.throw(error))

    def _count(self, waited_for: object) -> object:
        self._left -= 1
        if self._left == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return waited_for


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_send_cancelled_at_any_wait_leaves_no_connection_open(
    tmp_path: Path, scheme: str
) -> None:
    """Each run cancels the send at the next place where it waits, until no place is left."""
    server, client = create_contexts(tmp_path, "hooks.example")

    async def is_cancelled(wait: int, url: str) -> bool:
        pinned = resolves("127.0.0.1")
        async with Sender(True, now, resolve=pinned, ssl_context=client) as sender:
            try:
                await CancelledAt(wait, sender.send(url, EVENT, BODY, [SECRET]))
            except asyncio.CancelledError:
                return True
        return False

    with Receiver(ssl_context=server if scheme == "https" else None) as receiver:
        wait = 1
        while uvloop.run(is_cancelled(wait, f"{scheme}://hooks.example:{receiver.port}/")):
            # The garbage collector closes a connection that was left open, and warns of it.
            gc.collect()
            wait += 1
        assert wait > 5
        receiver.await_closed()
