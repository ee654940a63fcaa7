"""The position and the clock of an answer: now, at an instant, or as a cursor pins them.

A cursor pins both, so that all pages show the same state.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from ledger.engine.http.lists import number
from ledger.engine.http.problems import InvalidCursor
from ledger.engine.http.reading import ReadRequest
from ledger.engine.reads.as_of import AsOf
from ledger.engine.reads.question import Question
from ledger.engine.values.errors import Behind
from ledger.engine.values.values import instant_of, micros_of
from ledger.engine.views.statements import Read, read_of

PINNED = number("position", 1, "position"), number("clock", 2, "clock")
"""The columns that pin an ``AsOf`` in a cursor, after a row's key; ``pin`` returns their values."""


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


async def resolve_as_of(
    request: ReadRequest,
    views: tuple[str, ...],
    instant: datetime | None,
    pinned: Mapping[str, Any] | None = None,
) -> AsOf:
    """Without a cursor and an instant: now. Raises as ``as_of_instant`` and ``as_of_cursor`` do."""
    if pinned:
        return await as_of_cursor(request, views, pinned)
    if instant is not None:
        return await as_of_instant(request, views, instant)
    return await as_of_now(request, views)


async def as_of_instant(request: ReadRequest, views: tuple[str, ...], instant: datetime) -> AsOf:
    """Raises as ``Reads.ask`` does."""
    rows = await request.ask(Question(request.principal.tenant, _past_read(views), {}, instant))
    return AsOf(rows.position, instant)


async def as_of_now(request: ReadRequest, views: tuple[str, ...]) -> AsOf:
    """Under load, an event may be some microseconds ahead of the clock."""
    rows = await request.rows(_present_read(views), {})
    ((_, recorded_at),) = rows
    now = request.services.clock()
    return AsOf(rows.position, now if recorded_at is None else max(now, recorded_at))


def pin(as_of: AsOf) -> tuple[int, int]:
    return as_of.position, micros_of(as_of.clock)


async def as_of_cursor(
    request: ReadRequest, views: tuple[str, ...], pinned: Mapping[str, Any]
) -> AsOf:
    """Raises InvalidCursor, or Behind if the views have not reached the position yet."""
    foreign, position = InvalidCursor(), pinned["position"]
    try:
        clock = instant_of(pinned["clock"])
    except OverflowError as error:
        raise foreign from error
    rows = await request.rows(_pinned_read(views), {"pinned": position})
    ((reached, end, recorded_at),) = rows
    now = request.services.clock()
    begun, latest = (clock, now) if recorded_at is None else (recorded_at, max(now, recorded_at))
    if position > (end or 0) or not begun <= clock <= latest:
        raise foreign
    if reached < position:
        raise Behind("The views have not reached the position of the cursor.")
    return AsOf(position, clock)
