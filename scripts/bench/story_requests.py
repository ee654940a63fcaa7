"""The paths of requests about histories, timelines, usage, the feed and the audit log."""

import random
from collections.abc import Callable, Mapping
from datetime import timedelta

from chronicle import BEGINS, SPAN
from population import Population
from story import ORGANIZATION, line_id

from ledger.engine.values.values import format_id, format_instant

PAGE = 100


class Walker:
    """Draws requests about a data set from one seed."""

    def __init__(self, population: Population, events: int) -> None:
        """``events`` is the number of events that the data set began with."""
        self._ids, self._big, self._events = population.ids(), line_id(population.big), events
        self._draw = random.Random(11)

    def past_details(self) -> str:
        """A line's detail as of about the middle of the data set."""
        return f"/v1/execution/{self._line()}?as_of={self._then()}"

    def past_runs(self) -> str:
        """The big line's latest runs as of about the middle of the data set."""
        return f"/v1/execution/{self._big}/runs?limit=25&as_of={self._then()}"

    def timelines(self) -> str:
        """A line's timeline."""
        return f"/v1/execution/{self._line()}/timeline"

    def usage(self) -> str:
        """A line's usage of thirty days within the data set."""
        start = BEGINS + SPAN * self._draw.random() * 0.5
        ends = format_instant(start + timedelta(days=30))
        return f"/v1/execution/{self._line()}/usage?from={format_instant(start)}&to={ends}"

    def histories(self) -> str:
        """A page of the big line's history."""
        return f"/v1/execution/{self._big}/history?limit={PAGE}&as_of={self._then()}"

    def feed(self) -> str:
        """A page of the feed, from anywhere."""
        return f"/v1/events?limit={PAGE}&after={self._somewhere('EVT')}"

    def audit(self) -> str:
        """A page of the audit log, from anywhere."""
        after = self._somewhere("AUD")
        return f"/v1/audit-logs?organization_id={ORGANIZATION}&limit={PAGE}&after={after}"

    def _line(self) -> str:
        return self._draw.choice(self._ids)

    def _then(self) -> str:
        return format_instant(BEGINS + SPAN / 2 + timedelta(minutes=self._draw.randrange(10_000)))

    def _somewhere(self, prefix: str) -> str:
        number = self._draw.randrange(self._events // 10, self._events)
        return format_id(prefix, BEGINS.year, number)


DRAWS: Mapping[str, tuple[str, Callable[[Walker], str]]] = {
    "past-detail": ("detail as of then", Walker.past_details),
    "past-runs": ("runs as of then", Walker.past_runs),
    "timeline": ("timeline", Walker.timelines),
    "usage": ("usage of 30 days", Walker.usage),
    "history": (f"history, page of {PAGE}", Walker.histories),
    "feed": (f"feed, page of {PAGE}", Walker.feed),
    "audit": (f"audit log, page of {PAGE}", Walker.audit),
}
"""By the name of a row: its description, and the function that draws a path."""
