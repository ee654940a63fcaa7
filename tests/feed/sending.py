"""One attempt by a real sender to a real receiver, as the tests of sending make it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ledger.feed.sender import Attempt, Sender
from ledger.feed.signing import create_secret
from tests.support.receiver import Answer, Receiver

EVENT = "EVT-26-000042"
BODY = b'{"type":"execution.blocked","sequence":1}'
SECRET = create_secret()
SOON = 0.2
"""A deadline for those that are to miss it."""


def now() -> datetime:
    return datetime.now(UTC)


def send_all(urls: Sequence[str], body: bytes = BODY, **options: Any) -> list[Attempt]:
    """One attempt after the other, by one sender."""

    async def run() -> list[Attempt]:
        async with Sender(
            **{"allow_private": True, "clock": now, "deadline": 5.0, **options}
        ) as it:
            return [await it.send(url, EVENT, body, [SECRET]) for url in urls]

    return asyncio.run(run())


def send(url: str, body: bytes = BODY, **options: Any) -> Attempt:
    return send_all([url], body, **options)[0]


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def send_to(talk: Talk, scheme: str) -> Attempt:
    """One attempt, with little time, to a server that talks like this."""

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
            async with Sender(True, now, SOON) as sender:
                attempt = await sender.send(f"{scheme}://127.0.0.1:{port}/", EVENT, BODY, [SECRET])
            # Older Pythons leave a connection that is still open to the collector.
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
    """Why no answer came."""
    assert (attempt.response_status, attempt.response_body) == (None, None)
    assert not attempt.delivered
    assert attempt.error is not None
    return attempt.error
