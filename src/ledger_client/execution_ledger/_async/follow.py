"""Following the feed: pages up to the present, then the stream; after a lost connection, again."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from execution_ledger import _operations as routes
from execution_ledger import types
from execution_ledger._async.transport import AsyncTransport
from execution_ledger._requests import (
    BROKEN,
    Rows,
    decoded,
    event_of,
    is_lost,
    request_of,
    unexpected,
)
from execution_ledger._wait import pause_async
from execution_ledger.cursors import Store
from execution_ledger.errors import LedgerError, UnexpectedAnswer

SILENCE_SECONDS = 40.0
"""The service sends a comment every 15 s, so a longer silence means a lost connection."""

RETURN_SECONDS = 2.0
"""How long the service asks a reader of the stream to wait before it returns."""

PAGE = 100


class AsyncFollow:
    """The events since a stored position, and then each new one, without end.

    The position of an event is stored when the next event is requested. If a handler is
    interrupted, its event comes again: at least once. With ``SqliteCursor``, or any store whose
    ``save`` commits the handler's own transaction, each event is handled once.

    The follower waits for a service that is not reachable. It raises a refusal, such as that of a
    revoked key. It also raises UnexpectedAnswer, if something else than a ledger gives the first
    answer.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        store: Store,
        filters: Mapping[str, object],
        read: Callable[[bytes], Any] = event_of,
    ) -> None:
        self._read = read
        self._transport, self._store, self._filters = transport, store, dict(filters)
        self._after: object = self._filters.pop("after", None)
        self.complete_to: int | None = None
        """The log's position up to which all events were given; None before that is known."""
        self._is_answered = False
        """True if a ledger has answered."""
        self._listeners: list[Callable[[int], object]] = []

    def on_complete(self, function: Callable[[int], object]) -> AsyncFollow:
        """Call a function with the log's position when all events up to now were handled.

        This happens each time that the pages end: first at the start, then after each lost
        connection. Returns this follower.
        """
        self._listeners.append(function)
        return self

    async def __aiter__(self) -> AsyncIterator[types.Event]:
        while True:
            try:
                async with aclosing(self.up_to_now()) as events:
                    async for event in events:
                        yield event
                async with aclosing(self._streamed()) as events:
                    async for event in events:
                        yield event
            except LedgerError as error:
                is_other = isinstance(error, UnexpectedAnswer) and self._is_answered
                if not is_other and not is_lost(error):
                    raise
            await pause_async(RETURN_SECONDS * random.uniform(0.5, 1.0))

    async def up_to_now(self) -> AsyncGenerator[types.Event, None]:
        """The events since the stored position, up to now."""
        self._after = self._store.load() or self._after
        while True:
            fields = {**self._filters, "limit": PAGE}
            if self._after is not None:
                fields["after"] = self._after
            answer = await self._transport.attempt(request_of(routes.LIST_EVENTS, (), fields))
            page = decoded(types.Page[msgspec.Raw], answer, self._transport.settings.url)
            try:
                events = [self._read(bytes(text)) for text in page.data]
                position = 0 if page.meta.has_more else int(answer.headers["ledger-position"])
            except BROKEN:
                raise unexpected(answer, self._transport.settings.url) from None
            self._is_answered = True
            for event in events:
                yield event
                self._handled(event.id)
            if not page.meta.has_more:
                self._complete(position)
                return

    async def _streamed(self) -> AsyncGenerator[types.Event, None]:
        """The events that are recorded from now on, until the connection ends."""
        rows = Rows()
        # Only the number in an event id counts: the pages were complete up to this position.
        after = f"EVT-00-{self.complete_to:06}"
        async with self._transport.stream(
            routes.STREAM_EVENTS,
            arguments=self._filters,
            headers={"last-event-id": after},
            silence=SILENCE_SECONDS,
        ) as pieces:
            async for piece in pieces:
                for row in rows.feed(piece):
                    if row.startswith(b"data:") and row[5:].strip():
                        event = self._event(row[5:])
                        yield event
                        self._handled(event.id)
                        self.complete_to = event.position

    def _event(self, text: bytes) -> Any:
        try:
            return self._read(text)
        except BROKEN:
            url = self._transport.settings.url
            raise UnexpectedAnswer(url, 200, "text/event-stream") from None

    def _handled(self, event_id: str) -> None:
        self._store.save(event_id)
        self._after = event_id

    def _complete(self, position: int) -> None:
        self.complete_to = position
        for function in self._listeners:
            function(position)
