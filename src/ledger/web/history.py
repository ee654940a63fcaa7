"""Where a page stands in history: the slider over a line's events, and what was not known yet."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from ledger.api.feed_models import HistoryEvent, PlaceModel
from ledger.api.reading import Query
from ledger.domain.errors import NotFound
from ledger.domain.values import STATES, format_instant
from ledger.web import charts

M = TypeVar("M")


async def as_known(read: Callable[[Query], Awaitable[M]], as_of: str | None, sentence: str) -> M:
    """What is read; of what came later than the asked instant says that. Raises NotFound."""
    try:
        return await read(Query(as_of=as_of))
    except NotFound:
        if as_of is None:
            raise
        await read(Query())
        raise NotFound(sentence) from None


class HistoryPlace(NamedTuple):
    """A slider over a line's log positions; its far right end is now."""

    least: int
    most: int
    """Beyond the last event."""
    value: int
    event: HistoryEvent
    """The latest one up to the place."""
    first: str | None
    """Whither a step leads: an instant, as addresses have it; None: one stands there."""
    previous: str | None
    next: str | None
    """None: there is no later event, the next place is now."""
    last: str | None
    is_now: bool
    ticks: list[tuple[str, str]]
    """For each state a path of what happened and led to it, in a box 1000 × 1."""
    is_sparse: bool
    """Whether strokes may be broad."""
    latest: list[HistoryEvent]
    """The newest first."""


def place_of(place: PlaceModel, is_now: bool) -> HistoryPlace:
    """The slider and its steps at a place; from now the previous event is the last one."""
    until = place.until or [place.first]
    event, first, last = until[0], place.first, place.last
    most = last.position + 1
    before = until[0] if is_now else next(iter(until[1:]), None)

    def step(to: HistoryEvent | None) -> str | None:
        if to is None or (to.position == event.position and not is_now):
            return None
        return format_instant(to.recorded_at)

    by_state = {state: [t.position for t in place.ticks if t.state == state] for state in STATES}
    return HistoryPlace(
        first.position,
        most,
        most if is_now else event.position,
        event,
        step(first),
        step(before),
        step(place.next),
        step(last),
        is_now,
        [
            (state, charts.strokes(positions, first.position, most))
            for state, positions in by_state.items()
            if positions
        ],
        len(place.ticks) < 200,
        until,
    )
