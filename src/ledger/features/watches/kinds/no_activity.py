"""A watch of lines on which nothing happens."""

from ledger.engine.values.values import format_instant
from ledger.features.watches.kinds import base, wording


class NoActivity(base.Condition, frozen=True, tag="no_activity"):
    """A line that is neither closed nor paused has no open run and no activity."""

    choice = "A line has no activity"
    sentence = "{lines} has had no activity for {time}"
    at_once = "{lines} has no activity"
    seconds = 5 * base.DAY
    starter = base.Starter("No activity for five days", "info")
    least_seconds = 300
    may_hold = "l.state NOT IN ('closed', 'paused')"
    earliest = """
        SELECT p.line_id, a.last_activity_at + {least} FROM page AS p
        JOIN ledger.line_activity AS a USING (line_id)
        WHERE a.open_runs = 0 AND p.state NOT IN ('closed', 'paused')"""
    # The first event that moved the line's last activity, opened a run, paused the line or changed
    # it otherwise. Going idle and waking up are no such changes.
    recorded = """
        SELECT notification_id, recorded_at FROM ledger.ledger_events WHERE notification_id = least(
            (SELECT min(position) FROM ledger.execution_step
             WHERE line_key = %(line_key)s AND position > %(after)s AND position < %(before)s
               AND (last_activity_at > %(since)s OR open_runs > 0)),
            (SELECT min(i.opened) FROM ledger.execution_interval AS i
             JOIN ledger.ledger_events AS e ON e.notification_id = i.opened
             WHERE i.line_key = %(line_key)s AND i.opened > %(after)s AND i.opened < %(before)s
               AND (i.since > %(since)s AND i.state <> 'idle' OR i.state = 'paused')
               AND e.topic NOT LIKE 'execution.active/%%'))"""

    def episodes(self, current: base.LineNow) -> base.Episodes:
        changed = current.execution.last_change
        if current.open_runs or current.execution.state == "paused" or changed is None:
            return ()
        since = max(current.last_activity_at, changed)
        own = base.AlertSubject("service_line", current.execution.id)
        return [base.Episode(own, since, format_instant(since), None)]

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        return f"{current.name} has had no activity for {wording.length_text(for_seconds)}"
