"""Every row of the table of facts is accepted with all its fields, and recorded as sent."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from ledger.features.facts.fact_types import FACT_TYPES
from tests.support.fact_samples import DATA, RECORDED_AS
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.ledger import Ledger, new_id
from tests.whole.test_documentation import rows

RESOURCE = {
    "id": "SCR-128491",
    "type": "talent",
    "name": "Engineer",
    "role": "backend",
    "allocated_hours_per_week": 40,
    "status": "on_leave",
}


def test_an_activation_is_stored_with_every_field(ledger: Ledger) -> None:
    record = new_id("RUN")
    line = ledger.line(
        "capacity",
        product="talent",
        project_tags=["PROJ-1"],
        resources=[RESOURCE],
        started_at="2026-01-15T02:00:00+02:00",
        execution_id=record,
        name="Backend team",
    )
    detail = ledger.detail(line)
    assert detail["name"] == "Backend team"
    assert detail["id"] == record
    assert detail["project_tags"] == ["PROJ-1"]
    assert detail["resources"] == [RESOURCE]
    assert detail["started_at"] == detail["last_activity_at"] == "2026-01-15T00:00:00Z"
    assert detail["state"] == "running"
    assert detail["state_since"] == ledger.ago(hours=1)
    assert (detail["workspace_id"], detail["product_line"]) == (WORKSPACE, "talent")


def test_started_at_is_the_facts_time_unless_given(ledger: Ledger) -> None:
    detail = ledger.detail(ledger.line(time=ledger.ago(hours=2)))
    assert detail["started_at"] == detail["last_activity_at"] == ledger.ago(hours=2)


@pytest.mark.parametrize("model", ["capacity", "ongoing_sla", "infra_managed", "observability"])
@pytest.mark.parametrize("product", ["agent_gateway", "ods"])
def test_any_pair_of_product_line_and_model_is_accepted(
    ledger: Ledger, model: str, product: str
) -> None:
    detail = ledger.detail(ledger.line(model, product=product))
    assert (detail["execution_model"], detail["product_line"]) == (model, product)


def test_resume_unblock_release_and_void_undo_their_counterparts(ledger: Ledger) -> None:
    line = ledger.line("capacity")
    check_in = fact("execution.checked_in", line, {"hours": 8})
    ledger.accept(
        fact("service_line.paused", line),
        fact("execution.blocked", line, {"blocker_id": "b", "cause": "policy_violation"}),
        fact("resource.allocated", line, RESOURCE),
        check_in,
    )
    before = ledger.detail(line)
    assert before["state"] == "paused"
    assert [b["id"] for b in before["blockers"]] == ["b"]

    ledger.accept(
        fact("service_line.resumed", line, {"reason": "ok"}),
        fact("execution.unblocked", line, {"blocker_id": "b", "reason": "ok"}),
        fact("resource.released", line, {"id": "SCR-128491"}),
        fact("execution.check_in_voided", line, {"fact_id": check_in["id"], "reason": "typo"}),
    )
    after = ledger.detail(line)
    assert after["state"] == "running"
    assert after["holds"] == after["blockers"] == after["resources"] == []
    assert after["metrics"]["hours_total"] == 0


def test_a_resource_allocated_again_is_replaced_and_its_status_defaults_to_active(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    ledger.accept(
        fact("resource.allocated", line, RESOURCE),
        fact("resource.allocated", line, {"id": RESOURCE["id"], "type": "agent"}),
    )
    (resource,) = ledger.detail(line)["resources"]
    empty = dict.fromkeys(("name", "role", "allocated_hours_per_week"))
    assert resource == {"id": RESOURCE["id"], "type": "agent", "status": "active"} | empty


@pytest.mark.parametrize("ending", ["run.completed", "run.failed", "run.cancelled"])
@pytest.mark.parametrize("started", [True, False])
def test_an_open_run_ends_once_by_completion_failure_or_cancellation(
    ledger: Ledger, ending: str, started: bool
) -> None:
    line = ledger.line()
    run = ledger.run(line, started=started, time=ledger.ago(seconds=90))
    end = fact(ending, run, time=ledger.ago(seconds=30))
    if ending == "run.completed" and not started:
        assert ledger.refusal(end) == (409, "invalid_state")
        return

    ledger.accept(end)

    detail = ledger.run_view(run)
    assert detail["status"] == ending.removeprefix("run.")
    assert detail["completed_at"] == ledger.ago(seconds=30)
    assert detail["duration_ms"] == (60_000 if started else None)
    assert ledger.detail(line)["open_runs"] == 0
    for again in ("run.completed", "run.failed", "run.cancelled"):
        assert ledger.refusal(fact(again, run)) == (409, "invalid_state")


def test_a_requested_run_is_pending_until_it_starts(ledger: Ledger) -> None:
    line = ledger.line()
    trigger = {"type": "user", "actor_id": "USR-26-000044"}
    run = new_id("RUN")
    data = {"service_line_id": line, "triggered_by": trigger, "input": {"p": 1}}
    ledger.accept(fact("run.requested", run, data, time=ledger.ago(minutes=9)))
    pending = ledger.run_view(run)
    assert (pending["status"], pending["started_at"]) == ("pending", None)

    ledger.accept(fact("run.started", run, {}, time=ledger.ago(minutes=8)))

    detail = ledger.run_view(run)
    assert (detail["status"], detail["triggered_by"]) == ("running", trigger)
    assert detail["requested_at"] == ledger.ago(minutes=9)
    assert detail["started_at"] == ledger.ago(minutes=8)
    assert ledger.detail(line)["open_runs"] == 1


def test_a_started_run_keeps_its_reported_duration_and_a_negative_duration_is_zero(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    run, backwards, pending = (ledger.run(line, started=s) for s in (True, True, False))
    ledger.accept(
        fact("run.completed", run, {"tokens_used": 1840, "duration_ms": 2411}),
        fact("run.failed", backwards, time=ledger.ago(hours=1)),
        fact("run.failed", pending, {"duration_ms": 5, "tokens_used": 3}),
    )
    detail = ledger.run_view(run)
    assert (detail["duration_ms"], detail["tokens_used"]) == (2411, 1840)
    assert ledger.run_view(backwards)["duration_ms"] == 0
    assert ledger.run_view(pending)["duration_ms"] is None


def test_a_correction_of_a_runs_tokens_is_stored_with_what_it_replaces(ledger: Ledger) -> None:
    run = ledger.run(ledger.line())
    ledger.accept(fact("run.completed", run, {"tokens_used": 1840}))
    data = {"token_usage": [{"model": "m", "input": 9, "output": 2}], "reason": "Billed otherwise"}
    ledger.accept(fact("run.usage_corrected", run, data))
    assert ledger.events(run)[-1]["state"]["body"] == {
        "tokens_used": 11,
        "token_usage": [["m", 9, 2, 0, 0, 0]],
        "previous": 1840,
        "reason": "Billed otherwise",
    }


def test_a_fact_without_a_time_gets_the_time_of_its_arrival(ledger: Ledger) -> None:
    line = ledger.line()
    ledger.clock.advance(seconds=1)
    ledger.accept(fact("execution.checked_in", line))
    assert ledger.detail(line)["last_activity_at"] == ledger.at()


CELLS = {type: re.sub(r"{.*?}", "", cells[1]) for type, cells in rows("facts").items()}
REQUIRED = {
    type: re.findall(r"\w+", " ".join(re.findall(r"\*\*(.+?)\*\*", CELLS[type])))
    for type in FACT_TYPES
    if type in CELLS
} | {"service_line.updated": ["project_tags"]}
"""The fields of each type that are bold in the contract, and one field of those that need any."""


def least(ledger: Ledger, type: str) -> dict[str, Any]:
    """A fact of the type with its required fields only."""
    line, subject = ledger.line(), FACT_TYPES[type].subject
    values = DATA.get(type, {}) | {"service_line_id": line}
    data = {name: values.get(name) for name in REQUIRED.get(type, ())}
    if type == "service_line.activated":
        return fact(type, new_id("LIN"), data)
    if subject == "run":
        return fact(type, ledger.run(line), data)
    return fact(type, line if subject == "line" else "WS-26-000021", data)


@pytest.mark.parametrize(
    ("type", "missing"), [(t, field) for t, fields in REQUIRED.items() for field in fields]
)
def test_a_missing_required_field_is_422(ledger: Ledger, type: str, missing: str) -> None:
    event = least(ledger, type)
    del event["data"][missing]
    assert ledger.refusal(event) == (422, "invalid_request")


@pytest.mark.parametrize("type", FACT_TYPES)
def test_an_unknown_field_is_422_for_every_type(ledger: Ledger, type: str) -> None:
    event = least(ledger, type)
    event["data"]["hors"] = 1
    assert ledger.refusal(event) == (422, "invalid_request")


def test_a_name_is_stored_under_its_organization_and_workspace(ledger: Ledger) -> None:
    (item,) = ledger.accept(fact("directory.named", "WS-26-000021", {"name": "Core"}))
    (stored,) = ledger.events(f"DIR-{ORGANIZATION}/WS-26-000021")
    assert (stored["topic"], stored["state"]["body"]) == ("directory.named/1", {"name": "Core"})
    tenant = [stored["state"][name] for name in ("organization_id", "workspace_id")]
    assert tenant == [ORGANIZATION, "WS-26-000021"]
    assert (item.subject, item.position) == ("WS-26-000021", stored["notification_id"])


ELSEWHERE: dict[Callable[..., None], set[str]] = {
    test_an_activation_is_stored_with_every_field: {"service_line.activated"},
    test_resume_unblock_release_and_void_undo_their_counterparts: {
        "service_line.resumed",
        "execution.unblocked",
        "resource.allocated",
        "resource.released",
        "execution.check_in_voided",
    },
    test_a_requested_run_is_pending_until_it_starts: {"run.requested", "run.started"},
    test_an_open_run_ends_once_by_completion_failure_or_cancellation: {
        "run.completed",
        "run.failed",
        "run.cancelled",
    },
    test_a_correction_of_a_runs_tokens_is_stored_with_what_it_replaces: {"run.usage_corrected"},
    test_a_name_is_stored_under_its_organization_and_workspace: {"directory.named"},
}
"""The types that are tried by a test of their own. The test below tries all others."""

ON_LINES = [type for type in DATA if not any(type in types for types in ELSEWHERE.values())]
SET_BY_LEDGER = {"service_line.paused": {"hold": "service_line"}}
"""The fields of the event that its fact does not have."""


@pytest.mark.parametrize("type", ON_LINES)
def test_a_fact_about_a_line_is_stored_with_every_field(ledger: Ledger, type: str) -> None:
    assert FACT_TYPES[type].subject == "line", "Write a test of its own, named in ELSEWHERE."
    line = ledger.line()

    (item,) = ledger.accept(fact(type, line, DATA[type], time=ledger.ago(minutes=3)))

    stored = ledger.events(line)[-1]
    assert stored["topic"] == RECORDED_AS[type].TOPIC
    assert stored["state"]["body"] == DATA[type] | SET_BY_LEDGER.get(type, {})
    assert stored["state"]["occurred_at"] == ledger.ago(minutes=3)
    assert (item.subject, item.position) == (line, stored["notification_id"])
    assert item.event_ids == (f"EVT-26-{item.position:06d}",)
