"""Events in, rows of watches and alerts out."""

from datetime import timedelta
from typing import Any

import msgspec

from ledger.engine.values.recorded import Recorded
from ledger.engine.values.values import sort_key
from ledger.features.watches.kinds import BlockerOpen
from ledger.features.watches.kinds.base import AlertSubject
from ledger.features.watches.model.alert import (
    AlertAcknowledged,
    AlertOpened,
    AlertReminded,
    AlertResolved,
)
from ledger.features.watches.model.watch import WatchCreated, WatchDeleted, WatchUpdated
from projections.watches.view import (
    ACKNOWLEDGEMENT,
    ALERT,
    WATCH,
    AcknowledgementRow,
    AlertRow,
    WatchRow,
    WatchView,
    decode_alert,
)
from tests.support.domain import START, recorded
from tests.support.view_rows import given
from tests.support.watch_workload import SETTINGS

ORG, WS, LINE = "ORG-26-000001", "WS-26-000001", "LIN-26-000001"
WATCH_ID, ALERT_ID = "WCH-26-000001", "ALR-26-000001"
ABOUT: dict[str, Any] = {
    "alert_id": ALERT_ID,
    "watch_id": WATCH_ID,
    "watch_name": "Blocked",
    "severity": "critical",
    "subject": AlertSubject("blocker", "B-1"),
    "text": "Atlas has been blocked for 1 min.",
}
OPENED = AlertOpened(
    **ABOUT,
    condition=BlockerOpen(),
    for_seconds=60,
    since=START,
    due=START + timedelta(minutes=1),
    evidence=("EVT-26-000007",),
    revision=1,
    began_by="7",
)
ITEM = (
    '"id":"ALR-26-000001","watch_id":"WCH-26-000001","watch_name":"Blocked",'
    '"severity":"critical","service_line_id":"LIN-26-000001",'
    '"subject":{"type":"blocker","id":"B-1"},"since":"2026-04-15T12:00:00Z",'
    '"due":"2026-04-15T12:01:00Z","opened_at":"2026-04-15T12:01:01Z",'
    '"text":"Atlas has been blocked for 1 min.","evidence":["EVT-26-000007"]'
)
LATER = START + timedelta(seconds=61)


def of_watch(body: Any, position: int) -> Recorded:
    return recorded(
        body,
        position,
        originator_id=WATCH_ID,
        workspace_id=None,
        service_line_id=None,
        recorded_at=START,
    )


def of_alert(body: Any, position: int) -> Recorded:
    return recorded(
        body,
        position,
        originator_id=ALERT_ID,
        service_line_id=LINE,
        recorded_at=LATER,
        occurred_at=LATER,
    )


def watch_row(position: int, **later: Any) -> WatchRow:
    members = (
        '"id":"WCH-26-000001","name":"Blocked","organization_id":"ORG-26-000001",'
        '"workspace_id":null,"condition":{"kind":"in_state","states":["blocked"]},'
        '"for_seconds":60,"severity":"warning","hours":null,"keep_seconds":0,'
        '"remind_seconds":0,"lines":{},"enabled":true,"created_at":"2026-04-15T12:00:00Z",'
        '"updated_at":"2026-04-15T12:00:00Z"'
    )
    begun = WatchRow(
        watch_id=WATCH_ID,
        watch_key=sort_key(WATCH_ID),
        organization_id=ORG,
        workspace_id=None,
        deleted=False,
        enabled=True,
        revision=1,
        item=members,
        fold=b"",
        position=position,
    )
    return begun._replace(**later)


def alert_row(position: int, **later: Any) -> AlertRow:
    begun = AlertRow(
        alert_id=ALERT_ID,
        alert_key=sort_key(ALERT_ID),
        organization_id=ORG,
        workspace_id=WS,
        watch_id=WATCH_ID,
        line_id=LINE,
        severity="critical",
        rank=3,
        due_at=OPENED.due,
        opened=2,
        resolved=None,
        resolved_item=None,
        item=ITEM,
        fold=b"",
        position=position,
    )
    return begun._replace(**later)


def test_a_watch_has_a_row_that_shows_its_settings() -> None:
    given(WatchView()).when(of_watch(WatchCreated(settings=SETTINGS), 1)).then(WATCH, watch_row(1))


def test_a_changed_condition_is_a_new_revision_and_a_changed_name_is_none() -> None:
    created = of_watch(WatchCreated(settings=SETTINGS), 1)
    longer = msgspec.structs.replace(SETTINGS, for_seconds=90)
    (row,) = (
        given(WatchView(), created).when(of_watch(WatchUpdated(settings=longer), 2)).rows(WATCH)
    )
    assert (row.revision, row.position) == (2, 2)
    named = msgspec.structs.replace(SETTINGS, name="Another")
    (row,) = given(WatchView(), created).when(of_watch(WatchUpdated(settings=named), 2)).rows(WATCH)
    assert (row.revision, row.position) == (1, 2)
    assert '"name":"Another"' in row.item


def test_a_deleted_watch_stays_as_a_row() -> None:
    created = of_watch(WatchCreated(settings=SETTINGS), 1)
    deleted = watch_row(2, deleted=True)
    given(WatchView(), created).when(of_watch(WatchDeleted(), 2)).then(WATCH, deleted)


def test_an_opened_alert_has_a_row() -> None:
    given(WatchView()).when(of_alert(OPENED, 2)).then(ALERT, alert_row(2)).then(ACKNOWLEDGEMENT)


def test_an_acknowledgement_has_a_row_of_its_own_and_moves_the_alert() -> None:
    body = AlertAcknowledged(**ABOUT, note="Mine", assignee="Amara", until=None)
    acknowledgement = (
        '{"at":"2026-04-15T12:01:01Z","by":{"type":"user","id":"USR-1"},"note":"Mine",'
        '"assignee":"Amara","until":null}'
    )
    row = AcknowledgementRow(ALERT_ID, 3, "Amara", None, acknowledgement)
    given(WatchView(), of_alert(OPENED, 2)).when(of_alert(body, 3)).then(ALERT, alert_row(3)).then(
        ACKNOWLEDGEMENT, row
    )


def test_a_resolved_alert_says_when_and_why() -> None:
    resolution = '{"at":"2026-04-15T12:01:01Z","reason":"recovered"}'
    resolved = alert_row(3, resolved=3, resolved_item=resolution)
    body = AlertResolved(**ABOUT, reason="recovered")
    given(WatchView(), of_alert(OPENED, 2)).when(of_alert(body, 3)).then(ALERT, resolved)


def test_a_reminder_counts_in_the_fold_that_the_loop_reads() -> None:
    view = WatchView()
    given(view, of_alert(OPENED, 2)).when(of_alert(AlertReminded(**ABOUT, n=1), 3)).then(
        ALERT, alert_row(3)
    )
    packed = msgspec.msgpack.encode(view._alerts[ALERT_ID].alert)
    assert decode_alert(packed).reminders == 1
