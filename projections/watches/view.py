"""The view of watches and their alerts (contract, Watches).

``watch`` has one row per watch, ``alert`` one per alert, updated by later events.
``alert_acknowledgement`` keeps each acknowledgement for reads of the past.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.schema import table
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.values.rendering import json_text, members, time_text
from ledger.engine.values.values import sort_key
from ledger.engine.views.folds import FoldCache, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.watches.model import alert as alerts
from ledger.features.watches.model.alert import ALERT_EVENTS, Alert
from ledger.features.watches.model.views import watch_set_up
from ledger.features.watches.model.watch import WATCH_EVENTS, Watch


class WatchRow(NamedTuple):
    """A watch."""

    watch_id: table.Text
    watch_key: table.BigInt
    """The watch id as a number: the order of lists."""
    organization_id: table.Text
    workspace_id: table.Text | None
    """Null: the watch is of the whole organization."""
    deleted: table.Bool
    enabled: table.Bool
    revision: table.BigInt
    """The position at which the present revision began."""
    item: table.Text
    """JSON members: the watch as its owner sees it."""
    fold: table.Octets
    position: table.BigInt


WATCH = table.Table(
    "watch",
    WatchRow,
    key=("watch_id",),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(
        table.Index("organization_id, watch_key"),
        # The watches that changed since the last round of their loop.
        table.Index("position"),
    ),
)


class AlertRow(NamedTuple):
    """An alert, with its present end. A read of the past leaves out later events."""

    alert_id: table.Text
    alert_key: table.BigInt
    organization_id: table.Text
    workspace_id: table.Text | None
    watch_id: table.Text
    line_id: table.Text | None
    severity: table.Text
    rank: table.Int
    """The severity as a number; the worst is the highest."""
    due_at: table.Instant
    opened: table.BigInt
    resolved: table.BigInt | None
    resolved_item: table.Text | None
    item: table.Text
    """JSON members: the alert as it was opened."""
    fold: table.Octets
    position: table.BigInt


ALERT = table.Table(
    "alert",
    AlertRow,
    key=("alert_id",),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(
        # Lists in their orders: of an organization, a workspace, a watch, and all.
        table.Index("organization_id, due_at DESC, alert_key"),
        table.Index("organization_id, rank DESC, due_at DESC, alert_key"),
        table.Index("workspace_id, due_at DESC, alert_key"),
        table.Index("watch_id, due_at DESC, alert_key"),
        table.Index("due_at DESC, alert_key"),
        table.Index("line_id, due_at DESC, alert_key"),
        # The few unresolved ones: lists, and the counts of a watch and of a line.
        table.Index("organization_id, due_at DESC, alert_key", where="resolved IS NULL"),
        table.Index("watch_id", where="resolved IS NULL"),
        table.Index("line_id", where="resolved IS NULL"),
    ),
)


class AcknowledgementRow(NamedTuple):
    """An acknowledgement, which holds until the next one."""

    alert_id: table.Text
    position: table.BigInt
    assignee: table.Text | None
    until: table.Instant | None
    item: table.Text


ACKNOWLEDGEMENT = table.Table(
    "alert_acknowledgement",
    AcknowledgementRow,
    key=("alert_id", "position"),
    owner=("alert", "alert_id"),
    # Lists by assignee: few acknowledgements name one.
    indexes=(table.Index("assignee", where="assignee IS NOT NULL"),),
)

RANKS = {"info": 1, "warning": 2, "critical": 3}

_encode = msgspec.msgpack.Encoder().encode
decode_watch = msgspec.msgpack.Decoder(Watch).decode
decode_alert = msgspec.msgpack.Decoder(Alert).decode


class _Watch(msgspec.Struct):
    watch: Watch
    position: int = 0


class _Alert(msgspec.Struct):
    alert: Alert
    row: AlertRow | None = None


class WatchView(Remembering):
    """The projection ``watch``."""

    name = "watch"
    version = 2
    tables: tuple[table.Table, ...] = (WATCH, ALERT, ACKNOWLEDGEMENT)
    events: frozenset[type[Event]] = frozenset((*WATCH_EVENTS, *ALERT_EVENTS))

    def __init__(self) -> None:
        self._watches: FoldCache[str, _Watch] = FoldCache(lambda watch_id: _Watch(Watch(watch_id)))
        self._alerts: FoldCache[str, _Alert] = FoldCache(lambda alert_id: _Alert(Alert(alert_id)))
        super().__init__(self._watches, self._alerts)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        generation.find(
            self._watches,
            dict.fromkeys(_ids(events, WATCH_EVENTS)),
            WATCH,
            lambda row: (row.watch_id, _Watch(decode_watch(row.fold), row.position)),
        )
        generation.find(
            self._alerts,
            dict.fromkeys(_ids(events, ALERT_EVENTS)),
            ALERT,
            lambda row: (row.alert_id, _Alert(decode_alert(row.fold), row)),
        )

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        acknowledgements = []
        for event in events:
            stream = event.originator_id
            if isinstance(event.body, WATCH_EVENTS):
                watch = self._watches[stream]
                watch.watch.apply(event)
                watch.position = event.position
                self._watches.change(stream)
                continue
            tracked = self._alerts[stream]
            tracked.alert.apply(event)
            tracked.row = _changed(tracked.row, event)
            self._alerts.change(stream)
            if isinstance(event.body, alerts.AlertAcknowledged):
                acknowledgements.append(_acknowledged(event, event.body))
        generation.write(ACKNOWLEDGEMENT, acknowledgements)

    def store(self, generation: Generation, most: int | None = None) -> None:
        watches = self._watches.pop_changed(most)
        generation.write(WATCH, [_watch_row(f) for f in watches if f.watch.organization_id])
        changed = self._alerts.pop_changed(most)
        generation.write(
            ALERT, [f.row._replace(fold=_encode(f.alert)) for f in changed if f.row is not None]
        )


def _ids(events: Sequence[Recorded], kinds: tuple[type[Event], ...]) -> Iterator[str]:
    return (event.originator_id for event in events if isinstance(event.body, kinds))


def _watch_row(tracked: _Watch) -> WatchRow:
    watch = tracked.watch
    assert watch.organization_id is not None, "a watch is an organization's"
    return WatchRow(
        watch_id=watch.id,
        watch_key=sort_key(watch.id),
        organization_id=watch.organization_id,
        workspace_id=watch.workspace_id,
        deleted=watch.deleted,
        enabled=watch.config.enabled,
        revision=watch.revision,
        item=members(watch_set_up(watch)),
        fold=_encode(watch),
        position=tracked.position,
    )


def _changed(row: AlertRow | None, event: Recorded) -> AlertRow | None:
    match event.body:
        case alerts.AlertOpened():
            return _opened(event, event.body)
        case alerts.AlertResolved(reason=reason) if row is not None:
            item = json_text({"at": time_text(event.occurred_at), "reason": reason})
            row = row._replace(resolved=event.position, resolved_item=item)
    return None if row is None else row._replace(position=event.position)


def _opened(event: Recorded, body: alerts.AlertOpened) -> AlertRow:
    item = {
        "id": event.originator_id,
        "watch_id": body.watch_id,
        "watch_name": body.watch_name,
        "severity": body.severity,
        "service_line_id": event.service_line_id,
        "subject": body.subject,
        "since": time_text(body.since),
        "due": time_text(body.due),
        "opened_at": time_text(event.recorded_at),
        "text": body.text,
        "evidence": body.evidence,
    }
    assert event.organization_id is not None, "an alert is an organization's"
    return AlertRow(
        alert_id=event.originator_id,
        alert_key=sort_key(event.originator_id),
        organization_id=event.organization_id,
        workspace_id=event.workspace_id,
        watch_id=body.watch_id,
        line_id=event.service_line_id,
        severity=body.severity,
        rank=RANKS[body.severity],
        due_at=body.due,
        opened=event.position,
        resolved=None,
        resolved_item=None,
        item=members(item),
        fold=b"",
        position=event.position,
    )


def _acknowledged(event: Recorded, body: alerts.AlertAcknowledged) -> AcknowledgementRow:
    item = {
        "at": time_text(event.recorded_at),
        "by": event.actor,
        "note": body.note,
        "assignee": body.assignee,
        "until": time_text(body.until),
    }
    return AcknowledgementRow(
        event.originator_id, event.position, body.assignee, body.until, json_text(item)
    )
