"""Parts that the pages across lines share: their scope of lines, and links to other pages."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from fastapi import Response

from ledger.engine.http.reading import Query, ReadRequest
from ledger.engine.page.addresses import here, with_parameter
from ledger.engine.page.pages import go, read_answer
from ledger.engine.reads.filters import in_order
from ledger.engine.values.values import format_instant
from ledger.features.directory.entries import Kind, names_of_resources
from ledger.features.directory.names import names_for
from ledger.features.lines.names import names_of_lines
from ledger.features.lines.words import chips_of
from ledger.features.usage.routes import compare
from ledger.features.usage.routes.compare import ComparePage, ComparePageQuery, CompareQuery
from ledger.features.usage.routes.scope import LineFilters
from ledger.features.usage.routes.usage import UsagePage

LongAnswer = TypeVar("LongAnswer", ComparePage, UsagePage)
"""The API's answers about many lines, which come in pages."""

PAGE = 1000
"""The most rows of a page of the API."""
PAGES = 10
"""The most pages of the API that are read, so that rows can be sorted. An export has all rows."""


def organization_first(request: ReadRequest, query: LineFilters) -> Response | None:
    """Lead an administrator to choose an organization; None if there is nothing to choose."""
    if not request.principal.is_admin or query.organization_id is not None:
        return None
    return go(changed("/ui/directory", type="organization", next=here(request.http)))


def changed(address: str, **changes: Any) -> str:
    """The address with these parameters replaced, from the first row on."""
    for name, value in {"start": None, **changes}.items():
        name = name.rstrip("_")
        address = with_parameter(address, name, None if value is None else str(value))
    return address


def exported(path: str, query: LineFilters, *more: str, **others: str) -> str:
    """The address of the API's export, which has all rows."""
    fields = type(query).model_fields
    for name in (*LineFilters.model_fields, *more):
        value = getattr(query, name)
        path = with_parameter(path, fields[name].alias or name, value)
    return changed(path, **others)


def history_between(line_id: str, after: datetime, until: datetime) -> str:
    """The address of a line's events that were recorded after an instant, up to another instant."""
    bounds = {"recorded_after": format_instant(after), "recorded_until": format_instant(until)}
    return changed(f"/ui/lines/{line_id}/history", **bounds)


def one(words: str | None) -> str | None:
    """The value of a filter if it has only one: lists of events cannot be filtered by several."""
    return words if words is not None and "," not in words else None


async def of_all_pages(
    page: Callable[[str | None], Awaitable[Response]], kind: type[LongAnswer]
) -> LongAnswer:
    """Read several pages into one answer; ``page`` reads the page at a cursor.

    The ``meta`` is that of the last page that was read. There may be more pages.
    """
    found = await read_answer(page(None), kind)
    for _ in range(PAGES - 1):
        if not found.meta.has_more:
            break
        following = await read_answer(page(found.meta.cursor), kind)
        found.data.rows += following.data.rows
        found.meta = following.meta
    return found


async def all_compared(request: ReadRequest, query: CompareQuery) -> ComparePage:
    """Read several pages of a comparison into one answer."""
    names = {*CompareQuery.model_fields}
    values = query.model_dump(include=names, by_alias=True, exclude_none=True)

    def page(cursor: str | None) -> Awaitable[Response]:
        wanted = ComparePageQuery(**values, limit=PAGE, cursor=cursor)
        return compare.show_comparison(request, wanted)

    return await of_all_pages(page, ComparePage)


async def scope_of(request: ReadRequest, query: LineFilters, as_of: str | None) -> dict[str, Any]:
    """The scope of the page, as values of its template."""
    named = (query.workspace_id, query.project_tag)
    ids = [each for words in named if words for each in words.split(",")]
    lines = (query.service_line_id or "").split(",")
    present: Any = Query(as_of=as_of)
    names = {
        **await names_for(request, (), ids),
        **await names_of_lines(request, filter(None, lines), present),
        **await names_of_resources(request, (query.resource_id or "").split(",")),
    }
    kinds: Sequence[Kind] = ("workspace", "project", "resource")
    address = partial(changed, here(request.http))
    filters = dict.fromkeys(LineFilters.model_fields.keys() - {"time_zone", "organization_id"})
    return {
        "names": names,
        "chips": chips_of(query, names),
        "address": address,
        "cleared": address(group_by=None, **filters),
        "pickers": (*kinds, "organization") if request.principal.is_admin else kinds,
        "filters": in_order(query.filters, "product_line"),
        "history_between": history_between,
    }
