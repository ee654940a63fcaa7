"""Shared code of usage and comparisons: the lines that are asked about, and corners.

A corner is what was known at a position, judged by a clock. A cursor pins it, so that all pages
tell the same.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from ledger.engine.http.problems import InvalidCursor
from ledger.engine.http.reading import (
    OR,
    Asking,
    Identifier,
    Words,
    Zoned,
    any_of,
    digits,
    split_words,
)
from ledger.engine.reads.question import Question
from ledger.engine.values.calendar import Calendar
from ledger.engine.values.errors import Behind, Invalid
from ledger.engine.values.values import EXECUTION_MODELS, PRODUCT_LINES, instant_of, micros_of
from ledger.engine.views.statements import Read, read_of
from ledger.features.usage.reads.usage import Corner, UsageScope
from projections.directory.statements import NAMES_THEN, names_read

MAX_DATES = 400

_OF_LINES = ("workspace_id", "service_line_id", "execution_model", "product_line", "project_tag")


class LongPage(BaseModel):
    """The parameters of a page of sums."""

    cursor: Annotated[str | None, Field(description="The `meta.cursor` of the page before.")] = None
    limit: Annotated[
        int, Field(ge=1, le=1000, description="The most rows in a page."), BeforeValidator(digits)
    ] = 25


class LineFilters(Zoned):
    """The filters of usage and comparisons: of lines as they stood at the answer's instant."""

    organization_id: Identifier = None
    workspace_id: Words = None
    service_line_id: Words = None
    execution_model: Annotated[
        str | None, Field(pattern=any_of(EXECUTION_MODELS), description=OR)
    ] = None
    product_line: Annotated[str | None, Field(pattern=any_of(PRODUCT_LINES), description=OR)] = None
    project_tag: Words = None
    resource_id: Annotated[
        Words, Field(description=f"Check-ins of these resources count alone. {OR}")
    ] = None

    @property
    def bound_to(self) -> Mapping[str, Any]:
        """The parameters that a cursor is bound to; the words of a filter have no order."""
        sent = self.model_dump(exclude={"cursor", "limit"})
        return sent | {name: split_words(sent[name]) for name in (*_OF_LINES, "resource_id")}

    def scope(self, asking: Asking) -> UsageScope:
        """The lines that are asked about. Raises Invalid."""
        filters: dict[str, Any] = asking.tenant
        if self.organization_id is not None:
            filters["organization_id"] = self.organization_id
        elif asking.principal.is_admin:
            raise Invalid.at("/organization_id", "is required of an administrator")
        for name in _OF_LINES:
            if (words := split_words(getattr(self, name))) is not None:
                filters[name] = words
        return UsageScope(asking.principal.tenant, filters, split_words(self.resource_id))


def require_dates(calendar: Calendar, start: datetime, end: datetime) -> int:
    """The number of dates that a period touches. Raises Invalid for too many."""
    if start >= end:
        return 0
    last = calendar.date_of(end - timedelta(microseconds=1))
    dates = (last - calendar.date_of(start)).days + 1
    if dates > MAX_DATES:
        raise Invalid.at("/from", f"the range has more than {MAX_DATES} days: narrow it")
    return dates


async def names_of(
    asking: Asking, organization: str | None, ids: Collection[str], corner: Corner | None = None
) -> Mapping[str, str]:
    """The names of workspaces and projects of an organization: as known at a corner, or now."""
    if not ids:
        return {}
    values = {"organization": organization, "ids": sorted(ids)}
    if corner is None:
        rows = await asking.rows(names_read(frozenset({"organization"})), values)
    else:
        rows = await asking.rows(NAMES_THEN, {**values, "end": corner.position})
    return {row[1]: row[2] for row in rows if row[1] is not None}


@cache
def _past_read(views: tuple[str, ...]) -> Read:
    return read_of("SELECT p.position FROM ({position}) AS p", *views, past=True)


@cache
def _present_read(views: tuple[str, ...]) -> Read:
    statement = "SELECT p.position, ledger.recorded_at(p.position) FROM ({position}) AS p"
    return read_of(statement, *views)


@cache
def _pinned_read(views: tuple[str, ...]) -> Read:
    statement = """
SELECT p.position, ledger.log_end(), ledger.recorded_at(%(pinned)s) FROM ({position}) AS p
"""
    return read_of(statement, *views)


async def corner_of(
    asking: Asking,
    views: tuple[str, ...],
    instant: datetime | None,
    pinned: Mapping[str, Any] | None = None,
) -> Corner:
    """The corner in a cursor; without one that of an instant, or of now if it is None.

    Raises as ``corner_at`` and ``pinned_corner`` do.
    """
    if pinned is not None:
        return await pinned_corner(asking, views, pinned)
    if instant is not None:
        return await corner_at(asking, views, instant)
    return await present_corner(asking, views)


async def corner_at(asking: Asking, views: tuple[str, ...], instant: datetime) -> Corner:
    """The corner of an instant. Raises as ``Reads.ask`` does."""
    rows = await asking.ask(Question(asking.principal.tenant, _past_read(views), {}, instant))
    return Corner(rows.position, instant)


async def present_corner(asking: Asking, views: tuple[str, ...]) -> Corner:
    """The corner of now. Under load an event may be some microseconds ahead of the clock."""
    rows = await asking.rows(_present_read(views), {})
    ((_, recorded_at),) = rows
    now = asking.services.clock()
    return Corner(rows.position, now if recorded_at is None else max(now, recorded_at))


def pin(corner: Corner) -> Mapping[str, int]:
    """A corner as a part of a cursor."""
    return {"position": corner.position, "clock": micros_of(corner.clock)}


async def pinned_corner(
    asking: Asking, views: tuple[str, ...], pinned: Mapping[str, Any]
) -> Corner:
    """The corner in a cursor. Raises InvalidCursor, or Behind if the views are not there yet."""
    foreign = InvalidCursor()
    position, micros = pinned.get("position"), pinned.get("clock")
    if type(position) is not int or type(micros) is not int or not 0 <= position < 2**63:
        raise foreign
    try:
        clock = instant_of(micros)
    except OverflowError as error:
        raise foreign from error
    rows = await asking.rows(_pinned_read(views), {"pinned": position})
    ((reached, end, recorded_at),) = rows
    now = asking.services.clock()
    begun, latest = (clock, now) if recorded_at is None else (recorded_at, max(now, recorded_at))
    if position > (end or 0) or not begun <= clock <= latest:
        raise foreign
    if reached < position:
        raise Behind("The views have not reached the position of the cursor.")
    return Corner(position, clock)
