"""Changes since a statement, and the events behind them (contract, Statements)."""

from typing import Any

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.statements import Tenant, check_in, tenant_of


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    return tenant_of(edge)


@pytest.fixture
def line(tenant: Tenant) -> str:
    line = tenant.line()
    tenant.accept(check_in(line, 2, "2026-04-10"))
    return line


def changes(tenant: Tenant, statement_id: str, **params: str) -> dict[str, Any]:
    path = f"/v1/statements/{statement_id}/changes"
    found: dict[str, Any] = tenant.edge.data(path, tenant.token, params=params)
    assert found["changed"] == bool(found["rows"])
    return found


def events_after(tenant: Tenant, statement_id: str, *facts: dict[str, Any]) -> list[str]:
    """The events that ``changes`` names after these facts, of the only line that differs."""
    tenant.accept(*facts)
    rows = changes(tenant, statement_id)["rows"]
    assert [row["event_count"] for row in rows] == [len(row["events"]) for row in rows]
    events: list[str] = [event for row in rows for event in row["events"]]
    return events


def run(line: str, name: str, verb: str, at: str, **data: Any) -> dict[str, Any]:
    begun = {"service_line_id": line} if verb == "started" else {}
    return fact(f"run.{verb}", None, begun | {"external_id": name} | data, time=at)


def ids(tenant: Tenant, line: str, *types: str) -> list[str]:
    """The ids of the line's events of these types, in the order of the log."""
    found = tenant.edge.data(f"/v1/execution/{line}/history?limit=100", tenant.token)
    return [event["id"] for event in found if event["type"] in types]


def test_without_a_late_fact_nothing_differs(tenant: Tenant, line: str) -> None:
    statement_id = tenant.issued()["id"]
    tenant.accept(check_in(line, 3, "2026-04-15"))
    tenant.accept(run(line, "r", "started", "2026-04-15T09:00:00Z"))
    found = changes(tenant, statement_id)
    assert found["rows"] == []
    total = tenant.document(statement_id)["total"]
    assert found["total"] == {"then": total, "now": total}


def test_a_late_timesheet_is_listed_with_difference_and_event(tenant: Tenant, line: str) -> None:
    tenant.accept(fact("service_line.updated", line, {"name": "Build crew"}))
    statement_id = tenant.issued()["id"]
    other = tenant.line()
    tenant.accept(check_in(line, 3.25, "2026-04-14"), check_in(line, 1, "2026-04-15"))
    found = changes(tenant, statement_id)
    row = next(row for row in found["rows"] if row["service_line_id"] == line)
    assert row["service_line_name"] == "Build crew"
    assert (row["then"]["hours"], row["now"]["hours"]) == (2, 5.25)
    assert row["events"] == ids(tenant, line, "execution.checked_in")[1:2]
    assert row["event_count"] == 1
    assert (found["total"]["then"]["hours"], found["total"]["now"]["hours"]) == (2, 5.25)
    # A line that was not known then has zeros.
    (new,) = (row for row in found["rows"] if row["service_line_id"] == other)
    assert new["then"]["lines"] == sum(new["then"]["seconds_by_state"].values()) == 0
    assert new["now"]["seconds_by_state"]["running"] == 14 * 86_400
    assert new["events"] == ids(tenant, other, "execution.started")


def test_a_void_and_a_check_in_without_hours_are_changes(tenant: Tenant, line: str) -> None:
    wrong = check_in(line, 4, "2026-04-11")
    tenant.accept(wrong)
    statement_id = tenant.issued()["id"]
    void = fact("execution.check_in_voided", line, {"fact_id": wrong["id"], "reason": "Typo"})
    named = events_after(tenant, statement_id, void, check_in(line, None, "2026-04-12"))
    assert (
        named
        == ids(tenant, line, "execution.check_in_voided")
        + ids(tenant, line, "execution.checked_in")[-1:]
    )
    # A check-in that was reported and voided since is listed too, while the line differs.
    later = check_in(line, 1, "2026-04-13")
    gone = fact("execution.check_in_voided", line, {"fact_id": later["id"], "reason": "Typo"})
    assert len(events_after(tenant, statement_id, later, gone)) == 4


def test_runs_count_by_their_start_and_tokens_by_the_end(tenant: Tenant, line: str) -> None:
    tenant.accept(
        run(line, "open", "started", "2026-04-12T08:00:00Z"),
        run(line, "dear", "started", "2026-04-12T08:00:00Z"),
        run(line, "outside", "started", "2026-04-15T08:00:00Z"),
    )
    statement_id = tenant.issued()["id"]
    # A run that only left `running` is no difference.
    free = run(line, "open", "completed", "2026-04-12T09:00:00Z")
    after = run(line, "outside", "completed", "2026-04-15T09:00:00Z", tokens_used=9)
    assert events_after(tenant, statement_id, free, after) == []
    dear = run(line, "dear", "completed", "2026-04-12T09:00:00Z", tokens_used=9)
    named = events_after(tenant, statement_id, dear)
    assert named == ids(tenant, line, "run.completed")[-1:]
    row = changes(tenant, statement_id)["rows"][0]
    assert (row["then"]["tokens_used"], row["now"]["tokens_used"]) == (0, 9)
    late = run(line, "late", "started", "2026-04-13T08:00:00Z")
    named += [*ids(tenant, line, "run.started")[3:]]
    assert events_after(tenant, statement_id, late) == [
        *named, *ids(tenant, line, "run.started")[-1:],
    ]  # fmt: skip


def test_a_correction_is_a_change_of_the_period_of_the_runs_end(tenant: Tenant, line: str) -> None:
    tenant.accept(
        run(line, "r", "started", "2026-04-12T08:00:00Z"),
        run(line, "r", "completed", "2026-04-12T09:00:00Z", tokens_used=5),
    )
    statement_id = tenant.issued()["id"]
    same = run(line, "r", "usage_corrected", "2026-04-15T09:00:00Z", tokens_used=5)
    assert events_after(tenant, statement_id, same) == []
    more = run(line, "r", "usage_corrected", "2026-04-15T09:00:00Z", tokens_used=8)
    assert events_after(tenant, statement_id, more) == ids(tenant, line, "run.usage_corrected")[-1:]


def test_a_late_ending_that_replaces_another_is_a_change(tenant: Tenant, line: str) -> None:
    tenant.accept(
        run(line, "r", "started", "2026-04-12T08:00:00Z"),
        fact("service_line.closed", line, {}, time="2026-04-14T00:00:00Z"),
    )
    statement_id = tenant.issued()["id"]
    late = run(line, "r", "completed", "2026-04-13T09:00:00Z", tokens_used=7)
    assert events_after(tenant, statement_id, late) == ids(tenant, line, "run.completed")


def test_a_late_pause_is_a_change_of_seconds(tenant: Tenant, line: str) -> None:
    statement_id = tenant.issued()["id"]
    pause = fact("service_line.paused", line, {}, time="2026-04-12T00:00:00Z")
    resume = fact("service_line.resumed", line, {}, time="2026-04-12T06:00:00Z")
    again = fact("service_line.paused", line, {}, time="2026-04-15T00:00:00Z")
    named = events_after(tenant, statement_id, pause, resume, again)
    assert named == ids(tenant, line, "execution.paused")[:1] + ids(
        tenant, line, "execution.resumed"
    )
    row = changes(tenant, statement_id)["rows"][0]
    assert row["now"]["seconds_by_state"]["paused"] == 6 * 3600
    assert row["then"]["seconds_by_state"]["paused"] == 0


def test_a_change_whose_episode_ended_before_the_period_is_not_named(tenant: Tenant) -> None:
    line = tenant.line(time="2026-03-01T00:00:00Z")
    statement_id = tenant.issued()["id"]
    named = events_after(
        tenant,
        statement_id,
        fact("service_line.paused", line, {}, time="2026-03-10T00:00:00Z"),
        fact("service_line.resumed", line, {}, time="2026-03-11T00:00:00Z"),
        check_in(line, 1, "2026-04-02"),
    )
    assert named == ids(tenant, line, "execution.resumed", "execution.checked_in")


def test_a_late_blocker_without_another_state_is_a_change_of_causes(
    tenant: Tenant, line: str
) -> None:
    block = {"blocker_id": "a", "cause": "approval_gap"}
    tenant.accept(fact("execution.blocked", line, block, time="2026-04-10T00:00:00Z"))
    statement_id = tenant.issued()["id"]
    second = {"blocker_id": "b", "cause": "capacity_issue"}
    third = {"blocker_id": "c", "cause": "capacity_issue"}
    named = events_after(
        tenant,
        statement_id,
        fact("execution.blocked", line, second, time="2026-04-11T00:00:00Z"),
        fact("execution.blocked", line, third, time="2026-04-12T00:00:00Z"),
    )
    assert named == ids(tenant, line, "execution.blocked")[1:2]


def test_a_line_that_was_closed_before_the_period_as_known_now_is_a_change(
    tenant: Tenant, line: str
) -> None:
    other = tenant.line(time="2026-01-01T00:00:00Z")
    statement_id = tenant.issued()["id"]
    tenant.accept(fact("service_line.closed", other, {}, time="2026-03-01T00:00:00Z"))
    (row,) = changes(tenant, statement_id)["rows"]
    assert (row["service_line_id"], row["then"]["lines"], row["now"]["lines"]) == (other, 1, 0)
    assert row["events"] == ids(tenant, other, "execution.closed")


def test_at_most_100_events_are_named_and_all_are_counted(tenant: Tenant, line: str) -> None:
    statement_id = tenant.issued()["id"]
    tenant.accept(*(check_in(line, 0.25, "2026-04-09") for _ in range(103)))
    (row,) = changes(tenant, statement_id)["rows"]
    assert row["event_count"] == 103
    assert row["events"][:98] == ids(tenant, line, "execution.checked_in")[1:]
    assert len(set(row["events"])) == 100


def test_changes_are_listed_as_of_an_instant(tenant: Tenant, line: str) -> None:
    before = tenant.issued(**{"from": "2026-03-01", "to": "2026-04-01"})["as_of"]
    data = tenant.issued()
    tenant.accept(check_in(line, 1, "2026-04-09"))
    (event,) = changes(tenant, data["id"])["rows"][0]["events"]
    at = tenant.edge.data(f"/v1/events/{event}", tenant.token)["recorded_at"]
    tenant.accept(check_in(line, 1, "2026-04-09"))
    (row,) = changes(tenant, data["id"], as_of=at)["rows"]
    assert (row["now"]["hours"], row["events"]) == (3, [event])
    issued_at = tenant.listed()[0]["issued_at"]
    assert changes(tenant, data["id"], as_of=issued_at)["rows"] == []
    path = f"/v1/statements/{data['id']}/changes"
    early = tenant.edge.get(path, tenant.token, params={"as_of": before})
    assert_problem(early, 404, "not_found")


def test_changes_are_of_the_statements_own_scope(tenant: Tenant, line: str) -> None:
    other = tenant.line("WS-26-700001")
    statement_id = tenant.issued(workspace_id=tenant.workspace)["id"]
    tenant.accept(check_in(other, 1, "2026-04-09"))
    assert changes(tenant, statement_id)["rows"] == []
