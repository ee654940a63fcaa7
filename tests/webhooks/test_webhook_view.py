"""The view of webhooks: events in, rows out."""

from typing import Any

from ledger.engine.values.recorded import Event, Recorded
from ledger.features.lines.model import execution_events as e
from ledger.features.webhooks.model import endpoint as w
from projections.webhooks.view import (
    HEALTH,
    MESSAGE,
    WEBHOOK,
    EndpointRow,
    HealthRow,
    MessageRow,
    WebhookView,
)
from tests.support.domain import START, minute, recorded
from tests.support.view_rows import given

LINE, ORG, WS, ENDPOINT = "LIN-26-000001", "ORG-26-000001", "WS-26-000001", "WHK-26-000001"
CREATED = w.WebhookCreated(
    url="https://hooks.example.com/", event_types=("execution.paused", "health.changed"), secret=b""
)
ITEM = (
    '"id":"WHK-26-000001","format":"standard","url":"https://hooks.example.com/","routing_key":null,'
    '"event_types":["execution.paused","health.changed"],"watch_ids":null,"min_severity":"info",'
    '"details":true,"organization_id":"ORG-26-000001",'
    '"workspace_id":null,"description":null,"enabled":{enabled},"disabled_reason":{reason},'
    '"disabled_at":{at},"created_at":"2026-04-15T12:00:00.000001Z",'
    '"updated_at":"2026-04-15T12:00:00.00000{updated}Z"'
)
ON = {"enabled": "true", "reason": "null", "at": "null"}
OFF = {"enabled": "false", "reason": '"operator"', "at": '"2026-04-15T12:00:00.000002Z"'}
TEST = (
    '"id":"EVT-26-000002","type":"webhook.test","occurred_at":"2026-04-15T12:01:00Z",'
    '"recorded_at":"2026-04-15T12:00:00.000002Z","position":2,'
    '"actor":{"type":"user","id":"USR-1"},"reported_by":"KEY-26-000001",'
    '"subject":{"type":"webhook","id":"WHK-26-000001"},"service_line_id":null,'
    '"organization_id":"ORG-26-000001","workspace_id":null,"causation_id":null,"payload":{},"fact":null,"trace_id":null'
)


def own(body: Event, position: int, **more: Any) -> Recorded:
    """An event of the endpoint, which belongs to the whole organization."""
    values = {"originator_id": ENDPOINT, "service_line_id": None, "workspace_id": None}
    return recorded(body, position, minute(position - 1), **values | more)


def paused(position: int, **more: Any) -> Recorded:
    """An event of a line, of a type that the endpoint subscribes to."""
    return recorded(e.Paused(hold="operator"), position, minute(position - 1), **more)


def signal(status: Any, position: int) -> Recorded:
    """A health report of the line."""
    body = e.HealthSignalReported(signal="sla_compliance", status=status)
    return recorded(body, position, minute(position - 1))


def endpoint(position: int, **more: Any) -> EndpointRow:
    """The endpoint's row after its creation at position 1, with the values that changed since."""
    values: dict[str, Any] = {
        "endpoint_id": ENDPOINT,
        "endpoint_key": 26_000_000_000_001,
        "organization_id": ORG,
        "workspace_id": None,
        "format": "standard",
        "details": True,
        "deleted": False,
        "enabled": True,
        "enabled_at": BORN.recorded_at,
        "sequence": 0,
        "latest": 0,
        "requested": 0,
        "item": ITEM.format(**ON, updated=1),
        "fold": b"",
        "position": position,
    }
    return EndpointRow(**values | more)


BORN = own(CREATED, 1)
DISABLED = own(w.WebhookUpdated(url=CREATED.url, event_types=CREATED.event_types, enabled=False), 2)


def test_a_creation_writes_an_endpoint_without_messages() -> None:
    written = given(WebhookView()).when(BORN)
    written.then(WEBHOOK, endpoint(1)).then(MESSAGE).then(HEALTH)


def test_a_matching_event_becomes_the_next_message() -> None:
    written = given(WebhookView(), BORN, paused(2)).when(paused(3))
    message = MessageRow(ENDPOINT, 3, "26-000003", "event", 2, "execution.paused")
    written.then(MESSAGE, message)
    written.then(WEBHOOK, endpoint(3, sequence=2, latest=3)).then(HEALTH)


def test_events_of_another_type_or_tenant_are_no_messages() -> None:
    narrow = own(CREATED, 1, workspace_id="WS-26-000002")
    resumed = recorded(e.Resumed(hold="operator"), 3)
    foreign, of_all = paused(4, organization_id="ORG-26-000002"), paused(5, workspace_id=None)
    written = given(WebhookView(), narrow).when(paused(2), resumed, foreign, of_all)
    written.then(MESSAGE).then(WEBHOOK)


def test_a_disabled_endpoint_gets_no_message_and_its_numbers_continue_once_it_is_enabled() -> None:
    settings: dict[str, Any] = {"url": CREATED.url, "event_types": CREATED.event_types}
    disabled = own(w.WebhookUpdated(**settings, enabled=False), 3)
    enabled = own(w.WebhookUpdated(**settings, enabled=True), 5)
    before = given(WebhookView(), BORN, paused(2), disabled)
    written = before.when(paused(4), enabled, paused(6))
    written.then(MESSAGE, MessageRow(ENDPOINT, 6, "26-000006", "event", 2, "execution.paused"))
    item = ITEM.format(**ON, updated=5)
    later = {"enabled_at": enabled.recorded_at, "sequence": 2, "latest": 6, "item": item}
    written.then(WEBHOOK, endpoint(6, **later))


def test_a_requested_test_is_a_message_and_so_is_a_recovery_of_a_disabled_endpoint() -> None:
    test, recovery = w.WebhookTestRequested(), w.WebhookRecoveryRequested(since=START)
    written = given(WebhookView(), BORN).when(own(test, 2))
    written.then(MESSAGE, MessageRow(ENDPOINT, 2, "26-000002", "test", 0, "webhook.test", TEST))
    written.then(WEBHOOK, endpoint(2, requested=2))
    written = given(WebhookView(), BORN, DISABLED).when(own(recovery, 3))
    written.then(MESSAGE, MessageRow(ENDPOINT, 3, "26-000003", "recovery", since=START))
    item = ITEM.format(**OFF, updated=2)
    written.then(WEBHOOK, endpoint(3, enabled=False, requested=3, item=item))


def test_a_requested_resend_is_a_recovery_of_a_single_event() -> None:
    resend = w.WebhookResendRequested(event_id="EVT-26-1000007")
    written = given(WebhookView(), BORN).when(own(resend, 2))
    written.then(MESSAGE, MessageRow(ENDPOINT, 2, "26-000002", "recovery", resent=1_000_007))
    (row,) = written.rows(WEBHOOK)
    assert (row.requested, row.sequence) == (2, 0)


def test_a_health_report_is_a_message_only_if_it_changes_the_status() -> None:
    written = given(WebhookView(), BORN).when(signal("red", 2), signal("red", 3))
    written.then(MESSAGE, MessageRow(ENDPOINT, 2, "26-000002", "event", 1, "health.changed"))
    written.then(HEALTH, HealthRow(LINE, '{"sla_compliance":"red"}', 3))


def test_an_endpoint_gets_no_event_about_itself() -> None:
    all_types = w.WebhookCreated(url=CREATED.url, event_types=("*",), secret=b"")
    failed = w.WebhookDeliveryFailed(event_id="EVT-26-000002", sequence=1, attempts=5)
    other = own(all_types, 2, originator_id="WHK-26-000002")
    written = given(WebhookView(), own(all_types, 1), other).when(own(failed, 3))
    name = "webhook.delivery_failed"
    written.then(MESSAGE, MessageRow("WHK-26-000002", 3, "26-000003", "event", 1, name))


def test_a_deleted_endpoint_keeps_its_row_and_gets_no_further_message() -> None:
    written = given(WebhookView(), BORN).when(own(w.WebhookDeleted(), 2), paused(3))
    (row,) = written.rows(WEBHOOK)
    assert (row.deleted, row.enabled, row.position) == (True, False, 2)
    written.then(MESSAGE)
