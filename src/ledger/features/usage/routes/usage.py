"""Usage across lines, page by page and as an export (contract, Usage)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import Response
from msgspec import UNSET, UnsetType
from pydantic import AfterValidator, Field

from ledger.engine.http import reading
from ledger.engine.http.as_of import PINNED, pin, resolve_as_of
from ledger.engine.http.exports import Exported, Format, answers, begin_export
from ledger.engine.http.lean import Router, needs, read_route
from ledger.engine.http.lists import Order, SortColumn
from ledger.engine.http.problems import Unauthorized
from ledger.engine.http.replies import Meta, answer, keyed
from ledger.engine.reads.as_of import AsOf
from ledger.engine.values.errors import Invalid
from ledger.engine.values.rendering import ViewInstant, doc, json_text
from ledger.engine.values.values import Cause, RunStatus, State, format_instant
from ledger.features.feed.routes.stories import TokensByModel
from ledger.features.usage.model.usage import (
    KEYS,
    OF_ALL,
    OF_CHECK_INS,
    Grouping,
    LineInScope,
    Shows,
    Sums,
)
from ledger.features.usage.reads.usage import Row, Summing, Usage, UsageScope, spans_of
from ledger.features.usage.routes.rows import cut_of_usage
from ledger.features.usage.routes.scope import LineFilters, LongPage, names_of, require_dates
from projections.directory.rows import WHOLE
from projections.directory.statements import NAMES_OF_RESOURCES

router = Router("/v1/usage", "usage")

MAX_LINE_DAYS = 2_000_000
"""The most lines in scope times days of an answer."""

MAX_EXPORT_LINES, MAX_EXPORT_ROWS = 100_000, 1_000_000
"""Limits of an export whose rows are not in the order of lines: all rows precede the first byte."""

EXPORT_LINES = 1000
"""Lines, or rows, in a part of an export."""

VIEWS = ("execution", "run")


def _words(text: str) -> str:
    if fault := Grouping(tuple(text.split(","))).fault:  # type: ignore[arg-type]
        raise ValueError(fault)
    return text


class LinesUsageQuery(LineFilters, reading.Query, reading.RangeParameters):
    """The parameters of usage across lines."""

    group_by: Annotated[
        str,
        Field(
            pattern=reading.any_of(tuple(KEYS)),
            description="One or two words; `month` or `day` comes last.",
        ),
        AfterValidator(_words),
    ] = "service_line"

    @property
    def grouping(self) -> Grouping:
        return Grouping(tuple(self.group_by.split(",")))  # type: ignore[arg-type]

    def period(self, clock: datetime) -> tuple[datetime, datetime]:
        """The period of the answer. Raises Invalid."""
        start, end = self.bounds()
        if start is None and end is None:
            first = self.calendar.date_of(clock).replace(day=1)
            following = (first + timedelta(days=31)).replace(day=1)
            return self.calendar.begin(first), self.calendar.begin(following)
        if end is None:
            following = self.calendar.date_of(clock) + timedelta(days=1)
            end = max(self.calendar.begin(following), start or clock)
        if start is None:
            last = self.calendar.date_of(end - timedelta(microseconds=1))
            start = self.calendar.begin(last.replace(day=1))
        require_dates(self.calendar, start, end)
        return start, end


class LinesUsagePageQuery(LinesUsageQuery, LongPage):
    """The parameters of a page of usage."""


class LinesUsageExportQuery(LinesUsageQuery):
    """The parameters of an export of usage."""

    format: Format = "jsonl"


class UsageSums(msgspec.Struct, kw_only=True):
    """The sums of lines. A sum that the grouping does not have is null."""

    lines: Annotated[int | None, doc("Lines with anything in the other sums.")]
    hours: float | None
    check_ins: Annotated[int | None, doc("Without those that were voided.")]
    runs: Annotated[dict[RunStatus, int] | None, keyed(RunStatus)]
    tokens_used: int | None
    tokens_by_model: list[TokensByModel] | None
    seconds_by_state: Annotated[dict[State, float] | None, keyed(State)]
    seconds_by_cause: Annotated[dict[Cause, float] | None, keyed(Cause)]


class UsageRow(UsageSums, kw_only=True):
    """The sums of a row, with the keys by which it is grouped, and the names behind ids."""

    workspace_id: str | UnsetType = UNSET
    workspace_name: str | UnsetType | None = UNSET
    service_line_id: str | UnsetType = UNSET
    service_line_name: Annotated[str | UnsetType | None, doc("As of then.")] = UNSET
    product_line: str | UnsetType = UNSET
    execution_model: str | UnsetType = UNSET
    project_tag: str | UnsetType | None = UNSET
    project_name: str | UnsetType | None = UNSET
    resource_id: str | UnsetType | None = UNSET
    resource_name: str | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    month: str | UnsetType = UNSET
    day: str | UnsetType = UNSET


class UsageOfLines(msgspec.Struct):
    """The usage of a period, in total and by the rows of a page."""

    from_: ViewInstant = msgspec.field(name="from")
    to: ViewInstant
    time_zone: str
    as_of: ViewInstant | None
    total: Annotated[UsageSums | None, doc("Of all rows; on the first page alone.")]
    rows: list[UsageRow]


class UsagePage(msgspec.Struct):
    """A page of usage."""

    data: UsageOfLines
    meta: Meta


class Counted(NamedTuple):
    """A request about usage, with its position, its clock and its lines in scope."""

    query: LinesUsageQuery
    scope: UsageScope
    as_of: AsOf
    start: datetime
    end: datetime
    summing: Summing
    usage: Usage

    @property
    def shows(self) -> Shows:
        return self.query.grouping.shows(resources_chosen=self.scope.resources is not None)

    @property
    def shows_total(self) -> Shows:
        return OF_ALL if self.scope.resources is None else OF_CHECK_INS

    async def lines(self) -> list[LineInScope]:
        """The lines in scope. Raises Invalid if there are too many."""
        dates = require_dates(self.query.calendar, self.start, self.end)
        found = list[LineInScope]()
        async for page in self.summing.lines(self.start):
            found += page
            if len(found) * dates > MAX_LINE_DAYS:
                sentence = f"has too many lines for {dates} days: narrow it, or export"
                raise Invalid.at("/from", sentence)
        return found

    async def named(
        self, request: reading.ReadRequest, rows: Sequence[Row]
    ) -> list[dict[str, Any]]:
        """The rows with their keys and names, as the API returns them."""
        names = await Names.of(request, self, rows)
        shows, keys = self.shows, self.query.grouping.keys
        rendered = list[dict[str, Any]]()
        for values, sums in rows:
            row: dict[str, Any] = {}
            for key, value in zip(keys, values, strict=True):
                row[key] = value
                if (named := names.by_key.get(key)) is not None:
                    row[NAME_KEYS[key]] = named.get(value or "")
            rendered.append(row | shows.rendered(sums))
        return rendered


NAME_KEYS: Mapping[str, str] = {
    "workspace_id": "workspace_name",
    "service_line_id": "service_line_name",
    "project_tag": "project_name",
    "resource_id": "resource_name",
}
"""The key of the name that belongs to an id."""


class Names(NamedTuple):
    """The names of the ids in rows, by key and id."""

    by_key: Mapping[str, Mapping[str, str]]

    @classmethod
    async def of(
        cls, request: reading.ReadRequest, counted: Counted, rows: Sequence[Row]
    ) -> "Names":
        found: dict[str, Mapping[str, str]] = {}
        for index, key in enumerate(counted.query.grouping.keys):
            if key in NAME_KEYS:
                ids = sorted({value for values, _ in rows if (value := values[index])})
                found[key] = await cls._of_ids(request, counted, key, ids) if ids else {}
        return cls(found)

    @staticmethod
    async def _of_ids(
        request: reading.ReadRequest, counted: Counted, key: str, ids: Sequence[str]
    ) -> Mapping[str, str]:
        if key == "service_line_id":
            return await counted.summing.names(ids)
        organization = request.tenant.get("organization", counted.query.organization_id)
        if key != "resource_id":
            then = counted.as_of if key == "workspace_id" else None
            return await names_of(request, organization, ids, then)
        workspace = request.principal.workspace_id or WHOLE
        values = {"organization": organization, "workspace": workspace, "ids": ids}
        rows = await request.rows(NAMES_OF_RESOURCES, values)
        return {row[1]: row[2] for row in rows if row[1] is not None}


async def counted(
    request: reading.ReadRequest, query: LinesUsageQuery, pinned: Mapping[str, Any] | None = None
) -> Counted:
    """The request with its position and clock: the cursor's, those of ``as_of``, or the latest."""
    scope = query.scope(request)
    if scope.resources is not None and "model" in query.grouping.words:
        raise Invalid.at("/resource_id", "chooses check-ins, which have no model")
    as_of = await resolve_as_of(request, VIEWS, query.instant, pinned)
    start, end = query.period(as_of.clock)
    summing = Summing(request.services.pool.fetch, scope, as_of, start, end)
    spans = spans_of(query.grouping, query.calendar, start, end)
    usage = Usage(summing, query.grouping, spans)
    return Counted(query, scope, as_of, start, end, summing, usage)


@router.get(
    "/export",
    summary="Export the usage of lines",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=answers(
        "All rows of usage in their order, as JSON or in a table, and last their total. A row of a"
        " table has a column for each status, state and cause."
    ),
)
async def export_usage_of_lines(
    request: reading.ReadRequest, query: LinesUsageExportQuery
) -> Response:
    """Export all rows of usage as one file of one position and one clock."""
    slot, heavy = begin_export(request), request.services.heavy
    async with heavy.slot(request.principal.tenant_key):
        bound = await counted(request, query)
        pages = _exported(request, bound)
        first = await anext(pages)
    keys = [key for word in query.grouping.keys for key in (word, NAME_KEYS.get(word)) if key]
    file = Exported("usage", itemgetter(0), cut_of_usage(keys))
    found = whole(request, first, pages)
    return file.file(slot, query.format, found, bound.as_of.position, goes_on=False)


async def _exported(
    request: reading.ReadRequest, bound: Counted
) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
    """The rows in parts, and last the total. Raises Invalid before the first part."""
    total = Sums()
    if bound.query.grouping.words[0] == "service_line":
        async for page in bound.summing.lines(bound.start):
            for at in range(0, len(page), EXPORT_LINES):
                some = page[at : at + EXPORT_LINES]
                total.add(await bound.usage.total(some))
                yield await bound.named(request, await bound.usage.rows(some))
    else:
        lines = list[LineInScope]()
        async for page in bound.summing.lines(bound.start):
            lines += page
            if len(lines) > MAX_EXPORT_LINES:
                sentence = f"has more than {MAX_EXPORT_LINES:,} lines: narrow it"
                raise Invalid.at("/group_by", sentence)
        total = await bound.usage.total(lines)
        rows = await bound.usage.rows(lines)
        if len(rows) > MAX_EXPORT_ROWS:
            raise Invalid.at("/group_by", f"has more than {MAX_EXPORT_ROWS:,} rows: narrow it")
        for at in range(0, len(rows), EXPORT_LINES):
            yield await bound.named(request, rows[at : at + EXPORT_LINES])
    yield [{"total": bound.shows_total.rendered(total)}]


async def whole(
    request: reading.ReadRequest,
    first: Sequence[Mapping[str, Any]],
    pages: AsyncIterator[Sequence[Mapping[str, Any]]],
) -> AsyncIterator[Sequence[tuple[None, Mapping[str, Any]]]]:
    """The parts of an export for ``Exported.file``. Each waits for a slot in the fair queue.

    No slot is held while a slow reader takes a part, so nobody else waits for that reader.
    """
    heavy, tenant_key = request.services.heavy, request.principal.tenant_key
    found: Sequence[Mapping[str, Any]] | None = first
    while found is not None:
        yield [(None, row) for row in found]
        if await request.services.lapsed([request.principal]):
            raise Unauthorized("The credential was revoked or has expired.")
        async with heavy.slot(tenant_key, goes_on=True):
            found = await anext(pages, None)


@read_route(router, "", UsagePage, summary="Show the usage of lines")
async def show_usage_of_lines(request: reading.ReadRequest, query: LinesUsagePageQuery) -> Response:
    """Show check-ins, hours, runs, tokens and time in states of many lines, grouped and in total.

    Without `from` and `to` the answer covers the month of its clock.
    """
    bound_to, order = query.bound_to, _order(query.grouping)
    pinned = order.after(query.cursor, bound_to)
    async with request.services.heavy.slot(request.principal.tenant_key):
        bound = await counted(request, query, pinned)
        lines = await bound.lines()
        total = None
        if not pinned:
            total = bound.shows_total.rendered(await bound.usage.total(lines))
        rows = await bound.usage.page(lines, pinned.get("keys"), query.limit + 1)
        rendered = await bound.named(request, rows[: query.limit])
    cursor = query.cursor
    if rendered:
        cursor = order.cursor((rows[len(rendered) - 1][0], *pin(bound.as_of)), bound_to)
    data = {
        "from": format_instant(bound.start),
        "to": format_instant(bound.end),
        "time_zone": query.time_zone,
        "as_of": None if query.instant is None else format_instant(query.instant),
        "total": total,
        "rows": rendered,
    }
    meta = {"cursor": cursor, "has_more": len(rows) > query.limit}
    return answer(json_text({"data": data, "meta": meta}), bound.as_of.position)


def _order(grouping: Grouping) -> Order:
    def parsed(value: Any) -> Sequence[str | None]:
        keys = msgspec.convert(value, list[str | None])
        if len(keys) != len(grouping.words):
            raise ValueError
        grouping.order(keys)
        return keys

    return Order(SortColumn("keys", 0, "keys", list, parsed), *PINNED)
