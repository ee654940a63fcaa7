"""Silent sources: a watch of sources is about no line, and names at most a hundred of them.

A source moves its row at most once a minute. So each watch has an instant before which none of its
sources can be due, in memory. From then on, and while the watch has open alerts, a round reads its
sources.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.values.values import EARLIEST
from ledger.features.watches.commands.alerts import OpenSourceAlert, RemindOfAlert, ResolveAlert
from ledger.features.watches.kinds.base import NO_LINE
from ledger.features.watches.kinds.source_silent import SourceSilent, silent_since
from ledger.features.watches.loops.store import RoundSnapshot
from ledger.features.watches.model.alert import Alert, Due, due_of, left_by
from ledger.features.watches.model.watch import MAX_UNRESOLVED, Watch
from projections.watches.view import decode_alert

_Command = OpenSourceAlert | ResolveAlert | RemindOfAlert

# For each source the latest row, of a workspace or of all, with the recording of its fact. The
# watch of a workspace counts only that workspace's facts.
_LAST_FACTS = """
SELECT asked.watch_id, asked.source, s.last_seen, e.recorded_at
FROM unnest(%(watch)s::text[], %(organization)s::text[], %(workspace)s::text[], %(source)s::text[])
    AS asked (watch_id, organization_id, workspace_id, source)
LEFT JOIN LATERAL (
    SELECT s.last_seen, s.position FROM ledger.source AS s
    WHERE s.organization_id = asked.organization_id AND s.source = asked.source
      AND (asked.workspace_id = '' OR s.workspace_id = asked.workspace_id)
    ORDER BY s.position DESC LIMIT 1
) AS s ON true
LEFT JOIN ledger.ledger_events AS e ON e.notification_id = s.position
"""

# When the first facts after silences were recorded, by the sources of a watch. The view has the
# last minute alone: since the last round a source may have reported in several minutes, or from
# several workspaces.
_FACTS_AGAIN = """
WITH told AS MATERIALIZED (
    SELECT convert_from(l.state, 'UTF8')::json -> 8 ->> 0 AS source, l.recorded_at
    FROM ledger.event AS e JOIN ledger.ledger_events AS l ON l.notification_id = e.position
    WHERE e.position > %(after)s AND e.position <= %(upto)s AND e.audit = 'fact'
      AND e.organization_id = %(organization)s
      AND (%(workspace)s::text IS NULL OR e.workspace_id = %(workspace)s)
)
SELECT silent.source, min(told.recorded_at)
FROM unnest(%(sources)s::text[], %(since)s::timestamptz[]) AS silent (source, since)
JOIN told ON told.source = silent.source AND told.recorded_at >= silent.since
GROUP BY silent.source
"""

_MOST_EVENTS = 10_000
"""How many positions after the mark are searched for these facts. In a loop that has more to catch
up with, such an alert may end with the minute of the source's last report."""

_OPEN = """
SELECT fold FROM ledger.alert_g{generation}
WHERE watch_id = ANY(%(watches)s) AND line_id IS NULL AND resolved IS NULL
"""

LastFact = tuple[datetime | None, datetime | None]
"""(minute, recording of the fact) of a source's last fact."""


class Sources:
    """Judges the watches of sources in a round."""

    def __init__(self) -> None:
        self._next_at: dict[tuple[str, int], datetime] = {}
        """When a revision of a watch reads its sources next."""

    def judge(
        self,
        connection: psycopg.Connection[TupleRow],
        watches: Mapping[str, Watch],
        generation: int,
        snapshot: RoundSnapshot,
        now: datetime,
    ) -> list[tuple[str, _Command]]:
        """The commands, each with its organization; disabled and deleted watches count too."""
        own = {
            watch.id: watch
            for watch in watches.values()
            if isinstance(watch.config.condition, SourceSilent)
        }
        if not own:
            return []
        found = connection.execute(
            _OPEN.format(generation=generation).encode(), {"watches": [*own]}
        ).fetchall()
        alerts: dict[str, list[Alert]] = {}
        for (packed,) in found:
            alert = decode_alert(packed)
            alerts.setdefault(alert.body.watch_id, []).append(alert)
        active = [
            watch
            for watch in own.values()
            if watch.disabled_at is None
            and (watch.id in alerts or self._next_at.get(_key(watch), EARLIEST) <= now)
        ]
        last_facts = _last_facts(connection, active)
        result: list[tuple[str, _Command]] = []
        for watch in own.values():
            commands, own_alerts = list[_Command](), alerts.get(watch.id, ())
            if (own_facts := last_facts.get(watch.id)) is not None:
                commands = self._judge(connection, watch, own_facts, own_alerts, snapshot, now)
            elif watch.disabled_at is not None:
                commands += [_left(alert, watch) for alert in own_alerts]
            result += [(watch.organization_id or "", command) for command in commands]
        return result

    def _judge(
        self,
        connection: psycopg.Connection[TupleRow],
        watch: Watch,
        last_facts: Mapping[str, LastFact],
        alerts: Sequence[Alert],
        snapshot: RoundSnapshot,
        now: datetime,
    ) -> list[_Command]:
        commands: list[_Command] = []
        assert watch.revised_at is not None, "a watch has a revision from its creation on"
        silent = {
            source: silent_since(source, last_seen, watch.revised_at)
            for source, (last_seen, _) in last_facts.items()
        }
        over = [
            alert
            for alert in alerts
            if (present := silent.get(alert.body.subject.id)) is not None
            and alert.body.revision == watch.revision
            and alert.body.began_by != present.began_by
        ]
        again = _facts_again(connection, watch, over, snapshot.mark)
        alerted = set[str]()
        for alert in alerts:
            source, every = alert.body.subject.id, watch.config.remind_seconds
            if alert.body.revision != watch.revision:
                commands.append(_left(alert, watch))
                continue
            if alert in over:
                at = again.get(source) or last_facts[source][1] or now
                commands.append(ResolveAlert(alert, "recovered", at, None, snapshot.position))
                continue
            alerted.add(source)
            reminder = alert.next_reminder(every, now)
            if reminder is not None and reminder <= now:
                commands.append(RemindOfAlert(alert.id, every))
        dues = {source: due_of(watch.config, each.since) for source, each in silent.items()}
        room = MAX_UNRESOLVED - len(alerted)
        for source in sorted(dues.keys() - alerted, key=lambda each: (dues[each], each))[:room]:
            if dues[source] <= now:
                due = Due(watch, silent[source], dues[source])
                commands.append(OpenSourceAlert(watch, snapshot.position, due.opening(NO_LINE)))
        self._next_at[_key(watch)] = min(
            (dues[source] for source in dues.keys() - alerted), default=now
        )
        return commands


def _key(watch: Watch) -> tuple[str, int]:
    return watch.id, watch.revision


def _last_facts(
    connection: psycopg.Connection[TupleRow], watches: Sequence[Watch]
) -> dict[str, dict[str, LastFact]]:
    last_facts: dict[str, dict[str, LastFact]] = {watch.id: {} for watch in watches}
    rows = [
        (watch.id, watch.organization_id, watch.workspace_id or "", source)
        for watch in watches
        if isinstance(watch.config.condition, SourceSilent)
        for source in watch.config.condition.sources
    ]
    if rows:
        columns: Any = zip(*rows, strict=True)
        names = ("watch", "organization", "workspace", "source")
        values = dict(zip(names, map(list, columns), strict=True))
        for watch_id, source, last_seen, recorded_at in connection.execute(
            _LAST_FACTS.encode(), values
        ).fetchall():
            last_facts[watch_id][source] = (last_seen, recorded_at)
    return last_facts


def _facts_again(
    connection: psycopg.Connection[TupleRow], watch: Watch, alerts: Sequence[Alert], mark: int
) -> dict[str, datetime]:
    """When the sources of these alerts reported first after the mark."""
    if not alerts:
        return {}
    values = {
        "organization": watch.organization_id,
        "workspace": watch.workspace_id,
        "sources": [alert.body.subject.id for alert in alerts],
        "since": [alert.body.since for alert in alerts],
        "after": mark,
        "upto": mark + _MOST_EVENTS,
    }
    return dict(connection.execute(_FACTS_AGAIN.encode(), values).fetchall())


def _left(alert: Alert, watch: Watch) -> ResolveAlert:
    """Resolve an alert of another revision, or of a watch that was disabled or deleted."""
    return ResolveAlert(alert, *left_by(watch), None, 0)
