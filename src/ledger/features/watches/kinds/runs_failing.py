"""A watch of lines whose runs fail one after the other."""

from datetime import datetime
from typing import Annotated, Any

from ledger.features.watches.kinds import base, wording


class RunsFailing(base.Condition, frozen=True, tag="runs_failing"):
    """The latest runs of a line have failed, so many of them."""

    count: Annotated[int, base.Blank("Number of runs", 3), base.Checks(ge=1, le=20)]

    about = "failures"
    keeps = True
    choice = "Runs fail one after the other"
    sentence = "the last {count} runs of {lines} failed, {time} ago"
    at_once = "the last {count} runs of {lines} failed"
    starter = base.Starter("Three runs failed in a row", "critical")
    may_hold = base.HAS_RUN.format(statuses="'failed'")
    # At least so many runs of the line have failed.
    earliest = """
        SELECT p.line_id, %(now)s FROM page AS p WHERE p.state <> 'closed' AND EXISTS (
            SELECT FROM ledger.run AS r WHERE r.line_key = p.line_key AND r.status <> 'completed'
                AND r.status = 'failed' OFFSET %(failures)s)"""
    # The ends of the line's runs.
    recorded = """
        SELECT s.notification_id, s.recorded_at, NULL, NULL,
               s.originator_id, s.originator_version, s.topic, s.state, s.notification_id
        FROM ledger.event AS e JOIN ledger.ledger_events AS s ON s.notification_id = e.position
        WHERE e.line_id = %(line_id)s
          AND hashtextextended(e.line_id, 0) = hashtextextended(%(line_id)s, 0)
          AND e.position > %(after)s AND e.position < %(before)s
          AND e.type IN ('run.completed', 'run.failed')
        ORDER BY e.position"""

    @classmethod
    def parameters(cls, conditions: base.Conditions, now: datetime) -> dict[str, Any]:
        return {"failures": min(condition.count for condition, _ in conditions) - 1}

    def episodes(self, current: base.LineNow) -> base.Episodes:
        return base.of_line(current, dict(enumerate(current.failures, 1)).get(self.count))

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        runs = f"last {self.count} runs" if self.count > 1 else "last run"
        ago = f", {wording.length_text(for_seconds)} ago" if for_seconds else ""
        return f"The {runs} of {current.name} failed{ago}"

    def transitions(self, changes: base.Changes, since: datetime | None) -> base.Transitions:
        failures = 0 if since is None else self.count
        for change in changes:
            assert change.event is not None
            at, body = change.event.occurred_at, change.event.body
            if body.TOPIC.startswith("run.completed"):
                if failures >= self.count:
                    yield base.Transition(at, False)
                failures = 0
            elif not getattr(body, "late", False):
                failures += 1
                if failures == self.count:
                    yield base.Transition(at, True)
