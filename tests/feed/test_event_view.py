"""The view of events as they are published: events in, rows out."""

from ledger.engine.values.recorded import FactIdentity, Recorded
from ledger.engine.values.refusals import WriteRefused
from ledger.features.keys.model import ApiKeyRevoked
from ledger.features.lines.model import execution_events as e
from ledger.features.runs.model import run as r
from projections.feed.view import EVENT, LINE, EventView, FeedRow, LineRow
from tests.support.domain import activated, minute, recorded
from tests.support.view_rows import given

LINE_ID, ORG, WS = "LIN-26-000001", "ORG-26-000001", "WS-26-000001"
FACT = FactIdentity("source", "fact-1", b"digest")
BEGUN = recorded(activated(), 1)


def signal(status: str, version: int) -> Recorded:
    body = e.HealthSignalReported(signal="sla_compliance", status=status, value=1, evidence="e")
    return recorded(body, version, minute(version), fact=FACT)


def test_the_event_of_a_command_has_its_keys_and_the_state_before_and_after() -> None:
    paused = recorded(e.Paused(hold="operator", reason="why"), 2, minute(1))
    written = given(EventView(), BEGUN).when(paused)
    written.then(
        EVENT,
        FeedRow(
            position=2,
            line_id=LINE_ID,
            organization_id=ORG,
            workspace_id=WS,
            type="execution.paused",
            state_before="running",
            state_after="paused",
            actor_id="USR-1",
            actor_type="user",
            audit="command",
            action="execution.pause",
            about_line_id=LINE_ID,
        ),
    )
    written.then(LINE, LineRow(LINE_ID, b"", 2))


def test_a_health_report_that_changes_no_status_has_a_type_of_its_own() -> None:
    written = given(EventView(), BEGUN).when(signal("red", 2), signal("red", 3))
    first, again = written.rows(EVENT)
    assert [first.type, again.type] == ["health.changed", "health.signal_reported"]
    assert (first.audit, first.action) == ("fact", None)


def test_an_event_of_a_run_does_not_change_the_state_of_its_line() -> None:
    run = recorded(r.RunStarted(), 1, originator_id="RUN-26-000009", position=2, fact=FACT)
    written = given(EventView(), BEGUN).when(run)
    (row,) = written.rows(EVENT)
    assert (row.type, row.line_id) == ("run.started", LINE_ID)
    assert (row.state_before, row.state_after) == ("running", "running")
    written.then(LINE)


def test_an_event_of_an_api_key_is_in_the_audit_log_only() -> None:
    revoked = recorded(ApiKeyRevoked(), 2, originator_id="KEY-26-000009", service_line_id=None)
    written = given(EventView()).when(revoked)
    (row,) = written.rows(EVENT)
    assert (row.type, row.line_id) == (None, None)
    assert (row.audit, row.action, row.about_line_id) == ("command", "key.revoke", None)
    written.then(LINE)


def refused(type_: str, id_: str) -> Recorded:
    body = WriteRefused(action="a", code="c", resource_type=type_, resource_id=id_)
    return recorded(body, 1, originator_id="REF-KEY-26-000001", service_line_id=None)


def test_a_refusal_is_about_the_line_that_it_names_but_no_event_of_the_line() -> None:
    writes = [
        refused("service_line", LINE_ID),
        refused("service_line", "LIN-26-999999"),
        refused("run", "RUN-26-000009"),
        refused("webhook", "WHK-26-000001"),
    ]
    rows = given(EventView(), BEGUN).when(*writes).rows(EVENT)
    about = [LINE_ID, "LIN-26-999999", None, None]
    assert [row.about_line_id for row in rows] == about
    assert {row.line_id for row in rows} == {None}


def test_a_fact_is_found_by_its_line_without_a_second_key() -> None:
    (row,) = given(EventView(), BEGUN).when(signal("red", 2)).rows(EVENT)
    assert (row.line_id, row.about_line_id) == (LINE_ID, None)
