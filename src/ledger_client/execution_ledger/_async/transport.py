"""Sending: requests with their attempts, pages, and answers that come in pieces."""

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
    Attempts,
    Outgoing,
    Rows,
    Settings,
    answer_of,
    not_reachable,
    problem_of_answer,
    request_of,
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
        """Open connections of the child's own; the parent's stay open, since they are its."""
        self._parents.append(self._http)
        self._http = httpx.AsyncClient(**self._options)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self, operation: Operation[T], *ids: object, arguments: Mapping[str, object]
    ) -> T:
        """Send a request until it is answered. Raises Problem or NotReachable."""
        request = request_of(operation, ids, arguments)
        return answer_of(operation, await self.attempt(request))

    async def facts(self, facts: object) -> bytes:
        """Send a fact, or an array of facts; return the answer. Raises as ``call``."""
        headers = {"content-type": "application/json"}
        body = ENCODER.encode(facts)
        return (await self.attempt(Outgoing("POST", "/v1/facts", {}, headers, body))).content

    async def attempt(self, request: Outgoing) -> httpx.Response:
        """The successful answer to a request. Raises Problem or NotReachable."""
        attempts = Attempts(request.method, self.settings.timeout)
        while True:
            try:
                answer = await self._http.send(self._built(request, attempts.timeout))
            except httpx.TransportError as error:
                await pause_async(attempts.again(error))
                continue
            if answer.is_success:
                return answer
            await pause_async(attempts.again(problem_of_answer(answer)))

    @asynccontextmanager
    async def stream(
        self,
        operation: File[Any],
        *ids: object,
        arguments: Mapping[str, object],
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of a long answer. Raises Problem, or NotReachable, also where it breaks off.

        ``silence`` is the longest time between two pieces, in seconds; by default the timeout.
        """
        request = request_of(operation, ids, arguments)
        request.headers.update(headers or {})
        attempts = Attempts(request.method, self.settings.timeout)
        timeout = httpx.Timeout(silence or self.settings.timeout)
        while True:
            sent = self._built(request, timeout)
            try:
                answer = await self._http.send(sent, stream=True)
            except httpx.TransportError as error:
                await pause_async(attempts.again(error))
                continue
            if answer.is_success:
                break
            await answer.aread()
            await pause_async(attempts.again(problem_of_answer(answer)))
        try:
            yield answer.aiter_bytes()
        except httpx.TransportError as error:
            raise not_reachable(error) from error
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
    """The rows of a list, over all its pages: each page is asked for when its first row is."""

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

    An export that breaks off raises NotReachable. The argument ``after`` continues it, where
    the route has one.
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
        """The bytes of the file, as they come."""
        async with self._transport.stream(
            self._operation, *self._ids, arguments=self._arguments
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def save(self, path: str | Path) -> None:
        """Write the file to a path, which has the whole file or none."""
        whole = Path(path)
        part = whole.with_name(f"{whole.name}.part")
        with part.open("wb") as file:
            async for piece in self.pieces():
                file.write(piece)
        part.replace(whole)
