"""The tail and its streams on a real database, with a projector that is driven by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import psycopg
import pytest

from ledger.app.features import projections
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads import positions
from ledger.engine.values.errors import Unavailable
from ledger.engine.values.principal import EVERYONE, Principal
from ledger.engine.writer.writer import Writer
from ledger.features.feed.tail import CHUNK, Selection
from tests.support.door import until_async
from tests.support.facts import LINE, RUN, activation, fact
from tests.support.views import HandProjector, breakable, head, projecting, query, report
from tests.webhooks.read_side import ADMIN, OTHER, OWN, READER, THEIRS, Listener, Rig

_CONNECTIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger api'
"""
_RESUME_AT = """
UPDATE ledger.projection SET stopped_at = NULL, error = NULL, position = %s WHERE name = %s
RETURNING pg_notify('ledger_views', name || ' ' || position)
"""
_KILL = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'ledger api%'
"""

Story = Callable[["Rig"], Awaitable[None]]


@pytest.fixture
def tell(conninfo: str, writer: Writer) -> Callable[..., None]:
    """A function that runs a story in a rig of its own."""

    @asynccontextmanager
    async def rigged(
        projector: HandProjector, broken: set[str], **bounds: Any
    ) -> AsyncIterator[Rig]:
        rig = Rig(conninfo, writer, projector, broken, **bounds)
        await rig.pool.open()
        await rig.positions.start()
        try:
            yield rig
        finally:
            await rig.streams.stop()
            await rig.positions.stop()
            await rig.pool.close()

    def run(story: Story, **bounds: Any) -> None:
        async def main() -> None:
            broken = set[str]()
            views = [breakable(view, broken.__contains__) for view in projections()]
            with projecting(conninfo, *views) as projector:
                report(writer, activation())
                projector.catch_up()
                async with rigged(projector, broken, **bounds) as rig:
                    await story(rig)

        asyncio.run(main())

    return run


def test_the_tail_reads_nothing_while_no_stream_is_open(tell: Callable[..., None]) -> None:
    async def story(rig: Rig) -> None:
        rig.happen(3)
        assert await rig.positions.wait(head(rig.conninfo))
        assert rig.reads == 0
        listener = await rig.listen()
        new = rig.happen(2)
        assert await listener.hear(2) == new
        rig.streams.close(listener.stream)
        before = rig.reads
        rig.happen(2)
        assert await rig.positions.wait(head(rig.conninfo))
        assert rig.reads == before
        # The next listener begins anew, and reads the missed events from the table.
        again = await rig.listen(after=listener.stream.at)
        assert await again.hear(2) == rig.ids()[-2:]

    tell(story)


def test_one_read_of_the_tail_serves_all_streams(tell: Callable[..., None]) -> None:
    async def story(rig: Rig) -> None:
        opened = [await rig.listen() for _ in range(50)]
        deaf = await rig.listen(OTHER, THEIRS)
        for listener in (*opened, deaf):
            await listener.open()
        other = asyncio.create_task(deaf.hear(1))
        new = rig.happen(10)
        assert [await listener.hear(10) for listener in opened] == [new] * 50
        # A read for the first listener, a read for the batch, and at most some periodic reads.
        assert rig.reads <= 6
        assert rig.pages == 0
        assert not other.done()
        other.cancel()

    tell(story)


def test_a_stream_behind_the_tails_memory_gets_every_event_once(tell: Callable[..., None]) -> None:
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
        # The stream has caught up: new events come from memory again.
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
        assert 0 < rig.memory_bytes() < 250_000
        assert await slow.hear(64) == rig.ids()[start:]
        assert max(fast.largest, slow.largest) <= CHUNK

    tell(story, size=200_000)


def test_lost_database_connections_cost_no_event_and_no_stream(tell: Callable[..., None]) -> None:
    async def story(rig: Rig) -> None:
        listener, old = await rig.listen(), await rig.listen(after=0)
        await listener.hear(len(rig.happen(3)))
        rig.append(2)
        query(rig.conninfo, _KILL)
        rig.projector.catch_up()
        assert await listener.hear(2) == rig.ids()[-2:]
        assert await old.hear(6) == rig.ids()
        assert listener.ids == rig.ids()[1:]

    tell(story)


@pytest.mark.parametrize(("away", "after"), [("tail", None), ("pages", 0)])
def test_streams_end_when_the_database_stays_away(
    tell: Callable[..., None], away: str, after: int | None
) -> None:
    """A client that reconnects learns of the outage; a silent stream looks like a quiet feed."""

    async def story(rig: Rig) -> None:
        listener = await rig.listen(after=after)
        await listener.open()
        rig.away = away
        with pytest.raises(StopAsyncIteration):
            await listener.hear(9)

    tell(story, give_up_seconds=0.2)


def test_a_stopped_view_holds_the_feed_back_without_a_busy_loop(
    tell: Callable[..., None], conninfo: str
) -> None:
    async def story(rig: Rig) -> None:
        listener = await rig.listen()
        await listener.hear(len(rig.happen(1)))
        rig.broken.add("event")
        waiting = asyncio.create_task(listener.hear(200))
        before = rig.reads
        for _ in range(200):
            rig.append()
            rig.projector.catch_up()
            await rig.positions.wait(head(conninfo))
        assert rig.reads - before < 20
        assert not waiting.done()
        rig.take_over()
        assert await waiting == rig.ids()[-200:]

    tell(story)


def test_a_feed_whose_position_falls_back_repeats_no_event(
    tell: Callable[..., None], conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped view runs again from far behind, so the feed's position falls back with it."""
    monkeypatch.setattr(positions, "WAIT_SECONDS", 0.1)  # the tail's reads while the feed lags

    async def story(rig: Rig) -> None:
        rig.broken.add("run")
        report(rig.writer, fact("run.started", RUN, {"service_line_id": LINE}))
        rig.projector.catch_up()
        listener = await rig.listen()
        before = rig.ids()
        for _ in range(3):
            new = rig.happen()
            assert await listener.hear(1) == new
        query(conninfo, _RESUME_AT, 1, "run")
        late = await rig.listen(after=0)
        assert late.stream.at < rig.tail.floor
        waiting = asyncio.create_task(late.hear(5))
        # The first page ends at the feed's position; the few pages after it bring no event.
        for _ in range(3):
            await rig.paged.get()
        pages, reads = rig.pages, rig.reads
        await until_async(lambda: rig.reads >= reads + 4, "the tail to read on")
        assert rig.pages - pages <= rig.reads - reads
        # The tail keeps the events that it has read.
        assert rig.tail.chunk(rig.tail.floor, Selection(OWN))[1] == head(conninfo)
        rig.append(2)
        rig.take_over()
        await waiting
        assert await listener.hear(2) == rig.ids()[-2:]
        await late.hear(len(rig.ids()) - len(late.ids))
        assert late.ids == rig.ids() == before + listener.ids

    tell(story, rows=1)


def test_cancelled_page_reads_leave_connections_to_others_and_close_none(
    tell: Callable[..., None], conninfo: str
) -> None:
    """Many listeners reconnect at once, read long pages, and leave before the pages come."""

    async def story(rig: Rig) -> None:
        connections = set(query(conninfo, _CONNECTIONS))
        assert connections
        held = await psycopg.AsyncConnection.connect(conninfo)
        await held.execute("SELECT pg_advisory_xact_lock(1)")
        waiting = "SELECT pg_advisory_xact_lock_shared(1)"
        async with anyio.create_task_group() as listeners:
            for _ in range(40):
                listeners.start_soon(rig.pool.fetch, READER.tenant, waiting, {}, Planning.SCAN)
            for _ in range(20):
                assert await rig.pool.fetch(EVERYONE, "SELECT 1", {}) == [(1,)]
            listeners.cancel_scope.cancel()
        await held.close()
        assert await rig.pool.fetch(EVERYONE, "SELECT 2", {}, Planning.SCAN) == [(2,)]
        assert connections <= set(query(conninfo, _CONNECTIONS))

    tell(story)


def test_an_organization_opens_no_more_streams_than_it_leaves_free(
    tell: Callable[..., None],
) -> None:
    """Without this bound a single key could hold all streams."""

    async def fill(rig: Rig, principal: Principal) -> list[Listener]:
        opened: list[Listener] = []
        with contextlib.suppress(Unavailable):
            while len(opened) <= 120:
                opened.append(await rig.listen(principal))
        return opened

    async def story(rig: Rig) -> None:
        opened = await fill(rig, READER)
        narrow = msgspec.structs.replace(READER, id="KEY-26-000003", workspace_id="WS-26-000001")
        assert await fill(rig, narrow) == []
        # Administrators count as one organization.
        assert (len(opened), len(await fill(rig, OTHER))) == (60, 30)
        assert len(await fill(rig, ADMIN)) == 15
        for listener in opened:
            rig.streams.close(listener.stream)
        assert len(await fill(rig, READER)) == 37
        for number in range(120 - len(rig.streams)):
            other = msgspec.structs.replace(READER, organization_id=f"ORG-26-{number + 100:06d}")
            await rig.listen(other)
        assert await fill(rig, msgspec.structs.replace(READER, organization_id="none")) == []

    tell(story)
