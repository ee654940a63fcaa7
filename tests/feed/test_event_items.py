"""Events in the API's form: the JSON of feeds, histories, webhooks and the audit log."""

from datetime import UTC, datetime

import pytest

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.recorded import FactIdentity, Recorded
from ledger.engine.values.refusals import RefusalsOmitted, WriteRefused
from ledger.engine.values.rendering import json_text
from ledger.features.feed.envelopes import audit_entry_of
from ledger.features.lines.model import execution_events as e
from projections.feed.items import delivery_item, feed_item, history_item, recorded_event
from tests.support.domain import activated, minute, recorded

FACT = FactIdentity("source", "fact-1", b"digest")
COMMON = (
    '"occurred_at":"2026-04-15T12:0{n}:00Z","recorded_at":"2026-04-15T12:00:00.00000{v}Z",'
    '"position":{v},"actor":{{"type":"user","id":"USR-1"}},"reported_by":"KEY-26-000001"'
)
ENVELOPE = (
    '{{"id":"EVT-26-00000{v}","type":"{type}",' + COMMON + ',"subject":{{"type":"service_line",'
    '"id":"LIN-26-000001"}},"service_line_id":"LIN-26-000001","organization_id":"ORG-26-000001",'
    '"workspace_id":"WS-26-000001","causation_id":null,"payload":{payload},"fact":{fact},"trace_id":null'
)
ENTRY = (
    '{{"id":"AUD-26-00000{v}","action":"{action}","resource":{resource},"outcome":"{outcome}",'
    '"code":{code},"errors":{errors},"reason":{reason},"request_id":null,'
    + COMMON
    + ',"reported_by_name":"Robot","fact":{fact}}}'
)
REPORTED = '{"source":"source","id":"fact-1"}'
LINE = '{"type":"service_line","id":"LIN-26-000001"}'
PAUSED = recorded(e.Paused(hold="operator", reason="why"), 2, minute(1))
PAYLOAD = (
    '{"hold":"operator","reason":"why","until":null,"state_before":"running",'
    '"state_after":"paused"}'
)


def found(
    event: Recorded, type_: str | None = None, before: str | None = None, after: str | None = None
) -> tuple[object, ...]:
    stored = EnvelopeMapper().to_stored_event(event)
    columns = stored.originator_id, stored.originator_version, stored.topic, stored.state
    return event.position, type_, before, after, *columns


def audit_item(found: tuple[object, ...]) -> str:
    return json_text(audit_entry_of(recorded_event(found), "Robot"))


def test_a_change_of_a_line_is_sent_with_the_lines_state_before_and_after() -> None:
    envelope = ENVELOPE.format(v=2, n=1, type="execution.paused", payload=PAYLOAD, fact="null")
    row = found(PAUSED, "execution.paused", "running", "paused")
    assert feed_item(row) == envelope + "}"
    assert history_item(row) == envelope + ',"state_before":"running","state_after":"paused"}'
    assert delivery_item(row, 7) == envelope + ',"sequence":7}'


def test_the_first_event_of_a_line_has_no_state_before() -> None:
    item = history_item(found(recorded(activated(), 1), "execution.activated", None, "running"))
    assert item.endswith(
        '"state_before":null,"state_after":"running"},"fact":null,"trace_id":null,"state_before":null,"state_after":"running"}'
    )


def test_a_report_is_listed_under_the_type_that_its_row_has() -> None:
    body = e.HealthSignalReported(signal="sla_compliance", status="red", value=1, evidence="e")
    payload = '{"signal":"sla_compliance","status":"red","value":1,"evidence":"e"}'
    row = found(recorded(body, 3, minute(3), fact=FACT), "health.signal_reported", "idle", "idle")
    item = ENVELOPE.format(v=3, n=3, type="health.signal_reported", payload=payload, fact=REPORTED)
    assert history_item(row) == item + ',"state_before":"idle","state_after":"idle"}'
    assert delivery_item(row, 7) == item + ',"sequence":7}'


def test_an_event_is_named_by_the_year_in_which_it_was_recorded() -> None:
    late = recorded(activated(), 1, recorded_at=datetime(2031, 1, 1, tzinfo=UTC))
    row = found(late, "execution.activated", None, "running")
    assert feed_item(row).startswith('{"id":"EVT-31-000001","type":"execution.activated",')


def test_the_audit_log_tells_the_action_of_a_command_or_a_fact() -> None:
    values = {"v": 2, "n": 1, "resource": LINE, "outcome": "succeeded", "code": "null"}
    values["errors"] = "null"
    assert audit_item(found(PAUSED)) == ENTRY.format(
        **values, action="execution.pause", fact="null", reason='"why"'
    )
    fact = recorded(e.Paused(hold="service_line", reason="why"), 2, minute(1), fact=FACT)
    assert audit_item(found(fact)) == ENTRY.format(
        **values, action="service_line.paused", fact=REPORTED, reason="null"
    )


@pytest.mark.parametrize(
    ("event", "members"),
    [
        (
            recorded(
                WriteRefused(
                    action="no.such", code="invalid_request", pointers=("", "/data/hours")
                ),
                1,
            ),
            {
                "action": "no.such",
                "resource": None,
                "outcome": "refused",
                "code": '"invalid_request"',
                "errors": '[{"pointer":""},{"pointer":"/data/hours"}]',
            },
        ),
        (
            recorded(
                RefusalsOmitted(count=5, since=minute(0)), 1, originator_id="REF-KEY-26-000009"
            ),
            {
                "action": "write.omitted",
                "resource": {"type": "refused_writes", "id": "KEY-26-000009", "count": 5},
                "outcome": "refused",
                "errors": "[]",
            },
        ),
    ],
)
def test_the_audit_log_tells_the_resource_of_a_write_and_the_code_of_a_refusal(
    event: Recorded, members: dict[str, object]
) -> None:
    unsaid = {"code": "null", "errors": "null", "reason": "null", "fact": "null"}
    expected = {"v": 1, "n": 0, "outcome": "succeeded"} | unsaid | members
    expected["resource"] = json_text(members["resource"])
    assert audit_item(found(event)) == ENTRY.format(**expected)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ({"source": "source", "fact_id": "fact-1"}, REPORTED),
        ({"source": "source"}, "null"),
        ({"fact_id": "fact-1"}, "null"),
        ({}, "null"),
    ],
)
def test_the_audit_log_names_a_refused_fact_if_its_source_and_id_could_be_read(
    read: dict[str, str], expected: str
) -> None:
    refused = WriteRefused(action="execution.checked_in", code="invalid_request", **read)
    assert audit_item(found(recorded(refused, 1))).endswith(f',"fact":{expected}}}')
