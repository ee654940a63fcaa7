"""The document of a statement: the usage of a scope and period, as it is signed (contract).

The document is hashed, so the contract fixes its bytes: the order of keys, and all texts.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from ledger.engine.log.tables import DocumentRow
from ledger.engine.postgres.pool.scope import Fetch
from ledger.engine.reads.as_of import AsOf
from ledger.engine.values.errors import Invalid
from ledger.engine.values.principal import Tenant
from ledger.engine.values.values import InstantText, format_instant
from ledger.features.usage.model.statement import StatementIssued
from ledger.features.usage.model.usage import OF_ALL, OF_CHECK_INS, Grouping, Shows, Sums
from ledger.features.usage.reads.usage import Row, Summing, Usage, UsageScope

MAX_ROWS = 20_000
"""The most rows of a document, and of an answer about changes."""

_LARGEST = 2**53 - 1
"""The largest whole number that every program reads exactly."""

AHEAD = timedelta(minutes=5)
"""How far ahead a fact's time may be: a run may have started after its line was closed."""

_BY_LINE = Grouping(("service_line",))
_BY_RESOURCE = Grouping(("service_line", "resource"))

_encode = msgspec.json.Encoder().encode


class SumsOfScope(NamedTuple):
    """The sums of a scope: in total, by line, and on request by line and resource."""

    total: Sums
    rows: Sequence[Row]
    by_resource: Sequence[Row] | None


def scope_of(tenant: Tenant, organization_id: str, workspace_id: str | None) -> UsageScope:
    """The scope of a statement, limited to what the tenant's credential may read."""
    filters: dict[str, Any] = {"organization_id": organization_id}
    if workspace_id is not None:
        filters["workspace_id"] = [workspace_id]
    return UsageScope(tenant, filters)


async def scoped(
    summing: Summing, start: datetime, end: datetime, *, by_resource: bool
) -> SumsOfScope:
    """Sum the lines page by page. Raises Invalid for too many rows."""
    total, rows, further = Sums(), list[Row](), list[Row]()
    spans = [("", start, end)]
    async for lines in summing.lines(start - AHEAD):
        usage = Usage(summing, _BY_LINE, spans)
        total.add(await usage.total(lines))
        rows += await usage.rows(lines)
        if by_resource:
            further += await Usage(summing, _BY_RESOURCE, spans).rows(lines)
        if len(rows) + len(further) > MAX_ROWS:
            raise Invalid.at("/from", f"the statement has more than {MAX_ROWS:,} rows: narrow it")
    return SumsOfScope(total, rows, further if by_resource else None)


class Document(NamedTuple):
    """A document with its total as JSON, and the event that has its hash."""

    event: StatementIssued
    octets: bytes
    total: bytes

    def row(self, stored_at: datetime) -> DocumentRow:
        """The row that stores the document."""
        return DocumentRow(
            document_sha256=bytes.fromhex(self.event.document_sha256),
            organization_id=self.event.organization_id,
            workspace_id=self.event.workspace_id,
            document=self.octets,
            total=self.total.decode(),
            stored_at=stored_at,
        )


async def compose(
    fetch: Fetch,
    scope: UsageScope,
    as_of: AsOf,
    period: tuple[datetime, datetime],
    *,
    by_resource: bool,
    organization_id: str,
    time_zone: str,
    **terms: str | None,
) -> Document:
    """Sum a scope's period as of a position and clock, and write its document.

    ``terms``: the event's optional fields, from the request. Raises Behind and Invalid.
    """
    start, end = period
    summing = Summing(fetch, scope, as_of, start, end)
    sums = await scoped(summing, start, end, by_resource=by_resource)
    event = StatementIssued(
        organization_id=organization_id,
        time_zone=time_zone,
        from_=InstantText(format_instant(start)),
        to=InstantText(format_instant(end)),
        as_of=InstantText(format_instant(as_of.clock)),
        position=as_of.position,
        document_sha256="",
        **terms,
    )
    return await asyncio.to_thread(document, event, sums)


def document(event: StatementIssued, sums: SumsOfScope) -> Document:
    """Write the document of an event that still lacks its hash. Raises Invalid."""
    total = OF_ALL.rendered(sums.total)
    _require_exact(total)
    resources = sums.by_resource
    values = {
        "organization_id": event.organization_id,
        "workspace_id": event.workspace_id,
        "from": event.from_,
        "to": event.to,
        "time_zone": event.time_zone,
        "as_of": event.as_of,
        "position": event.position,
        "note": event.note,
        "reference": event.reference,
        "replaces": event.replaces,
        "total": total,
        "rows": list(_rendered(_BY_LINE, OF_ALL, sums.rows)),
        "by_resource": None
        if resources is None
        else list(_rendered(_BY_RESOURCE, OF_CHECK_INS, resources)),
    }
    octets = _encode(values)
    event = msgspec.structs.replace(event, document_sha256=sha256(octets).hexdigest())
    return Document(event, octets, _encode(total))


def _rendered(grouping: Grouping, shows: Shows, rows: Iterable[Row]) -> Iterable[Mapping[str, Any]]:
    for values, sums in rows:
        yield dict(zip(grouping.keys, values, strict=True)) | shows.rendered(sums)


def _require_exact(sums: Any) -> None:
    """Raise Invalid for a sum above ``_LARGEST``. The total is the largest sum."""
    if isinstance(sums, Mapping):
        sums = sums.values()
    elif not isinstance(sums, list):
        if isinstance(sums, int | float) and sums > _LARGEST:
            raise Invalid.at("/from", "a sum of the period is above 2^53 - 1: narrow it")
        return
    for each in sums:
        _require_exact(each)
