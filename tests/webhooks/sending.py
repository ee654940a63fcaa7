"""Helpers that make attempts with a real sender at a real receiver."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ledger.features.webhooks.delivery.sender import Attempt, Sender
from ledger.features.webhooks.delivery.signing import create_secret
from tests.support.receiver import Answer, Receiver

EVENT = "EVT-26-000042"
BODY = b'{"type":"execution.blocked","sequence":1}'
SECRET = create_secret()
ORG = "ORG-26-000001"
SOON = 0.2
"""A deadline, in seconds, for attempts that are meant to miss it."""


def now() -> datetime:
    return datetime.now(UTC)


class Stopwatch:
    """A stand-in for the module ``time``, whose clock moves only when a test moves it."""

    def __init__(self) -> None:
        self.seconds, self.times_read = 1000.0, 0

    def perf_counter(self) -> float:
        self.times_read += 1
        return self.seconds


def send_all(urls: Sequence[str], body: bytes = BODY, **options: Any) -> list[Attempt]:
    """Make one attempt after the other with the same sender."""

    async def run() -> list[Attempt]:
        async with Sender(
            **{"allow_private": True, "clock": now, "deadline": 5.0, **options}
        ) as sender:
            return [await sender.send(url, EVENT, body, [SECRET], ORG) for url in urls]

    return asyncio.run(run())


def send(url: str, body: bytes = BODY, **options: Any) -> Attempt:
    return send_all([url], body, **options)[0]


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def send_to(talk: Talk, scheme: str, deadline: float = SOON) -> Attempt:
    """Make an attempt at a server whose connection ``talk`` serves."""

    talks: list[asyncio.Future[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.get_running_loop().create_future()
        talks.append(ended)
        try:
            await talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            ended.set_result(None)

    async def run() -> Attempt:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            async with Sender(True, now, deadline) as sender:
                attempt = await sender.send(
                    f"{scheme}://127.0.0.1:{port}/", EVENT, BODY, [SECRET], ORG
                )
            # Older Pythons leave a connection that is still open to the garbage collector.
            await asyncio.wait_for(asyncio.gather(*talks), 10)
        return attempt

    return asyncio.run(run())


def resolves(*addresses: str) -> Any:
    async def resolve(host: str) -> list[str]:
        return list(addresses)

    return resolve


def answers(answer: Answer) -> Receiver:
    return Receiver(lambda request: answer)


def failed(attempt: Attempt) -> str:
    """Return the error of an attempt that got no answer."""
    assert (attempt.response_status, attempt.response_body) == (None, None)
    assert not attempt.delivered
    assert attempt.error is not None
    return attempt.error
