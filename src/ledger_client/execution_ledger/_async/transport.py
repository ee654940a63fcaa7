"""Requests with their attempts, pages of lists, and answers that come in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx

from execution_ledger._forks import renewed_in_children
from execution_ledger._operation import Bare, File, Listing, Operation
from execution_ledger._requests import (
    ENCODER,
    PAGE,
    Attempts,
    Outgoing,
    Rows,
    Settings,
    answer_of,
    decoded,
    error_of,
    media_of,
    not_reachable,
    request_of,
    unexpected,
)
from execution_ledger._wait import pause_async
from execution_ledger.types import Page

T = TypeVar("T")


class AsyncTransport:
    """The connections to one service, and its credential."""

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings = settings
        self._options = settings.options(transport)
        self._http = httpx.AsyncClient(**self._options)
        self._parents: list[httpx.AsyncClient] = []
        renewed_in_children(self)

    def after_fork(self) -> None:
        """Open new connections in the child. The parent's stay open, since the parent uses them."""
        self._parents.append(self._http)
        self._http = httpx.AsyncClient(**self._options)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self, operation: Operation[T], *ids: object, arguments: Mapping[str, object]
    ) -> T:
        """Send a request until it has an answer, and return its value. Raises LedgerError."""
        request = request_of(operation, ids, arguments)
        return answer_of(operation, await self.attempt(request), self.settings.url)

    async def facts(self, facts: object, kind: type[T]) -> T:
        """Send a fact, or an array of facts. Raises LedgerError."""
        headers = {"content-type": "application/json"}
        request = Outgoing("POST", "/v1/facts", {}, headers, ENCODER.encode(facts))
        answer: T = decoded(kind, await self.attempt(request), self.settings.url)
        return answer

    async def attempt(self, request: Outgoing) -> httpx.Response:
        """Send a request until it succeeds, and return the answer. Raises LedgerError."""
        attempts = Attempts(request.method, self.settings.timeout)
        while True:
            try:
                answer = await self.whole(self._built(request, attempts.timeout))
            except httpx.TransportError as error:
                await pause_async(attempts.again(error))
                continue
            if answer.is_success:
                return answer
            await pause_async(attempts.again(error_of(answer, self.settings.url)))

    async def whole(self, request: httpx.Request) -> httpx.Response:
        """Send a request once. Raises TransportError or UnexpectedAnswer."""
        answer = await self._http.send(request, stream=True)
        return await self._read(answer)

    async def _read(self, answer: httpx.Response) -> httpx.Response:
        try:
            await answer.aread()
        except httpx.DecodingError:
            raise unexpected(answer, self.settings.url) from None
        finally:
            await answer.aclose()
        return answer

    @asynccontextmanager
    async def stream(
        self,
        operation: File[Any],
        *ids: object,
        arguments: Mapping[str, object],
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of a long answer. Raises LedgerError, also if the answer breaks off.

        ``silence`` is the longest time between two pieces, in seconds; it defaults to the timeout.
        """
        request = request_of(operation, ids, arguments)
        request.headers.update(headers or {})
        attempts = Attempts(request.method, self.settings.timeout)
        timeout = httpx.Timeout(silence or self.settings.timeout)
        while True:
            sent = self._built(request, timeout)
            try:
                answer = await self._http.send(sent, stream=True)
                if answer.is_success:
                    break
                await self._read(answer)
            except httpx.TransportError as error:
                await pause_async(attempts.again(error))
                continue
            await pause_async(attempts.again(error_of(answer, self.settings.url)))
        try:
            if media_of(answer) == PAGE:
                raise unexpected(answer, self.settings.url)
            yield answer.aiter_bytes()
        except httpx.TransportError as error:
            raise not_reachable(error) from error
        except httpx.DecodingError:
            raise unexpected(answer, self.settings.url) from None
        finally:
            await answer.aclose()

    def _built(self, request: Outgoing, timeout: httpx.Timeout) -> httpx.Request:
        return self._http.build_request(
            request.method,
            request.path,
            params=request.query or None,
            headers=request.headers,
            content=request.body,
            timeout=timeout,
        )


class AsyncPages(Generic[T]):
    """The rows of a list, over all its pages. A page is requested when its first row is needed."""

    def __init__(
        self,
        transport: AsyncTransport,
        operation: Listing[T] | Bare[Any],
        ids: tuple[object, ...],
        arguments: Mapping[str, object],
    ) -> None:
        self._transport, self._operation = transport, operation
        self._ids, self._arguments = ids, dict(arguments)

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for row in page.data:
                yield row

    async def pages(self) -> AsyncIterator[Page[T]]:
        """The pages, each with its rows as ``data``, and its ``meta.cursor``."""
        arguments = dict(self._arguments)
        while True:
            page: Any = await self._transport.call(self._operation, *self._ids, arguments=arguments)
            yield Page(data=getattr(page.data, "rows", page.data), meta=page.meta)
            if not page.meta.has_more:
                return
            arguments["cursor"] = page.meta.cursor

    async def first(self) -> T | None:
        """The first row, or None."""
        async for page in self.pages():
            return page.data[0] if page.data else None
        return None


class AsyncExport:
    """A file of any length: iterate over its lines, or ``save`` it.

    An export that breaks off raises NotReachable. If the route has the argument ``after``, it
    continues the export.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        operation: File[Any],
        ids: tuple[object, ...],
        arguments: Mapping[str, object],
    ) -> None:
        self._transport, self._operation = transport, operation
        self._ids, self._arguments = ids, arguments

    async def __aiter__(self) -> AsyncIterator[str]:
        rows = Rows()
        async for piece in self.pieces():
            for line in rows.feed(piece):
                yield line.decode()
        for line in rows.rest:
            yield line.decode()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the file, as they arrive."""
        async with self._transport.stream(
            self._operation, *self._ids, arguments=self._arguments
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def save(self, path: str | Path) -> None:
        """Write the file to a path. After an error the path has no file, or the one that it had."""
        whole = Path(path)
        part = whole.with_name(f"{whole.name}.part")
        with part.open("wb") as file:
            async for piece in self.pieces():
                file.write(piece)
        part.replace(whole)
