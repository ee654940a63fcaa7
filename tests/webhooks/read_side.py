"""The reading half of an API process, without HTTP: its tail, its streams, and who listens."""

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg

from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.positions import ViewPositions
from ledger.engine.values.principal import Principal, Tenant
from ledger.engine.values.values import format_id
from ledger.engine.writer.writer import Writer
from ledger.features.feed.stream import Stream, Streams
from ledger.features.feed.tail import Selection, Tail
from projections.feed import feeds
from tests.support.facts import LINE, ORGANIZATION, fact
from tests.support.reader import reading
from tests.support.views import HandProjector, query, report

READER = Principal("KEY-26-000001", "api_key", frozenset({"read"}), ORGANIZATION)
OTHER = Principal("KEY-26-000002", "api_key", frozenset({"read"}), "ORG-26-000002")
ADMIN = Principal("KEY-26-000009", "api_key", frozenset({"admin"}))
OWN = {"organization": ORGANIZATION}
THEIRS = {"organization": "ORG-26-000002"}

Rows = list[Any]


class Rig:
    """The reading half of an API process, with a writer and a projector."""

    def __init__(
        self,
        conninfo: str,
        writer: Writer,
        projector: HandProjector,
        broken: set[str],
        **bounds: Any,
    ) -> None:
        self.conninfo, self.writer, self.projector = conninfo, writer, projector
        self.broken = broken
        """Views that stop at the next event that they take."""
        own = reading(conninfo)
        self.pool, self.positions = ReadPool(own), ViewPositions(own)
        self.reads = self.pages = 0
        self.paged: asyncio.Queue[None] = asyncio.Queue()
        self.away = ""
        self.tail = Tail(self._read, self.positions, **bounds)
        self.streams = Streams(self.tail, self._read_page, self._lapsed, most=120)

    async def _read(
        self, tenant: Tenant, statement: str, values: Mapping[str, Any], planning: Planning
    ) -> Rows:
        self.reads += statement == feeds.TAIL.sql
        await self._meet("tail")
        return await self.pool.fetch(tenant, statement, values, planning)

    async def _read_page(
        self, tenant: Tenant, statement: str, values: Mapping[str, Any], planning: Planning
    ) -> Rows:
        if statement == feeds.PRESENT:
            return await self.pool.fetch(tenant, statement, values, planning)
        self.pages += 1
        await self._meet("pages")
        rows = await self.pool.fetch(tenant, statement, values, planning)
        self.paged.put_nowait(None)
        return rows

    async def _meet(self, reads: str) -> None:
        """Fail as at an unreachable database, if it is away for these reads."""
        if self.away == reads:
            await psycopg.AsyncConnection.connect("host=127.0.0.1 port=1 user=nobody")

    async def _lapsed(self, principals: Any) -> set[Principal]:
        return set()

    async def listen(
        self,
        principal: Principal = READER,
        filters: Mapping[str, Any] = OWN,
        after: int | None = None,
    ) -> "Listener":
        return Listener(await self.streams.open(principal, filters, after))

    def happen(self, count: int = 1, **data: Any) -> list[str]:
        """Append check-ins and bring them to the views; return their ids."""
        self.append(count, **data)
        self.projector.catch_up()
        return self.ids()[-count:]

    def append(self, count: int = 1, **data: Any) -> None:
        """Append check-ins that no view has seen yet."""
        checks = [fact("execution.checked_in", LINE, {"hours": 1} | data) for _ in range(count)]
        report(self.writer, *checks)

    def take_over(self) -> None:
        """Mend all views, and take the lead as a new projector, which tries every view again."""
        self.broken.clear()
        assert self.projector.lead()
        self.projector.catch_up()

    def memory_bytes(self) -> int:
        """The bytes of the messages in the tail's memory."""
        at, size = self.tail.floor, 0
        while True:
            chunk, at = self.tail.chunk(at, Selection({}))
            size += len(chunk)
            if not chunk:
                return size

    def ids(self) -> list[str]:
        """The ids of the organization's events in the feed, from the table."""
        statement = """SELECT recorded_at, position
            FROM ledger.event JOIN ledger.ledger_events ON notification_id = position
            WHERE type <> 'health.signal_reported' AND organization_id = %s ORDER BY position"""
        found = query(self.conninfo, statement, ORGANIZATION)
        return [format_id("EVT", recorded_at.year, position) for recorded_at, position in found]


class Listener:
    """A stream's listener, without a network."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.chunks = stream.chunks()
        self.ids: list[str] = []
        self.largest = 0

    async def hear(self, count: int) -> list[str]:
        """Take whole chunks until ``count`` more events have come; return their ids."""
        wanted = len(self.ids) + count
        while len(self.ids) < wanted:
            chunk = await asyncio.wait_for(anext(self.chunks), 15)
            self.largest = max(self.largest, len(chunk))
            blocks = chunk.decode().split("\n\n")
            self.ids += [b.split("\n")[0][4:] for b in blocks if "\ndata: " in b]
        return self.ids[wanted - count :]

    async def open(self) -> None:
        """Take the comment that comes before any event."""
        assert (await anext(self.chunks)).startswith(b":")
