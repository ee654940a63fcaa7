"""The geometry of charts, as numbers for SVG attributes.

Widths are percentages: a drawing fills the width of its container, while letters and patterns keep
their size. Heights are pixels.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

LEAST = 0.3
"""The least width of a piece, so that a short stop in a long life is visible."""

_DAY = 86_400
_STEPS = (
    1, 5, 15, 30, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600,
    _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 91 * _DAY, 182 * _DAY, 365 * _DAY,
    3650 * _DAY,
)  # fmt: skip
"""Possible distances of the labels of a time axis, in seconds."""

_LEVELS = (
    0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, _DAY, 7 * _DAY, 30 * _DAY, 365 * _DAY,
    36_500 * _DAY,
)  # fmt: skip
"""Durations at which the grid may have lines, in seconds."""


class TimeSpan(NamedTuple):
    """A period with one state or one cause (``kind``)."""

    kind: str
    since: datetime
    until: datetime

    @property
    def length(self) -> timedelta:
        return self.until - self.since


class Piece(NamedTuple):
    """A rectangle of a band, from ``x`` on."""

    x: float
    width: float
    kind: str
    since: datetime
    until: datetime
    parts: int = 1
    """The number of intervals in the piece; ``kind`` is the one with the longest total time."""


class AlertMark(NamedTuple):
    """A mark on a band, from ``x`` on, with its texts."""

    x: float
    width: float
    since: datetime
    until: datetime
    texts: tuple[str, ...]


class Label(NamedTuple):
    """An instant on a time axis."""

    x: float
    at: datetime
    format: str
    """The format of the label (strftime)."""

    @property
    def anchor(self) -> str:
        """The text's anchor at ``x``, so that no label is cut off at the ends of the axis."""
        return "start" if self.x < 8 else "end" if self.x > 92 else "middle"


class Bar(NamedTuple):
    """A bar that stands on the bottom of the chart."""

    x: float
    width: float
    y: float
    height: float

    @property
    def centre(self) -> float:
        return self.x + self.width / 2


class Level(NamedTuple):
    """A line of the grid."""

    y: float
    seconds: float


def percent_between(at: datetime, start: datetime, end: datetime) -> float:
    """The position of an instant between two others, from 0 to 100."""
    whole = (end - start).total_seconds()
    if whole <= 0:
        return 0.0
    return min(100.0, max(0.0, 100 * (at - start).total_seconds() / whole))


def band(
    intervals: Sequence[TimeSpan], start: datetime, end: datetime, most: int = 1000
) -> list[Piece]:
    """Adjacent pieces, at most about twice ``most``: intervals too short to see are merged."""
    least = (end - start) / most if len(intervals) > most else timedelta(0)
    found: list[Piece] = []
    waiting: list[TimeSpan] = []
    for interval in intervals:
        if waiting and interval.length >= least:
            found.append(_piece(waiting, start, end))
            waiting = []
        waiting.append(interval)
        if waiting[-1].until - waiting[0].since >= least:
            found.append(_piece(waiting, start, end))
            waiting = []
    if waiting:
        found.append(_piece(waiting, start, end))
    return found


def lane(intervals: Iterable[TimeSpan], start: datetime, end: datetime) -> list[Piece]:
    """Separate pieces between ``start`` and ``end``; intervals with a tiny gap are merged."""
    gap = (end - start) / 1000
    groups: list[list[TimeSpan]] = []
    for interval in intervals:
        if groups and interval.since - groups[-1][-1].until <= gap:
            groups[-1].append(interval)
        else:
            groups.append([interval])
    return [_piece(group, start, end) for group in groups]


def marks(
    alerts: Iterable[tuple[datetime, datetime, str]], start: datetime, end: datetime
) -> list[AlertMark]:
    """Separate marks between ``start`` and ``end``; overlapping ones become one, with all texts."""
    found = list[AlertMark]()
    for since, until, text in sorted(alerts):
        if until < start or since > end:
            continue
        if found and since <= found[-1].until:
            last = found.pop()
            since, until, texts = last.since, max(until, last.until), (*last.texts, text)
        else:
            texts = (text,)
        x = percent_between(since, start, end)
        width = max(percent_between(until, start, end) - x, LEAST)
        found.append(AlertMark(min(x, 100 - width), width, since, until, texts))
    return found


def _piece(group: Sequence[TimeSpan], start: datetime, end: datetime) -> Piece:
    since, until = group[0].since, group[-1].until
    x = percent_between(since, start, end)
    lengths: dict[str, timedelta] = {}
    for interval in group:
        lengths[interval.kind] = lengths.get(interval.kind, timedelta(0)) + interval.length
    kind = max(lengths, key=lambda name: lengths[name])
    width = 100.0 if end <= start else percent_between(until, start, end) - x
    return Piece(x, width, kind, since, until, len(group))


def drawn(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in paint order: short ones last, widened to be visible, none beyond the box."""
    wide = []
    for piece in sorted(pieces, key=lambda piece: -piece.width):
        width = max(piece.width, LEAST)
        wide.append(piece._replace(x=min(piece.x, 100 - width), width=width))
    return wide


def axis(start: datetime, end: datetime, most: int = 8) -> list[Label]:
    """Round instants between two others, in the zone of ``start`` and ``end``."""
    span = (end - start).total_seconds()
    step = next((s for s in _STEPS if span <= s * most), _STEPS[-1])
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    if step >= _DAY:
        # Weeks begin on Mondays, whichever day the axis begins on.
        days = step // _DAY
        begin = midnight - timedelta(days=(midnight.toordinal() - 1) % days)
    else:
        passed = (start - midnight).total_seconds()
        begin = midnight + timedelta(seconds=passed // step * step)
    written = _written(step, span)
    # Steps follow the wall clock, as the days of a zone do; positions follow elapsed time.
    first, last = start.astimezone(UTC), end.astimezone(UTC)
    number = math.ceil(span / step) + 2
    local_times = (begin + timedelta(seconds=step) * n for n in range(number))
    found = [
        Label(percent_between(local.astimezone(UTC), first, last), local, written)
        for local in local_times
        if first <= local.astimezone(UTC) <= last
    ]
    return found or [Label(0, start, "%Y-%m-%d %H:%M:%S")]


def _written(step: float, span: float) -> str:
    if step >= _DAY:
        return "%Y-%m-%d" if span > 300 * _DAY else "%m-%d"
    if step < 60:
        return "%H:%M:%S"
    return "%m-%d %H:%M" if span > _DAY / 2 else "%H:%M"


def levels(seconds: Iterable[float], height: float) -> list[Level]:
    """The grid of a logarithmic scale that covers all of these durations, from the bottom up."""
    lengths = [length for length in seconds if length > 0] or [1.0]
    low = max((n for n, s in enumerate(_LEVELS) if s <= min(lengths)), default=0)
    high = min((n for n, s in enumerate(_LEVELS) if s >= max(lengths)), default=len(_LEVELS) - 1)
    chosen = _LEVELS[low : max(high, low + 1) + 1]
    if len(chosen) < 2:
        chosen = _LEVELS[-2:]
    return [Level(_height_above(length, chosen, height), length) for length in chosen]


def bars(
    seconds: Sequence[float | None], grid: Sequence[Level], height: float, most: float = 8
) -> list[Bar]:
    """Bars for durations over the whole width, each at most ``most`` wide; a stub for None."""
    share = 100 / max(len(seconds), 1)
    width = min(share * 0.8, most)
    scale = [level.seconds for level in grid]
    found = []
    for number, length in enumerate(seconds):
        y = height if length is None or length <= 0 else _height_above(length, scale, height)
        y = min(y, height - 3)
        found.append(Bar(share * (number + 0.5) - width / 2, width, y, height - y))
    return found


def _height_above(seconds: float, scale: Sequence[float], height: float) -> float:
    """The distance from the top; the scale's ends are at the bottom and at the top."""
    low, high = math.log(scale[0]), math.log(scale[-1])
    reach = (math.log(seconds) - low) / (high - low)
    return height * (1 - min(1.0, max(0.0, reach)))


def labelled(found: Sequence[Bar], apart: float = 22) -> list[int]:
    """The indexes of bars with a label: the first, then each far enough from the last label."""
    chosen: list[int] = []
    for number, bar in enumerate(found):
        if not chosen or bar.centre - found[chosen[-1]].centre >= apart:
            chosen.append(number)
    return chosen


def strokes(instants: Iterable[datetime], start: datetime, end: datetime) -> str:
    """A path with a vertical stroke for each instant, in a box of 1000 × 1."""
    return "".join(f"M{10 * percent_between(at, start, end):.1f} 0v1" for at in instants)
