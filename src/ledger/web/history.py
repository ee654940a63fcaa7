"""A page in history: the slider over a line's events, and records not yet known at an instant."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from ledger.api.feed_models import HistoryEvent, PlaceModel
from ledger.api.reading import Query
from ledger.domain.errors import NotFound
from ledger.domain.values import STATES, format_instant
from ledger.web import charts

M = TypeVar("M")


async def as_known(read: Callable[[Query], Awaitable[M]], as_of: str | None, sentence: str) -> M:
    """Return what ``read`` reads as of the instant. Raises NotFound.

    A record that exists now but was unknown at the instant is refused with ``sentence``.
    """
    try:
        return await read(Query(as_of=as_of))
    except NotFound:
        if as_of is None:
            raise
        await read(Query())
        raise NotFound(sentence) from None


class HistoryPlace(NamedTuple):
    """The slider over a line's log positions. Its right end means now."""

    least: int
    most: int
    """The position after the last event."""
    value: int
    event: HistoryEvent
    """The latest event up to the slider's position."""
    first: str | None
    """The instant that this step leads to, as text for an address; None if the slider is there."""
    previous: str | None
    next: str | None
    """None if there is no later event; the next step is then now."""
    last: str | None
    is_now: bool
    ticks: list[tuple[str, str]]
    """(state, SVG path of the events that led to the state), in a box of 1000 × 1."""
    is_sparse: bool
    """Whether there are few ticks, so that wide strokes do not overlap."""
    latest: list[HistoryEvent]
    """Newest first."""


def place_of(place: PlaceModel, is_now: bool) -> HistoryPlace:
    """The slider and its steps. From now, the previous step leads to the last event."""
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
