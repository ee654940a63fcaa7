"""Names of lines, and who should clear a blocker by when (contract, Facts and Reading)."""

from typing import Any

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, activation, fact

LONGEST = "ü" * 200


def row_of(edge: Edge, line: str, **query: str) -> dict[str, Any]:
    tag = {"project_tag": line} | query
    (row,) = edge.data("/v1/execution", params=tag)
    return dict(row)


def named_line(edge: Edge, **more: Any) -> str:
    """A new line whose id is its project tag too, so that the list finds it."""
    line = edge.fresh_id()
    edge.accept(activation(line, project_tags=[line], **more))
    return line


def detail_of(edge: Edge, line: str, **query: str) -> dict[str, Any]:
    """The line's detail, which has the keys of its row with the same values."""
    detail = edge.data(f"/v1/execution/{line}", params=query)
    row = row_of(edge, line, **query)
    assert {key: detail[key] for key in row} == row
    return dict(detail)


def update(edge: Edge, line: str, **data: Any) -> None:
    edge.accept(fact("service_line.updated", line, data))


def test_a_line_shows_the_name_of_its_activation(edge: Edge) -> None:
    assert detail_of(edge, named_line(edge, name=LONGEST))["name"] == LONGEST
    assert detail_of(edge, named_line(edge, name=None))["name"] is None
    assert detail_of(edge, named_line(edge))["name"] is None


def test_an_update_replaces_what_it_gives_and_keeps_the_rest(edge: Edge) -> None:
    line = named_line(edge, name="Backend team")
    update(edge, line, project_tags=[line, "PROJ-26-000009"])
    assert detail_of(edge, line)["name"] == "Backend team"
    update(edge, line, name="Core team")
    detail = detail_of(edge, line)
    assert (detail["name"], detail["project_tags"]) == ("Core team", [line, "PROJ-26-000009"])
    update(edge, line, name=None)
    detail = detail_of(edge, line)
    assert (detail["name"], detail["project_tags"]) == (None, [line, "PROJ-26-000009"])


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({}, "/data"),
        ({"name": ""}, "/data/name"),
        ({"name": "x" * 201}, "/data/name"),
        ({"name": 7}, "/data/name"),
        ({"project_tags": None}, "/data/project_tags"),
        ({"project_tags": None, "name": "n"}, "/data/project_tags"),
    ],
)
def test_an_update_without_any_field_or_with_a_wrong_name_is_refused(
    edge: Edge, data: dict[str, Any], pointer: str
) -> None:
    line = named_line(edge, name="Backend team")
    problem = assert_problem(
        edge.send(fact("service_line.updated", line, data)), 422, "invalid_request"
    )
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert detail_of(edge, line)["name"] == "Backend team"


def test_an_activation_with_a_wrong_name_is_refused(edge: Edge) -> None:
    refused = edge.send(activation(edge.fresh_id(), name=""))
    assert_problem(refused, 422, "invalid_request")


def test_an_instant_of_the_past_shows_the_name_and_blockers_that_were_known_then(
    edge: Edge,
) -> None:
    line = named_line(edge, name="Backend team")
    edge.clock.advance(hours=1)
    before = edge.clock().isoformat()
    edge.clock.advance(hours=1)
    update(edge, line, name="Core team")
    edge.accept(fact("execution.blocked", line, BLOCKED))
    edge.clock.advance(hours=1)
    between = edge.clock().isoformat()
    edge.clock.advance(hours=1)
    update(edge, line, name=None)
    edge.accept(fact("execution.unblocked", line, {"blocker_id": "b"}))

    first, second, now = (
        detail_of(edge, line, **query) for query in ({"as_of": before}, {"as_of": between}, {})
    )
    assert (first["name"], first["oldest_blocker"]) == ("Backend team", None)
    assert (second["name"], second["oldest_blocker"]["assignee"]) == ("Core team", "USR-26-000044")
    assert (now["name"], now["oldest_blocker"], now["blockers"]) == (None, None, [])


def test_the_events_tell_the_name_and_the_tags_as_they_are_then(edge: Edge) -> None:
    line = named_line(edge, name="Backend team")
    update(edge, line, name="Core team")
    update(edge, line, project_tags=[])
    history = edge.data(f"/v1/execution/{line}/history")
    assert [(item["type"], item["payload"]["name"]) for item in history] == [
        ("execution.started", "Backend team"),
        ("execution.updated", "Core team"),
        ("execution.updated", "Core team"),
    ]
    assert [item["payload"]["project_tags"] for item in history] == [[line], [line], []]


# Blockers.

BLOCKED = {
    "blocker_id": "b",
    "cause": "approval_gap",
    "reason": "No signature",
    "assignee": "USR-26-000044",
    "due_at": "2027-01-15T12:00:00.5+02:00",
}


def test_a_blocker_shows_its_assignee_its_due_date_and_its_reporter(edge: Edge) -> None:
    line = named_line(edge)
    token = edge.token("write", organization_id=ORGANIZATION)
    (item,) = edge.accept(fact("execution.blocked", line, BLOCKED), token=token)
    event = edge.data(f"/v1/events/{item['event_ids'][0]}")
    due = {"assignee": "USR-26-000044", "due_at": "2027-01-15T10:00:00.5Z"}
    assert {name: event["payload"][name] for name in due} == due
    detail = detail_of(edge, line)
    oldest = {"id": "b", "cause": "approval_gap", "reason": "No signature"}
    oldest |= {"since": detail["state_since"]} | due
    assert detail["oldest_blocker"] == oldest
    assert event["reported_by"] != edge.data(f"/v1/execution/{line}/history")[0]["reported_by"]
    assert detail["blockers"] == [oldest | {"reported_by": event["reported_by"]}]


def test_the_oldest_blocker_is_the_first_opened_of_those_with_the_least_since(edge: Edge) -> None:
    line = named_line(edge)
    assert detail_of(edge, line)["oldest_blocker"] is None
    for name in ("z", "a"):
        edge.accept(fact("execution.blocked", line, BLOCKED | {"blocker_id": name}))
    # A blocker that is reported late begins no earlier than the line's latest change.
    late = {"time": "2026-01-01T00:00:00Z"}
    edge.accept(fact("execution.blocked", line, BLOCKED | {"blocker_id": "late"}, **late))
    detail = detail_of(edge, line)
    assert detail["oldest_blocker"]["id"] == "z"
    assert detail["oldest_blocker"]["since"] == min(b["since"] for b in detail["blockers"])
    edge.accept(
        fact("execution.unblocked", line, {"blocker_id": "z"}),
        fact("execution.blocked", line, {"blocker_id": "z", "cause": "capacity_issue"}),
    )
    assert detail_of(edge, line)["oldest_blocker"]["id"] == "a"


@pytest.mark.parametrize(
    "wrong", [{"assignee": ""}, {"assignee": "x" * 201}, {"due_at": "tomorrow"}, {"due_at": 7}]
)
def test_a_blocker_with_a_wrong_assignee_or_due_date_is_refused(
    edge: Edge, wrong: dict[str, Any]
) -> None:
    refused = edge.send(fact("execution.blocked", named_line(edge), BLOCKED | wrong))
    problem = assert_problem(refused, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [f"/data/{next(iter(wrong))}"]


def test_the_score_stands_in_rows_of_every_model(edge: Edge) -> None:
    line = named_line(edge)
    assert detail_of(edge, line)["health_score"] is None
    signal = {"signal": "sla_compliance", "status": "red"}
    edge.accept(fact("health.signal_reported", line, signal))
    assert detail_of(edge, line)["health_score"] == 69
