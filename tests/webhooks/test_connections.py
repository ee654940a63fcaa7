"""Connections to receivers: when they are used again, and when they are closed."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop

from ledger.features.webhooks.delivery.sender import Attempt, Sender
from tests.support.certificate import create_contexts
from tests.support.receiver import Answer, Receiver, Request
from tests.webhooks.sending import BODY, EVENT, ORG, SECRET, answers, now, resolves, send_all

FINE = b"HTTP/1.1 200 Fine\r\ncontent-length: 5\r\n\r\nhello"
GONE = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"


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
                attempt = await sender.send(receiver.url, EVENT, BODY, [SECRET], ORG)
                assert attempt.delivered
                await asyncio.to_thread(receiver.await_closed)

    # The receiver announces no end of the connection, and closes it.
    answer = Answer(action="raw", body=b"HTTP/1.1 200 Fine\r\ncontent-length: 0\r\n\r\n")
    with answers(answer) as receiver:
        asyncio.run(run(Sender(True, now), receiver))
        assert receiver.count_connections() == 10


def test_a_new_connection_is_tried_once_when_an_idle_one_breaks() -> None:
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
                attempt = await sender.send(receiver.url, EVENT, BODY, [SECRET], ORG)
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


@pytest.mark.parametrize("behind", [GONE, b"\r\n", b"x"])
def test_bytes_behind_an_answer_cost_it_its_connection(behind: bytes) -> None:
    """The bytes would be taken for the answer to the next delivery."""

    def script(request: Request) -> Answer:
        return Answer(action="say", body=FINE + behind) if request.number == 1 else Answer()

    with Receiver(script) as receiver:
        first, second = send_all([receiver.url] * 2)
        assert [request.connection for request in receiver.requests] == [1, 2]
        receiver.await_closed()
    assert first.delivered
    assert second.delivered


@pytest.mark.parametrize("is_closed", [False, True])
def test_bytes_that_come_while_a_connection_is_idle_close_it(
    monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    """Also if they wait in the system, not yet read, when the next delivery begins."""
    monkeypatch.setattr("ledger.features.webhooks.client.connections.KEEPALIVE_SECONDS", 60.0)
    is_idle, is_written, has_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    requests: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        requests.append(1)
        writer.write(FINE)
        if len(requests) == 1:
            await is_idle.wait()
            writer.write(GONE)
            is_written.set()
        with contextlib.suppress(OSError):
            assert await reader.read() == b"", "the connection was used again"
        has_ended.set()
        writer.close()

    async def run() -> tuple[Attempt, Attempt]:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with server:
            async with Sender(True, now) as sender:
                first = await sender.send(url, EVENT, BODY, [SECRET], ORG)
                is_idle.set()
                await (has_ended if is_closed else is_written).wait()
                second = await sender.send(url, EVENT, BODY, [SECRET], ORG)
            await has_ended.wait()
        return first, second

    first, second = asyncio.run(asyncio.wait_for(run(), 10))
    assert (first.response_status, second.response_status) == (200, 200)
    assert len(requests) == 2


def test_an_answer_before_the_end_of_the_request_costs_the_connection() -> None:
    """The rest of the request would precede the next one."""
    connections: list[int] = []

    async def run() -> list[Attempt]:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(1)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(FINE)
            with contextlib.suppress(OSError):
                await is_over.wait()
            writer.close()

        is_over = asyncio.Event()
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with server, Sender(True, now) as sender:
            body = b"a" * 20_000_000
            attempts = [await sender.send(url, EVENT, body, [SECRET], ORG) for _ in range(2)]
            is_over.set()
        return attempts

    assert all(attempt.delivered for attempt in asyncio.run(run()))
    assert len(connections) == 2


def test_organizations_share_no_connection_to_a_receiver() -> None:
    async def run(url: str) -> None:
        async with Sender(True, now) as sender:
            for organization in (ORG, "ORG-26-000002", ORG, "ORG-26-000002"):
                await sender.send(url, EVENT, BODY, [SECRET], organization)

    with Receiver() as receiver:
        asyncio.run(run(receiver.url))
        assert [request.connection for request in receiver.requests] == [1, 2, 1, 2]


def test_at_most_128_idle_connections_stay_open() -> None:
    async def run(url: str) -> None:
        async with Sender(True, now) as sender:
            for _ in range(2):
                await asyncio.gather(
                    *(sender.send(url, EVENT, BODY, [SECRET], ORG) for _ in range(150))
                )

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


def test_an_idle_connection_is_closed_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(receiver: Receiver) -> None:
        async with Sender(True, now) as sender:
            attempt = await sender.send(receiver.url, EVENT, BODY, [SECRET], ORG)
            assert attempt.delivered
            await asyncio.to_thread(receiver.await_closed)

    monkeypatch.setattr("ledger.features.webhooks.client.connections.KEEPALIVE_SECONDS", 0.05)
    with Receiver() as receiver:
        asyncio.run(run(receiver))


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
                await CancelledAt(wait, sender.send(url, EVENT, BODY, [SECRET], ORG))
            except asyncio.CancelledError:
                return True
        return False

    with Receiver(ssl_context=server if scheme == "https" else None) as receiver:
        wait = 1
        while uvloop.run(is_cancelled(wait, f"{scheme}://hooks.example:{receiver.port}/")):
            # The garbage collector closes a connection that was left open, and warns of it.
            gc.collect()
            wait += 1
        assert wait > 2
        receiver.await_closed()
