"""A read pool on its own event loop, which must leave no task, socket or timer."""

import asyncio
import contextlib
import os
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg

from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.values.principal import ANY, Tenant
from tests.support.reader import reading
from tests.support.views import query, until

Play = Callable[[ReadPool], Awaitable[None]]

# Tenants of three organizations, some of them bound to a workspace.
READERS = [
    Tenant(f"ORG-{n % 3}", workspace)
    for n, workspace in enumerate((ANY, "WKS-1", "WKS-2", ANY, "WKS-1", "WKS-2"))
]

# Returns the tenant to which the transaction of the read is bound, and the parameter ``n``.
SCOPE = (
    "SELECT current_setting('ledger.organization_id'), current_setting('ledger.workspace_id'),"
    " %(n)s::int"
)

# Blocks until ``holding`` releases advisory lock 1.
HELD = "SELECT 1 FROM pg_advisory_xact_lock_shared(1)"

# For each connection of a pool: if it waits for an advisory lock, and its statement.
_ACTIVITY = """
SELECT COALESCE(wait_event = 'advisory', false), query FROM pg_stat_activity
WHERE application_name = 'ledger api' AND datname = current_database()
"""


class SelectorLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, whose timers and watched sockets can be counted."""

    def __init__(self) -> None:
        self._watching, self._timers = selectors.DefaultSelector(), list[asyncio.TimerHandle]()
        super().__init__(self._watching)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self._timers.append(super().call_at(when, callback, *args, context=context))
        return self._timers[-1]

    def count_timers(self) -> int:
        """The number of timers that are still to fire."""
        return sum(not timer.cancelled() and timer.when() > self.time() for timer in self._timers)

    def count_sockets(self) -> int:
        """The number of sockets registered with the selector."""
        return len(self._watching.get_map())

    def count_writers(self) -> int:
        """The number of sockets that the loop watches until they are writable."""
        keys = self._watching.get_map().values()
        return sum(bool(key.events & selectors.EVENT_WRITE) for key in keys)


def play_with_pool(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    conninfo: str,
    play: Play,
    size: int = 16,
    through: str | None = None,
) -> None:
    """Run ``play`` with a read pool on a new loop; ``through``: the address of a relay, if any."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_play(ReadPool(reading(conninfo, through), size), play))
    until(lambda: count_connections(conninfo) == 0, "the last connection to go")


async def _play(pool: ReadPool, play: Play) -> None:
    loop, faults = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    before = watched(loop)
    await pool.open()
    try:
        await play(pool)
    finally:
        await pool.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert watched(loop) == before
    assert faults == [], faults


def watched(loop: asyncio.AbstractEventLoop) -> tuple[int, int]:
    """(sockets, timers) of a loop; uvloop does not reveal them, so (0, 0) there."""
    if not isinstance(loop, SelectorLoop):
        return 0, 0
    return loop.count_sockets(), loop.count_timers()


def count_writers() -> int:
    """The sockets that the running loop watches until they are writable; 0 on uvloop."""
    loop = asyncio.get_running_loop()
    return loop.count_writers() if isinstance(loop, SelectorLoop) else 0


def count_connections(conninfo: str) -> int:
    """The number of the pool's connections, as the server counts them."""
    return len(query(conninfo, _ACTIVITY))


def count_held(conninfo: str, statement: str) -> int:
    """The number of connections on which ``holding`` blocks this statement."""
    return query(conninfo, _ACTIVITY).count((True, statement))


def count_open_ends(port: int) -> int:
    """The number of this process's open sockets whose peer is a port of the loopback."""
    own = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[2][-4:], 16) == port and f"socket:[{row[9]}]" in own for row in rows)


async def until_async(condition: Callable[[], Any], awaited: str) -> None:
    """Wait for a condition while the loop goes on."""
    deadline = asyncio.get_running_loop().time() + 15
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited for {awaited}"
        await asyncio.sleep(0.001)


async def stable_count(count: Callable[[], int]) -> int:
    """The count, once it is stable for 0.5 s, in which a pool tries to connect several times."""
    async with asyncio.timeout(15):
        while True:
            before = count()
            await asyncio.sleep(0.5)
            if count() == before:
                return before


async def gather_results(reads: Iterable[Awaitable[Any]]) -> list[Any]:
    """The rows, or the error, of each read; all reads together may take 30 seconds."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*reads, return_exceptions=True)


@contextlib.asynccontextmanager
async def holding(conninfo: str) -> AsyncIterator[None]:
    """Hold advisory lock 1 until the block ends."""
    async with await psycopg.AsyncConnection.connect(conninfo) as held:
        await held.execute("SELECT pg_advisory_xact_lock(1)")
        yield
