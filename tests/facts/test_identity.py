"""A repeated fact is a duplicate; with other content it is a conflict (contract, Facts)."""

import json
from typing import Any

import pytest

from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from tests.support.facts import activation, fact
from tests.support.ledger import ADMIN, NARROW, REPORTER, STRANGER, Item, Ledger, new_id

CONFLICT = (409, "fact_conflict")
STATE = (409, "invalid_state")


def again(first: Item) -> Item:
    """The outcome of the same fact when it is sent again."""
    return first._replace(outcome="duplicate")


def checked_in(line: str, **attributes: Any) -> dict[str, Any]:
    data = {"hours": 8, "note": "n"}
    return fact("execution.checked_in", line, data, time="2026-04-15T10:00:00Z", **attributes)


SAME: dict[str, dict[str, Any]] = {
    "time in another offset": {"time": "2026-04-15T12:00:00.000+02:00"},
    "other order of keys": {"data": {"note": "n", "hours": 8}},
    "8.0 for 8": {"data": {"hours": 8.0, "note": "n"}},
    "a null that was absent": {"data": {"hours": 8, "note": "n", "resource_id": None}},
    "an attribute that the ledger ignores": {"otherparent": "00-1"},
    "another trace": {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    "a trace that is none": {"traceparent": "00-1"},
}
OTHER: dict[str, dict[str, Any]] = {
    "another time": {"time": "2026-04-15T10:00:00.000001Z"},
    "another value": {"data": {"hours": 8.5, "note": "n"}},
    "another type": {"type": "service_line.paused", "data": {}},
    "an actor": {"actortype": "user", "actorid": "u"},
}


@pytest.mark.parametrize("change", SAME)
def test_the_same_content_is_a_duplicate_with_the_first_outcome(
    ledger: Ledger, change: str
) -> None:
    line = ledger.line("capacity")
    event = checked_in(line)
    (first,) = ledger.accept(event)
    ledger.accept(fact("execution.checked_in", line))
    before = ledger.head()
    assert ledger.report(event | SAME[change]) == [again(first)]
    assert ledger.head() == before


@pytest.mark.parametrize("change", OTHER)
def test_the_same_fact_with_another_content_is_a_conflict(ledger: Ledger, change: str) -> None:
    event = checked_in(ledger.line("capacity"))
    ledger.accept(event)
    assert ledger.refusal(event | OTHER[change]) == CONFLICT
    assert ledger.refusal(event | {"subject": ledger.line()}) == CONFLICT


def test_a_repeated_fact_with_invalid_content_is_a_422_and_not_a_conflict(
    ledger: Ledger,
) -> None:
    event = checked_in(ledger.line("capacity"))
    ledger.accept(event)
    for wrong in ({"data": {"hours": -1}}, {"time": ledger.at(hours=1)}, {"time": "yesterday"}):
        assert ledger.refusal(event | wrong) == (422, "invalid_request")


def test_the_content_of_raw_json_is_compared_by_value(ledger: Ledger) -> None:
    event = checked_in(ledger.line("capacity"))
    event["data"] = {"hours": 8, "note": "é"}
    (first,) = ledger.accept(event)
    text = json.dumps(event).replace('"hours": 8', '"hours": 80e-1').replace("\\u00e9", "é")
    assert "80e-1" in text
    parsed = envelope.from_structured(text.encode())
    assert isinstance(parsed, envelope.Fact)
    assert ledger.execute(command_of(parsed, REPORTER)) == again(first)


NULLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a field": ("execution.checked_in", {"hours": 1}, {"hours": 1, "note": None}),
    "a part of a field": (
        "run.completed",
        {"token_usage": [{"model": "m", "input": 3}]},
        {"token_usage": [{"model": "m", "input": 3}], "tokens_used": None},
    ),
    "any JSON": ("run.completed", {}, {"output": None}),
    "the name of a resource": (
        "resource.allocated",
        {"id": "r", "type": "t"},
        {"id": "r", "type": "t", "name": None},
    ),
}
MEANT: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a name that is taken away": (
        "service_line.updated",
        {"project_tags": ["x"]},
        {"project_tags": ["x"], "name": None},
    ),
    "a null within any JSON": ("run.completed", {"output": {}}, {"output": {"a": None}}),
    "a null in an array": ("run.completed", {"output": []}, {"output": [None]}),
    "a null within evidence": (
        "health.signal_reported",
        {"signal": "sla_compliance", "status": "green", "evidence": {}},
        {"signal": "sla_compliance", "status": "green", "evidence": {"a": None}},
    ),
}


def both(
    ledger: Ledger, case: tuple[str, dict[str, Any], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A fact without the null and the same fact with it, of a new subject."""
    type, without, with_null = case
    line = ledger.line()
    event = fact(type, ledger.run(line) if type.startswith("run.") else line)
    return event | {"data": without}, event | {"data": with_null}


@pytest.mark.parametrize("case", NULLS.values(), ids=NULLS)
def test_a_null_field_is_the_same_content_as_an_absent_one(
    ledger: Ledger, case: tuple[str, dict[str, Any], dict[str, Any]]
) -> None:
    for first, second in (both(ledger, case), both(ledger, case)[::-1]):
        (item,) = ledger.accept(first)
        assert ledger.report(second) == [again(item)]


@pytest.mark.parametrize("case", MEANT.values(), ids=MEANT)
def test_a_null_that_takes_a_name_away_or_is_a_value_is_other_content(
    ledger: Ledger, case: tuple[str, dict[str, Any], dict[str, Any]]
) -> None:
    first, second = both(ledger, case)
    ledger.accept(first)
    assert ledger.refusal(second) == CONFLICT


def test_an_activation_sent_again_is_a_duplicate(ledger: Ledger) -> None:
    event = activation(new_id("LIN"))
    (first,) = ledger.accept(event)
    assert ledger.report(event) == [again(first)]


def test_an_activation_sent_again_with_other_content_is_a_conflict(ledger: Ledger) -> None:
    event = activation(new_id("LIN"))
    ledger.accept(event)
    changed = event | {"data": event["data"] | {"project_tags": ["x"]}}
    assert ledger.refusal(changed) == CONFLICT


def test_a_repeated_fact_is_a_duplicate_whatever_was_recorded_since(ledger: Ledger) -> None:
    line = ledger.line()
    run = ledger.run(line)
    block = {"blocker_id": "b", "cause": "capacity_issue"}
    sequence = [
        fact("service_line.paused", line),
        fact("service_line.resumed", line),
        fact("execution.blocked", line, block),
        fact("execution.unblocked", line, {"blocker_id": "b"}),
        fact("resource.allocated", line, {"id": "r", "type": "t"}),
        fact("resource.released", line, {"id": "r"}),
        checked_in(line),
        fact("run.completed", run),
        fact("service_line.closed", line),
    ]
    first = ledger.accept(*sequence)
    ledger.clock.advance(days=400)
    assert ledger.report(*sequence) == [again(item) for item in first]


def test_a_fact_repeated_within_a_batch_is_a_duplicate_or_a_conflict(ledger: Ledger) -> None:
    line = ledger.line()
    event, start = checked_in(line), fact("run.started", None, {"service_line_id": line})
    first, repeated, started, restarted = ledger.report(event, event, start, start)
    assert (first.outcome, started.outcome) == ("recorded", "recorded")
    assert (repeated, restarted) == (again(first), again(started))
    changed = event | {"id": new_id("F")}
    assert [i.outcome for i in ledger.report(changed, changed | {"time": ledger.at()})] == [
        "recorded",
        "refused",
    ]


def test_a_refused_fact_does_not_reserve_its_identity(ledger: Ledger) -> None:
    line = ledger.line()
    resume = fact("service_line.resumed", line)
    assert ledger.refusal(resume) == STATE
    ledger.accept(fact("service_line.paused", line))
    ledger.accept(resume)
    unknown = new_id("LIN")
    early = fact("execution.checked_in", unknown)
    assert ledger.refusal(early) == (404, "not_found")
    ledger.line(line=unknown)
    ledger.accept(early | {"data": {"hours": 3}})


def test_a_refused_fact_and_its_success_may_share_a_batch(ledger: Ledger) -> None:
    line = ledger.line()
    resume, pause = fact("service_line.resumed", line), fact("service_line.paused", line)
    outcomes = [item.outcome for item in ledger.report(resume, pause, resume, resume)]
    assert outcomes == ["refused", "recorded", "recorded", "duplicate"]


def test_the_same_id_of_another_source_or_organization_is_another_fact(ledger: Ledger) -> None:
    event = checked_in(ledger.line())
    ledger.accept(event, event | {"source": "/elsewhere"})
    theirs = activation(new_id("LIN"))
    theirs["data"]["organization_id"] = STRANGER.organization_id
    ledger.accept(theirs, by=STRANGER)
    ledger.accept(event | {"subject": theirs["subject"]}, by=STRANGER)


def test_an_administrators_fact_has_the_identity_of_its_subjects_organization(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    event = fact("run.started", None, {"service_line_id": line})
    (first,) = ledger.accept(event)
    assert ledger.report(event, by=ADMIN) == [again(first)]
    other = checked_in(line)
    (first,) = ledger.accept(other, by=ADMIN)
    assert ledger.report(other) == [again(first)]


def test_a_repeated_fact_without_a_run_id_gets_the_run_id_that_was_issued_first(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    for type in ("run.requested", "run.started"):
        event = fact(type, None, {"service_line_id": line, "input": {"b": 1.0, "a": 2}})
        (first,) = ledger.accept(event)
        assert first.subject is not None
        same = {"service_line_id": line, "input": {"a": 2, "b": 1}}
        assert ledger.report(event | {"data": same}) == [again(first)]
        changed = {"service_line_id": line, "input": {"a": 3, "b": 1}}
        assert ledger.refusal(event | {"data": changed}) == CONFLICT
        ledger.accept(fact("run.cancelled", first.subject))
        assert ledger.report(event) == [again(first)]


def test_a_fact_type_and_its_alias_are_different_content(ledger: Ledger) -> None:
    event = fact("agent.run.started", new_id("RUN"), {"service_line_id": ledger.line()})
    ledger.accept(event)
    assert ledger.refusal(event | {"type": "run.started"}) == CONFLICT


def test_a_workspace_credential_does_not_see_the_outcome_of_another_workspace(
    ledger: Ledger,
) -> None:
    event = checked_in(ledger.line())
    ledger.accept(event)
    assert ledger.refusal(event, by=NARROW) == (404, "not_found")
