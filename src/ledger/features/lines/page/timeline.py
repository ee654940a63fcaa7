"""A line's timeline, as a drawing and as a table."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ledger.engine.http.reading import Query, ReadRequest
from ledger.engine.http.replies import AnswerOf
from ledger.engine.page import charts
from ledger.engine.page.charts import AlertMark, Label, Piece, TimeSpan
from ledger.engine.page.pages import read_answer
from ledger.engine.page.showing import Zone
from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import STATES, format_instant
from ledger.features.feed.routes import stories
from ledger.features.feed.routes.stories import RangeQuery, ShownInterval, ShownTimeline
from ledger.features.lines.page.history import Scale
from ledger.features.watches.alerts import SEVERITIES
from ledger.features.watches.model.watch import Severity
from projections.lines.shown import LineDetail
from projections.watches.shown import ShownAlert

_PERIODS = (365, 30, 7, 1)
"""Days to draw if the whole history has too many changes: the longest period that fits."""
_LISTED = 200
"""The most intervals in the table, the newest ones."""


class TimeShare(NamedTuple):
    """The total time of a state or of a cause."""

    name: str
    seconds: float
    percent: float | None
    """Percent of the line's life until it closed; None for the time after the closing."""


class Life(NamedTuple):
    """The intervals of a line's life, or of its latest part."""

    timeline: ShownTimeline
    days: int | None


class Band(NamedTuple):
    """The timeline of a line, as a drawing and as a table."""

    since: datetime
    until: datetime
    """The end of the known time; the rest of the scale is empty."""
    days: int | None
    """The length of the drawn period; None for the whole life."""
    until_x: float
    """``until`` on the scale, in percent."""
    pieces: list[Piece]
    lanes: list[tuple[str, list[Piece]]]
    alerts: list[tuple[Severity, list[AlertMark]]]
    """The spans with open alerts, the worst severity first."""
    axis: list[Label]
    by_state: list[TimeShare]
    by_cause: list[TimeShare]
    listed: list[ShownInterval]
    """Newest first."""
    total: int


async def life_of(
    request: ReadRequest, line: LineDetail, query: Query, now: datetime
) -> Life | None:
    """The line's life, or the latest part with few enough changes; None if one day has too many."""
    end = now if line.closed_at is None else min(now, line.closed_at)
    for days in (None, *_PERIODS):
        since = None if days is None else format_instant(end - timedelta(days=days))
        period = RangeQuery(as_of=query.as_of, **{"from": since} if since else {})
        answer = stories.show_timeline(request, line.service_line_id, period)
        try:
            timeline = (await read_answer(answer, AnswerOf[ShownTimeline])).data
        except Invalid:
            continue
        if timeline.intervals:
            return Life(timeline, days)
    return None


def band_of(
    life: Life,
    line: LineDetail,
    alerts: Sequence[ShownAlert],
    now: datetime,
    scale: Scale,
    zone: Zone,
) -> Band:
    """Draw a life on the scale; a latest part, on the scale of that part."""
    timeline = life.timeline
    first = timeline.intervals[0].from_
    since, until = scale if life.days is None else (first, max(first, min(now, scale.until)))
    end = max(since, min(now, until))
    pieces = [
        (interval, TimeSpan(interval.state, interval.from_, min(interval.to or end, end)))
        for interval in timeline.intervals
        if interval.from_ <= end
    ]
    lanes = [
        (cause, charts.lane((p for i, p in pieces if cause in i.causes), since, until))
        for cause, seconds in timeline.totals.by_cause.items()
        if seconds
    ]
    by_state = timeline.totals.by_state
    whole = sum(seconds for state, seconds in by_state.items() if state != "closed")

    def shares(totals: Mapping[Any, float]) -> list[TimeShare]:
        return [
            TimeShare(
                name, seconds, None if name == "closed" or not whole else 100 * seconds / whole
            )
            for name, seconds in totals.items()
            if seconds or name == line.state
        ]

    return Band(
        since,
        end,
        life.days,
        charts.percent_between(end, since, until),
        charts.drawn(charts.band([piece for _, piece in pieces], since, until)),
        [(cause, charts.drawn(found)) for cause, found in lanes],
        [
            (severity, found)
            for severity in SEVERITIES
            if (found := charts.marks(_alert_spans(alerts, severity, now), since, end))
        ],
        charts.axis(zone.local(since), zone.local(until)),
        shares({state: by_state[state] for state in STATES}),
        shares(timeline.totals.by_cause),
        timeline.intervals[: -_LISTED - 1 : -1],
        len(timeline.intervals),
    )


def _alert_spans(
    alerts: Sequence[ShownAlert], severity: Severity, now: datetime
) -> list[tuple[datetime, datetime, str]]:
    return [
        (alert.due, alert.resolved.at if alert.resolved else max(alert.due, now), alert.text)
        for alert in alerts
        if alert.severity == severity
    ]
