"""A door to play with, on a loop of its own; whatever it leaves behind fails the test."""

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import psycopg
import uvloop

from ledger.postgres.door import Door
from ledger.postgres.scope import Tenant
from tests.support.views import query, until

Play = Callable[[Door], Awaitable[None]]

# Of three organizations, some of them bound to a workspace.
READERS = [
    Tenant(f"ORG-{n % 3}", workspace)
    for n, workspace in enumerate(("", "WKS-1", "WKS-2", "", "WKS-1", "WKS-2"))
]

# What tells whose transaction a read was in.
SCOPE = (
    "SELECT current_setting('ledger.organization_id'), current_setting('ledger.workspace_id'),"
    " %(n)s::int"
)

# Waits as long as ``holding`` lasts.
HELD = "SELECT 1 FROM pg_advisory_xact_lock_shared(1)"

_LEFT = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'ledger api' AND datname = current_database()
"""


def play_with_door(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    conninfo: str,
    play: Play,
    size: int = 16,
    through: str | None = None,
) -> None:
    """Play on a loop, perhaps through another way to the database."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_play(Door(through or conninfo, size), play))
    until(lambda: query(conninfo, _LEFT) == [(0,)], "the last connection to go")


async def _play(door: Door, play: Play) -> None:
    loop, faults = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    before = _watched(loop)
    await door.open()
    try:
        await play(door)
    finally:
        await door.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert _watched(loop) == before
    assert faults == [], faults


def _watched(loop: Any) -> tuple[int, int]:
    """Sockets and timers; uvloop does not tell."""
    if isinstance(loop, uvloop.Loop):
        return 0, 0
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]
    return len(loop._selector.get_map()), len(timers)


def writers() -> int:
    """Sockets on which somebody waits until he can write; uvloop does not tell."""
    loop: Any = asyncio.get_running_loop()
    if isinstance(loop, uvloop.Loop):
        return 0
    return sum(
        bool(key.events & selectors.EVENT_WRITE) for key in loop._selector.get_map().values()
    )


async def soon(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition while the loop goes on."""
    deadline = asyncio.get_running_loop().time() + 15
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited for {what}"
        await asyncio.sleep(0.001)


async def gathered(reads: Iterable[Awaitable[Any]]) -> list[Any]:
    """What each came to, rows or error, in the time that they may take together."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*reads, return_exceptions=True)


@contextlib.asynccontextmanager
async def holding(conninfo: str) -> AsyncIterator[None]:
    """Advisory lock 1, until the block ends."""
    async with await psycopg.AsyncConnection.connect(conninfo) as held:
        await held.execute("SELECT pg_advisory_xact_lock(1)")
        yield
