"""The tail of the feed: read once per process, for any number of streams (contract, Feeds).

The tail works only while a stream listens. The projector's notifications wake it. It then reads the
new events in one statement, keeps the latest events in memory, and wakes the streams that they may
concern. It reads up to the feed's own position. No event appears later up to that position, so the
memory has no gaps. A stream that falls behind the memory, or comes with an old position, reads the
table with the poller's statement until it has caught up (``stream.py``).
"""

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import psycopg

from ledger.engine.postgres.pool.scope import Fetch
from ledger.engine.telemetry.lines import for_nobody
from ledger.engine.values.principal import EVERYONE
from projections.feed import feeds
from projections.feed.items import feed_item

_logger = logging.getLogger(__name__)

CACHED_EVENTS = 4096
CACHED_BYTES = 8 * 2**20
"""The bounds of the memory: events, and bytes of their messages."""

CHUNK = 64 * 1024
"""Bytes for a stream at once, unless a single event is larger."""

GIVE_UP_SECONDS = 30.0
"""Streams survive a shorter outage of the database. Then they end: a client that reconnects learns
of the failure (503), instead of taking the silence for a lack of events."""

_BATCH = 256

_RETRY_SECONDS = 0.5
_STANDSTILL_SECONDS = 1.0
"""Between checks whether the feed goes on, while its view is stopped and others are not."""


class Positions(Protocol):
    """The views' positions, as last reported to this process."""

    @property
    def reached(self) -> int:
        """The position that every live view has reached."""

    async def wait(self, position: int) -> bool:
        """Return True if every live view reaches the position within a moment."""


class Listener(Protocol):
    """A stream, as the tail sees it."""

    def end(self) -> None: ...


class FeedEvent(NamedTuple):
    """One event of the feed, ready to be sent."""

    position: int
    organization_id: str | None
    workspace_id: str | None
    line_id: str | None
    type: str
    message: bytes


_FIELDS: Mapping[str, str] = {
    "organization": "organization_id",
    "workspace": "workspace_id",
    "service_line_id": "line_id",
}
"""The fields whose name differs from the filter's."""


class Selection:
    """The events for a stream: the statement's filters, for rows in memory."""

    def __init__(self, filters: Mapping[str, Any]) -> None:
        self.filters = filters
        self.organization: str | None = filters.get("organization", filters.get("organization_id"))
        """The only organization whose events pass; None for any."""
        self._allowed = [
            (
                FeedEvent._fields.index(_FIELDS.get(name, name)),
                frozenset([value] if isinstance(value, str) else value),
            )
            for name, value in filters.items()
        ]

    def matches(self, row: FeedEvent) -> bool:
        return all(row[column] in allowed for column, allowed in self._allowed)


class _Batch:
    """The result of one read: the feed's events after a position, up to another."""

    def __init__(self, after: int, up_to: int, rows: list[FeedEvent]) -> None:
        self.after, self.up_to, self.rows = after, up_to, rows
        self.size = sum(len(row.message) for row in rows)
        self.by_organization: dict[str | None, list[FeedEvent]] = {}
        for row in rows:
            self.by_organization.setdefault(row.organization_id, []).append(row)

    def of(self, organization: str | None) -> Iterable[FeedEvent]:
        """The events that may concern a stream of an organization; None for any organization."""
        return self.rows if organization is None else self.by_organization.get(organization, ())


def message(envelope: str) -> bytes:
    """An envelope as a server-sent event without a name: browsers pass it to ``onmessage``."""
    identifier = envelope[len('{"id":"') : envelope.index('",')]
    return f"id: {identifier}\ndata: {envelope}\n\n".encode()


class Tail:
    """The reader and its memory, which ``rows`` and ``size`` (bytes) limit."""

    def __init__(
        self,
        fetch: Fetch,
        positions: Positions,
        rows: int = CACHED_EVENTS,
        size: int = CACHED_BYTES,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        self._fetch, self._positions = fetch, positions
        self.give_up_seconds = give_up_seconds
        self._most_rows, self._most_bytes = rows, size
        self._batches: list[_Batch] = []
        self._rows = self._bytes = 0
        self._position = 0
        self._listeners: set[Listener] = set()
        self._waiting: dict[str | None, set[asyncio.Future[int]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._failing_since: float | None = None

    def join(self, listener: Listener, present: int) -> None:
        """Add a listener. The first listener's ``present``, the feed's end, starts the reading."""
        self._listeners.add(listener)
        if self._task is None:
            self._position, self._failing_since = present, None
            self._task = asyncio.create_task(self._follow(), context=for_nobody())

    def leave(self, listener: Listener) -> None:
        """Remove a listener. Without listeners the reading ends within a moment."""
        self._listeners.discard(listener)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._forget()

    @property
    def floor(self) -> int:
        return self._batches[0].after if self._batches else self._position

    def chunk(self, at: int, selection: Selection) -> tuple[bytes, int]:
        """The next messages for a stream at or after the floor, and its position then.

        A slow stream holds at most this one chunk of the events that the memory has dropped.
        """
        messages: list[bytes] = []
        size = 0
        for number in range(
            bisect_right(self._batches, at, key=attrgetter("up_to")), len(self._batches)
        ):
            batch = self._batches[number]
            for row in batch.of(selection.organization):
                if row.position > at and selection.matches(row):
                    size += len(row.message)
                    if messages and size > CHUNK:
                        return b"".join(messages), at
                    messages.append(row.message)
                    at = row.position
            at = max(at, batch.up_to)
        return b"".join(messages), max(at, self._position)

    async def wait(self, organization: str | None, woken: "asyncio.Future[int]") -> int:
        """Wait for events of an organization, or of any.

        Returns a position up to which the waiting stream missed no event. To end the wait before
        any event, set the future ``woken``.
        """
        waiting = self._waiting.setdefault(organization, set())
        waiting.add(woken)
        try:
            return await woken
        finally:
            waiting.discard(woken)
            if not waiting and self._waiting.get(organization) is waiting:
                del self._waiting[organization]

    async def _follow(self) -> None:
        while self._listeners:
            reached = self._positions.reached
            try:
                more = await self._read_once()
            except Exception as error:
                unforeseen = not isinstance(error, psycopg.Error | OSError)
                _logger.warning("cannot read the feed: %s", error, exc_info=unforeseen)
                self._fail()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._failing_since = None
            if more:
                continue
            if self._position < reached:
                # The feed's view has stopped and others go on. Their batches would wake the tail
                # for nothing.
                await asyncio.sleep(_STANDSTILL_SECONDS)
            else:
                await self._positions.wait(reached + 1)
        self._forget()

    async def _read_once(self) -> bool:
        """Read new events into memory and wake their listeners; return True if more may follow."""
        values = {"after": self._position, "limit": _BATCH}
        rows = await self._fetch(EVERYONE, feeds.TAIL.sql, values, feeds.TAIL.planning)
        events = [
            FeedEvent(found[0], organization, workspace, line, found[1], message(feed_item(found)))
            for _, organization, workspace, line, *found in rows
            if found[0] is not None
        ]
        is_full = len(events) == _BATCH
        after = self._position
        # The feed's position falls back when a view starts anew; the tail's never does.
        self._position = events[-1].position if is_full else max(after, rows[0][0] or 0)
        if events:
            self._keep(_Batch(after, self._position, events))
        return is_full

    def _keep(self, batch: _Batch) -> None:
        self._batches.append(batch)
        self._rows += len(batch.rows)
        self._bytes += batch.size
        dropped = 0
        while dropped < len(self._batches) - 1 and (
            self._rows > self._most_rows or self._bytes > self._most_bytes
        ):
            self._rows -= len(self._batches[dropped].rows)
            self._bytes -= self._batches[dropped].size
            dropped += 1
        del self._batches[:dropped]
        for organization in [None, *batch.by_organization]:
            for woken in self._waiting.get(organization, ()):
                if not woken.done():
                    woken.set_result(batch.after)

    def _fail(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since > self.give_up_seconds:
            for listener in tuple(self._listeners):
                listener.end()

    def _forget(self) -> None:
        self._batches, self._rows, self._bytes = [], 0, 0
        self._task = None
