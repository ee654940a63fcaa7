"""The base class of the groups of routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from execution_ledger._async.transport import AsyncExport, AsyncPages, AsyncTransport
from execution_ledger._operation import Bare, File, Listing, Operation
from execution_ledger._requests import fact_of
from execution_ledger.types import FactItem

T = TypeVar("T")


class _Outcome(msgspec.Struct):
    data: FactItem


class AsyncRoutes:
    """A group of routes about one kind of thing."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def _call(
        self, operation: Operation[T], *ids: object, fields: Mapping[str, object] | None = None
    ) -> T:
        return await self._transport.call(operation, *ids, arguments=fields or {})

    def _pages(
        self, operation: Listing[T], *ids: object, fields: Mapping[str, object]
    ) -> AsyncPages[T]:
        return AsyncPages(self._transport, operation, ids, fields)

    def _rows(self, operation: Bare[Any], fields: Mapping[str, object]) -> AsyncPages[Any]:
        return AsyncPages(self._transport, operation, (), fields)

    def _export(
        self, operation: File[Any], *ids: object, fields: Mapping[str, object]
    ) -> AsyncExport:
        return AsyncExport(self._transport, operation, ids, fields)

    async def _report(
        self, kind: str, subject: str | None, fields: Mapping[str, Any], **more: object
    ) -> FactItem:
        fact = fact_of(kind, subject, fields, self._transport.settings.source)
        fact["data"] |= more
        return (await self._transport.facts(fact, _Outcome)).data
