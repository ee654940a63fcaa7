"""The slider over a line's events."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from ledger.engine.http.reading import Query, ReadRequest, require_id
from ledger.engine.page import charts
from ledger.engine.page.charts import Label
from ledger.engine.page.showing import Zone
from ledger.engine.values.rendering import ViewInstant
from ledger.engine.values.values import STATES, State, format_instant
from ledger.features.feed.envelopes import HistoryItem
from ledger.features.feed.routes.stories import require_line
from projections.feed.items import history_item
from projections.feed.statements import point_read
from projections.lines.shown import LineDetail

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 10
"""The latest events around the slider's instant."""
_TICKS = 500
"""The most ticks of the slider: more would touch each other."""
_MARGIN = 12
"""A scale continues after a closing for this part of the line's life."""


class Tick(msgspec.Struct):
    """The instant at which an event was recorded, and the line's state after the event."""

    at: ViewInstant
    state: State


class HistoryPoint(msgspec.Struct):
    """A point in a line's history, with the events around it."""

    first: HistoryItem
    last: HistoryItem
    until: list[HistoryItem]
    """The latest events up to the point, newest first."""
    next: HistoryItem | None
    ticks: list[Tick]
    """A selection of the events, far enough apart in time for a slider."""


async def point_in(request: ReadRequest, line_id: str, query: Query) -> HistoryPoint:
    """A point in a line's history, now or at an instant, with the events around it.

    The statement reads the present, because one for the past would miss the events that follow.
    Programs read the history itself.
    """
    require_id("service_line", line_id)
    tenant = request.tenant
    read = point_read(frozenset(tenant), query.is_past)
    parameters = {
        **tenant,
        "line_id": line_id,
        "as_of": query.instant,
        "limit": _LATEST,
        "ticks": _TICKS,
    }
    rows = await request.rows(read, parameters)
    require_line(rows)
    ends, until, following = (
        [history_item(row[3:]) for row in rows if row[2] == kind]
        for kind in ("end", "until", "next")
    )
    ticks = (f'{{"at":{row[4]},"state":"{row[6]}"}}' for row in rows if row[2] == "tick")
    text = (
        f'{{"first":{ends[0]},"last":{ends[-1]},"until":[{",".join(reversed(until))}],'
        f'"next":{following[0] if following else "null"},"ticks":[{",".join(ticks)}]}}'
    )
    return msgspec.json.decode(text, type=HistoryPoint)


class Scale(NamedTuple):
    """The time that the slider and the timeline show: from a line's beginning to now.

    It depends only on the line, not on the reader's instant.
    """

    since: datetime
    until: datetime


def scale_of(line: LineDetail, point: HistoryPoint, now: datetime) -> Scale:
    """The scale of a line as it is now.

    The scale of a closed line ends soon after the closing: for a line closed long ago, "closed"
    would otherwise take almost the whole width. The scale includes facts recorded after the
    closing, unless the line's life would then take less than half of the width.
    """
    since = min(line.started_at, point.first.recorded_at)
    if line.closed_at is None:
        return Scale(since, max(now, since))
    end = max(line.closed_at, since)
    if point.last.recorded_at <= end + (end - since):
        end = max(end, point.last.recorded_at)
    return Scale(since, max(since, min(now, end + (end - since) / _MARGIN)))


def milliseconds_of(instant: datetime) -> int:
    """The slider's number of an instant: milliseconds since 1970, rounded down."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def instant_at(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


class Slider(NamedTuple):
    """The slider over a line's time. Its right end means now."""

    least: int
    most: int
    value: int
    event: HistoryItem
    first: str | None
    """The instant of this step, as text for an address; None if the slider is there."""
    previous: str | None
    next: str | None
    """None if there is no later event; the next step is then now."""
    last: str | None
    is_now: bool
    ticks: list[tuple[str, str]]
    """(state, SVG path of the events that led to the state), in a box of 1000 × 1."""
    is_sparse: bool
    """True if there are few ticks, so that wide strokes do not overlap."""
    axis: list[Label]
    latest: list[HistoryItem]
    """Newest first."""


def slider_of(point: HistoryPoint, scale: Scale, instant: datetime | None, zone: Zone) -> Slider:
    """The slider at an instant; None means now. The steps lead from event to event.

    From now, and from between two events, the previous step leads to the latest event.
    """
    until = point.until or [point.first]
    event, first, last = until[0], point.first, point.last
    is_on_event = instant == event.recorded_at
    before = next(iter(until[1:]), None) if is_on_event else event

    def step(to: HistoryItem | None) -> str | None:
        if to is None or (is_on_event and to.position == event.position):
            return None
        return format_instant(to.recorded_at)

    by_state = {state: [t.at for t in point.ticks if t.state == state] for state in STATES}
    most = milliseconds_of(scale.until)
    return Slider(
        milliseconds_of(scale.since),
        most,
        most if instant is None else min(most, milliseconds_of(instant)),
        event,
        step(first),
        step(before),
        step(point.next),
        step(last),
        instant is None,
        [
            (state, charts.strokes(instants, scale.since, scale.until))
            for state, instants in by_state.items()
            if instants
        ],
        len(point.ticks) < 200,
        charts.axis(zone.local(scale.since), zone.local(scale.until)),
        until,
    )
