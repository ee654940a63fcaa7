"""The tail and its streams on a real database, with a projector that is driven by hand."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import psycopg
import pytest

from ledger.application.writer import Writer
from ledger.domain.errors import Unavailable
from ledger.feed.stream import Stream, Streams
from ledger.feed.tail import CHUNK, Tail
from ledger.intake.principal import Principal
from ledger.postgres.door import Door
from ledger.postgres.scope import EVERYONE, Planning, Tenant
from ledger.reads.positions import ViewPositions
from projections.event import feeds
from tests.support.facts import LINE, ORGANIZATION, activation, fact
from tests.support.racers import fast_idling
from tests.support.views import HandProjector, head, projecting, query, report

READER = Principal("KEY-26-000001", "api_key", frozenset({"read"}), ORGANIZATION)
OTHER = Principal("KEY-26-000002", "api_key", frozenset({"read"}), "ORG-26-000002")
ADMIN = Principal("KEY-26-000009", "api_key", frozenset({"admin"}))
OWN = {"organization": ORGANIZATION}
THEIRS = {"organization": "ORG-26-000002"}

_STOP = """
UPDATE ledger.projection SET stopped_at = now(), error = 'by hand' WHERE name = %s
RETURNING pg_notify('ledger_views', name || ' stopped')
"""
_RESUME_AT = """
UPDATE ledger.projection SET stopped_at = NULL, error = NULL, position = %s WHERE name = %s
RETURNING pg_notify('ledger_views', name || ' ' || position)
"""
_KILL = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'ledger api%'
"""

Rows = list[Any]
Story = Callable[["Rig"], Awaitable[None]]


class Rig:
    """An API process's reading half beside a writer and a projector."""

    def __init__(
        self, conninfo: str, writer: Writer, projector: HandProjector, **bounds: Any
    ) -> None:
        self.conninfo, self.writer, self.projector = conninfo, writer, projector
        self.door, self.positions = Door(conninfo), ViewPositions(conninfo)
        self.reads = self.pages = 0
        self.paged: asyncio.Queue[None] = asyncio.Queue()
        self.away = ""
        self.tail = Tail(self._read, self.positions, **bounds)
        self.streams = Streams(self.tail, self._read_page, self._lapsed, most=120)

    async def _read(
        self, tenant: Tenant, statement: str, values: Mapping[str, Any], planning: Planning
    ) -> Rows:
        self.reads += statement == feeds.TAIL
        await self._meet("tail")
        return await self.door.fetch(tenant, statement, values, planning)

    async def _read_page(
        self, tenant: Tenant, statement: str, values: Mapping[str, Any], planning: Planning
    ) -> Rows:
        if statement == feeds.PRESENT:
            return await self.door.fetch(tenant, statement, values, planning)
        self.pages += 1
        await self._meet("pages")
        rows = await self.door.fetch(tenant, statement, values, planning)
        self.paged.put_nowait(None)
        return rows

    async def _meet(self, who: str) -> None:
        """Where the database is away, find that out as one does."""
        if self.away == who:
            await psycopg.AsyncConnection.connect("host=127.0.0.1 port=1 user=nobody")

    async def _lapsed(self, principals: Any) -> set[Principal]:
        return set()

    async def listen(
        self,
        principal: Principal = READER,
        filters: Mapping[str, Any] = OWN,
        after: int | None = None,
    ) -> "Ear":
        return Ear(await self.streams.open(principal, filters, after))

    def happen(self, count: int = 1, **data: Any) -> list[str]:
        """Check-ins, up to the views; their ids."""
        self.append(count, **data)
        self.projector.catch_up()
        return self.ids()[-count:]

    def append(self, count: int = 1, **data: Any) -> None:
        """Check-ins that no view has seen yet."""
        checks = [fact("execution.checked_in", LINE, {"hours": 1} | data) for _ in range(count)]
        report(self.writer, *checks)

    def stop_view(self, name: str) -> None:
        """As an event that it cannot take would."""
        query(self.conninfo, _STOP, name)
        (view,) = (view for view in self.projector._views if view.projection.name == name)
        view.is_stopped = True

    def ids(self) -> list[str]:
        """The feed's events of the organization, as the table has them."""
        statement = """SELECT 'EVT-' || number FROM ledger.event
            WHERE in_feed AND organization_id = %s ORDER BY position"""
        return [identifier for (identifier,) in query(self.conninfo, statement, ORGANIZATION)]


class Ear:
    """A stream's listener, without a network."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.chunks = stream.chunks()
        self.heard: list[str] = []
        self.largest = 0

    async def hear(self, count: int) -> list[str]:
        """The ids of so many more events, at least, in whole chunks."""
        wanted = len(self.heard) + count
        while len(self.heard) < wanted:
            chunk = await asyncio.wait_for(anext(self.chunks), 15)
            self.largest = max(self.largest, len(chunk))
            blocks = chunk.decode().split("\n\n")
            self.heard += [b.split("\n")[0][4:] for b in blocks if "\ndata: " in b]
        return self.heard[wanted - count :]

    async def open(self) -> None:
        """Take what comes before any event."""
        assert (await anext(self.chunks)).startswith(b":")


@pytest.fixture
def writer(conninfo: str) -> Iterator[Writer]:
    with fast_idling(conninfo, idle_after=timedelta(hours=1)) as running:
        yield running


@pytest.fixture
def tell(conninfo: str, writer: Writer) -> Callable[..., None]:
    """Runs a story in a rig of its own."""

    @asynccontextmanager
    async def rigged(projector: HandProjector, **bounds: Any) -> AsyncIterator[Rig]:
        rig = Rig(conninfo, writer, projector, **bounds)
        await rig.door.open()
        await rig.positions.start()
        try:
            yield rig
        finally:
            await rig.streams.stop()
            await rig.positions.stop()
            await rig.door.close()

    def run(story: Story, **bounds: Any) -> None:
        async def main() -> None:
            with projecting(conninfo) as projector:
                report(writer, activation())
                projector.catch_up()
                async with rigged(projector, **bounds) as rig:
                    await story(rig)

        asyncio.run(main())

    return run


def test_nothing_is_read_while_nobody_listens(tell: Callable[..., None]) -> None:
    async def story(rig: Rig) -> None:
        rig.happen(3)
        assert await rig.positions.wait(head(rig.conninfo))
        assert rig.reads == 0
        ear = await rig.listen()
        new = rig.happen(2)
        assert await ear.hear(2) == new
        rig.streams.close(ear.stream)
        await rig.tail._task  # type: ignore[misc]
        before = rig.reads
        rig.happen(2)
        assert await rig.positions.wait(head(rig.conninfo))
        assert rig.reads == before
        # Who comes next begins anew, and what was missed is in the table.
        again = await rig.listen(after=ear.stream.at)
        assert await again.hear(2) == rig.ids()[-2:]

    tell(story)


def test_one_reading_serves_all_streams(tell: Callable[..., None]) -> None:
    async def story(rig: Rig) -> None:
        ears = [await rig.listen() for _ in range(50)]
        deaf = await rig.listen(OTHER, THEIRS)
        for ear in (*ears, deaf):
            await ear.open()
        other = asyncio.create_task(deaf.hear(1))
        new = rig.happen(10)
        assert [await ear.hear(10) for ear in ears] == [new] * 50
        # One when the first came, one for the batch, and some seconds' looks at most.
        assert rig.reads <= 6
        assert rig.pages == 0
        assert not other.done()
        other.cancel()

    tell(story)


def test_a_stream_that_memory_has_left_behind_gets_everything_once(
    tell: Callable[..., None],
) -> None:
    async def story(rig: Rig) -> None:
        fast, slow = await rig.listen(), await rig.listen()
        start = len(rig.ids())
        for count in (1, 2, 30, 1, 7, 400, 3):
            new = rig.happen(count)
            assert (await fast.hear(count)) == new
        assert slow.stream.at < rig.tail.floor
        assert rig.pages == 0
        assert await slow.hear(444) == rig.ids()[start:]
        assert rig.pages >= 2
        # And it is back: what comes now comes from memory.
        pages = rig.pages
        new = rig.happen(2)
        assert await slow.hear(2) == new
        assert rig.pages == pages

    tell(story, rows=10)


def test_memory_and_chunks_are_bounded_in_bytes(tell: Callable[..., None]) -> None:
    async def story(rig: Rig) -> None:
        fast, slow = await rig.listen(), await rig.listen()
        start = len(rig.ids())
        for _ in range(8):
            await fast.hear(len(rig.happen(8, note="x" * 20_000)))
        assert 0 < rig.tail._bytes < 250_000
        assert await slow.hear(64) == rig.ids()[start:]
        assert max(fast.largest, slow.largest) <= CHUNK

    tell(story, size=200_000)


def test_a_database_that_goes_away_costs_no_event_and_no_stream(tell: Callable[..., None]) -> None:
    async def story(rig: Rig) -> None:
        ear, old = await rig.listen(), await rig.listen(after=0)
        await ear.hear(len(rig.happen(3)))
        rig.append(2)
        query(rig.conninfo, _KILL)
        rig.projector.catch_up()
        assert await ear.hear(2) == rig.ids()[-2:]
        assert await old.hear(6) == rig.ids()
        assert ear.heard == rig.ids()[1:]

    tell(story)


@pytest.mark.parametrize(("away", "after"), [("tail", None), ("pages", 0)])
def test_streams_end_when_the_database_stays_away(
    tell: Callable[..., None], away: str, after: int | None
) -> None:
    """Who comes back is told so; silence would be taken for quiet."""

    async def story(rig: Rig) -> None:
        ear = await rig.listen(after=after)
        await ear.open()
        rig.away = away
        with pytest.raises(StopAsyncIteration):
            await ear.hear(9)

    tell(story, give_up_seconds=0.2)


def test_a_stopped_feed_view_holds_the_feed_without_any_spinning(
    tell: Callable[..., None], conninfo: str
) -> None:
    async def story(rig: Rig) -> None:
        ear = await rig.listen()
        await ear.hear(len(rig.happen(1)))
        rig.stop_view("event")
        waiting = asyncio.create_task(ear.hear(200))
        before = rig.reads
        for _ in range(200):
            rig.append()
            rig.projector.catch_up()
            await rig.positions.wait(head(conninfo))
        assert rig.reads - before < 20
        assert not waiting.done()
        # As when a projector takes over: it tries the view again.
        assert rig.projector.lead()
        rig.projector.catch_up()
        assert await waiting == rig.ids()[-200:]

    tell(story)


def test_a_feed_that_falls_back_repeats_nothing(tell: Callable[..., None], conninfo: str) -> None:
    """A view that was stopped is alive again, far behind: the feed's position with it."""

    async def story(rig: Rig) -> None:
        ear = await rig.listen()
        before = rig.ids()
        rig.stop_view("run")
        for _ in range(3):
            new = rig.happen()
            assert await ear.hear(1) == new
        query(conninfo, _RESUME_AT, 1, "run")
        late = await rig.listen(after=0)
        assert late.stream.at < rig.tail.floor
        waiting = asyncio.create_task(late.hear(4))
        # One page to where the feed has fallen back, then now and then one that brings nothing.
        for _ in range(2):
            await rig.paged.get()
        begun = time.monotonic()
        await rig.paged.get()
        assert time.monotonic() - begun > 0.3
        # What was read stays read.
        await rig.tail._read_once()
        assert rig.tail._position == head(conninfo)
        rig.append(2)
        assert rig.projector.lead()
        rig.projector.catch_up()
        await waiting
        assert await ear.hear(2) == rig.ids()[-2:]
        await late.hear(len(rig.ids()) - len(late.heard))
        assert late.heard == rig.ids() == before + ear.heard

    tell(story, rows=1)


def test_pages_leave_connections_to_others_and_cost_none(
    tell: Callable[..., None], conninfo: str
) -> None:
    """Many come back at once and read long; some go before they have been answered."""

    async def story(rig: Rig) -> None:
        lanes = set(rig.door._lanes)
        held = await psycopg.AsyncConnection.connect(conninfo)
        await held.execute("SELECT pg_advisory_xact_lock(1)")
        waiting = "SELECT pg_advisory_xact_lock_shared(1)"
        async with anyio.create_task_group() as listeners:
            for _ in range(40):
                listeners.start_soon(rig.door.fetch, READER.tenant, waiting, {}, Planning.WALK)
            for _ in range(20):
                assert await rig.door.fetch(EVERYONE, "SELECT 1", {}) == [(1,)]
            listeners.cancel_scope.cancel()
        await held.close()
        assert await rig.door.fetch(EVERYONE, "SELECT 2", {}, Planning.WALK) == [(2,)]
        assert lanes <= rig.door._lanes

    tell(story)


def test_an_organization_opens_no_more_streams_than_it_leaves_free(
    tell: Callable[..., None],
) -> None:
    """One key alone held all there are."""

    async def fill(rig: Rig, principal: Principal) -> list[Ear]:
        ears: list[Ear] = []
        with contextlib.suppress(Unavailable):
            while len(ears) <= 120:
                ears.append(await rig.listen(principal))
        return ears

    async def story(rig: Rig) -> None:
        ears = await fill(rig, READER)
        narrow = msgspec.structs.replace(READER, id="KEY-26-000003", workspace_id="WS-26-000001")
        assert await fill(rig, narrow) == []
        # Administrators are as one organization.
        assert [len(ears), *[len(await fill(rig, who)) for who in (OTHER, ADMIN)]] == [60, 30, 15]
        for ear in ears:
            rig.streams.close(ear.stream)
        assert len(await fill(rig, READER)) == 37
        for number in range(120 - len(rig.streams)):
            one = msgspec.structs.replace(READER, organization_id=f"ORG-26-{number + 100:06d}")
            await rig.listen(one)
        assert await fill(rig, msgspec.structs.replace(READER, organization_id="none")) == []

    tell(story)
