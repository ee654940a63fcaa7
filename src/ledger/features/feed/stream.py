"""Streams: each listener's own position in the feed, and all open streams of one process.

If the tail's memory begins at or before a stream's position, the stream is served from memory;
otherwise it reads pages with the poller's statement. Both give the same order, so a listener that
resumes or falls behind neither misses nor repeats an event.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any

import anyio
import psycopg
from prometheus_client import Gauge

from ledger.engine.postgres.pool.round_robin import share
from ledger.engine.postgres.pool.scope import Fetch, Planning
from ledger.engine.telemetry.lines import for_nobody
from ledger.engine.values.errors import Unavailable
from ledger.engine.values.principal import EVERYONE, Principal
from ledger.engine.values.values import format_id
from ledger.features.feed.tail import CHUNK, Selection, Tail, message
from projections.feed import feeds
from projections.feed.items import feed_item

_logger = logging.getLogger(__name__)

MOST = 2000
"""Open streams per process; no organization may have more than it leaves for others."""

PING_SECONDS = 15.0
"""How often a comment keeps the connection alive."""

SEND_TIMEOUT_SECONDS = 10.0
"""A reader that accepts nothing for this time is disconnected; it reconnects and resumes."""

RECONNECT_MILLISECONDS = 2000
"""The time after which a client reconnects (``retry``)."""

_PAGE = 200

_PAUSE_SECONDS = (0.5, 1.0, 2.0)
_CHECK_SECONDS = 2.0
"""Between checks of rights: a revoked key's streams end within 5 s (contract, Access)."""

OPEN = Gauge("ledger_feed_streams", "Open event streams.", multiprocess_mode="livesum")

Lapsed = Callable[[Collection[Principal]], Awaitable[Collection[Principal]]]
"""Returns the given credentials that may no longer pass."""


class Stream:
    """One listener. ``chunks`` yields whole events; after ``end`` it finishes by itself."""

    def __init__(
        self,
        tail: Tail,
        fetch: Fetch,
        principal: Principal,
        filters: Mapping[str, Any],
        at: int,
        opening: bytes,
    ) -> None:
        self._tail, self._fetch = tail, fetch
        self._selection = Selection(filters)
        self._statement = feeds.feed_read(frozenset(filters)).sql
        self._opening = opening
        self._has_ended = False
        self._woken: asyncio.Future[int] | None = None
        self.principal = principal
        self.at = at
        """The listener has received all events up to this position."""

    def end(self) -> None:
        self._has_ended = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(0)

    async def chunks(self) -> AsyncIterator[bytes]:
        # Send the opening at once, so that proxies and clients see that the stream is open.
        yield self._opening
        while not self._has_ended:
            if self.at < self._tail.floor:
                for chunk in await self._page():
                    if not self._has_ended:
                        yield chunk
                continue
            chunk, self.at = self._tail.chunk(self.at, self._selection)
            if chunk:
                yield chunk
            else:
                self._woken = asyncio.get_running_loop().create_future()
                reached = await self._tail.wait(self._selection.organization, self._woken)
                self.at = max(self.at, reached)

    async def _page(self) -> list[bytes]:
        """The next page from the table, in chunks.

        Wait until the feed has reached the stream's position again: a view that starts anew moves
        the feed's position back.
        """
        rows = await self._read()
        if rows is None:
            return []
        found = [(row[1], message(feed_item(row[1:]))) for row in rows if row[1] is not None]
        before = self.at
        self.at = found[-1][0] if len(found) == _PAGE else max(before, rows[0][0] or 0)
        if self.at == before:
            await asyncio.sleep(_PAUSE_SECONDS[0])
        return _chunked([one for _, one in found])

    async def _read(self) -> list[Any] | None:
        """The page's rows; retries while the database fails.

        After too long a failure, end the stream and return None.
        """
        values = {**self._selection.filters, "after": self.at, "limit": _PAGE}
        tenant, loop = self.principal.tenant, asyncio.get_running_loop()
        failures, give_up = 0, loop.time() + self._tail.give_up_seconds
        while not self._has_ended:
            try:
                return await self._fetch(tenant, self._statement, values, Planning.SCAN)
            except (psycopg.Error, OSError) as error:
                _logger.warning("cannot read a page for a stream: %s", error)
                if loop.time() > give_up:
                    self.end()
                await asyncio.sleep(_PAUSE_SECONDS[min(failures, len(_PAUSE_SECONDS) - 1)])
                failures += 1
        return None


def _chunked(messages: list[bytes]) -> list[bytes]:
    chunks: list[list[bytes]] = [[]]
    size = 0
    for one in messages:
        if size + len(one) > CHUNK and chunks[-1]:
            chunks.append([])
            size = 0
        chunks[-1].append(one)
        size += len(one)
    return [b"".join(chunk) for chunk in chunks if chunk]


class Streams:
    """All open streams of a process: limits their number, and checks their rights together."""

    def __init__(
        self,
        tail: Tail,
        fetch: Fetch,
        lapsed: Lapsed,
        most: int = MOST,
        ping_seconds: float = PING_SECONDS,
        send_timeout: float = SEND_TIMEOUT_SECONDS,
    ) -> None:
        self._tail, self._fetch = tail, fetch
        self._lapsed, self._most = lapsed, most
        self.ping_seconds, self.send_timeout = ping_seconds, send_timeout
        self._open: set[Stream] = set()
        self._open_by: Counter[str | None] = Counter()
        """The open streams by organization; None stands for administrators."""
        self._watch: asyncio.Task[None] | None = None
        self.closing = anyio.Event()
        """Set when the process is about to end: every stream then finishes by itself."""

    def __len__(self) -> int:
        return len(self._open)

    async def open(
        self, principal: Principal, filters: Mapping[str, Any], after: int | None
    ) -> Stream:
        """Open a stream of events after a position, or from now on; the caller must ``close`` it.

        Raises Unavailable if too many streams are open, in all or by the credential's organization.
        """
        self._require_room(principal.organization_id)
        # This statement waits in the fair queue, like pages: after a restart all clients reconnect
        # at once, and a browser treats a refusal as final.
        ((present, recorded_at),) = await self._fetch(EVERYONE, feeds.PRESENT, {}, Planning.SCAN)
        self._require_room(principal.organization_id)
        present = present or 0
        opening = f": ledger\nretry: {RECONNECT_MILLISECONDS}\n\n"
        if after is None and recorded_at is not None:
            # An id without data is not an event, but a client resumes after it. So no event is lost
            # if the connection breaks before the first event.
            opening += f"id: {format_id('EVT', recorded_at.year, present)}\n\n"
        at = present if after is None else after
        stream = Stream(self._tail, self._fetch, principal, filters, at, opening.encode())
        self._open.add(stream)
        self._open_by[principal.organization_id] += 1
        OPEN.inc()
        self._tail.join(stream, present)
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_rights(), context=for_nobody())
        return stream

    def close(self, stream: Stream) -> None:
        if stream in self._open:
            self._open.remove(stream)
            self._open_by[stream.principal.organization_id] -= 1
            self._tail.leave(stream)
            OPEN.dec()

    async def stop(self) -> None:
        for stream in tuple(self._open):
            stream.end()
            self.close(stream)
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._tail.stop()

    def _require_room(self, organization_id: str | None) -> None:
        """Raise Unavailable if no stream is left: otherwise a single key could take all of them."""
        if not share(self._most - len(self._open), self._open_by[organization_id]):
            raise Unavailable("Too many streams are open: try again, or follow by polling.")

    async def _watch_rights(self) -> None:
        """End the streams of lapsed credentials, and all streams when the process is to end."""
        while self._open:
            with anyio.move_on_after(_CHECK_SECONDS):
                await self.closing.wait()
                self._end(tuple(self._open))
                break
            try:
                lapsed = await self._lapsed({stream.principal for stream in self._open})
            except Exception as error:
                # The next check must come, whatever the error.
                unforeseen = not isinstance(error, psycopg.Error | OSError)
                _logger.warning("cannot check streams' rights: %s", error, exc_info=unforeseen)
                continue
            self._end([stream for stream in self._open if stream.principal in lapsed])
        self._watch = None

    def _end(self, streams: Collection[Stream]) -> None:
        for stream in streams:
            stream.end()
