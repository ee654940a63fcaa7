"""Pausing and resuming by an operator (contract, State and Reading)."""

from typing import Any

import pytest

from tests.api.test_bad_bodies import BROKEN, CANARY, HAZARDS, planted
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import activation, fact


def manage(edge: Edge, line: str, action: str, **options: Any) -> Any:
    return edge.post(f"/v1/execution/{line}/{action}", **options)


def held_by(edge: Edge, line: str) -> list[str]:
    return [hold["hold"] for hold in edge.data(f"/v1/execution/{line}")["holds"]]


def test_the_answer_is_the_changed_line_at_the_position_of_the_write(edge: Edge) -> None:
    line = edge.fresh()
    for action, state in (("pause", "paused"), ("resume", "running")):
        answer = manage(edge, line, action, json={"reason": "Stakeholder review"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["state"] == state
        assert answer.json() == edge.get(f"/v1/execution/{line}").json()
        assert int(answer.headers["ledger-position"]) == edge.log()[0][0]


def test_a_hold_has_its_actor_and_its_reason(edge: Edge) -> None:
    line, reason = edge.fresh(), 'Prüfung 💩 "x" \\ </script>'
    (hold,) = manage(edge, line, "pause", json={"reason": reason}).json()["data"]["holds"]
    assert (hold["hold"], hold["reason"], hold["by"]["type"]) == ("operator", reason, "api_key")


@pytest.mark.parametrize("reason", ["x", "x" * 500, "💩" * 500, " "])
@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_reason_of_1_to_500_characters_is_accepted(edge: Edge, action: str, reason: str) -> None:
    line = edge.fresh()
    if action == "resume":
        manage(edge, line, "pause", json={"reason": "first"})
    assert manage(edge, line, action, json={"reason": reason}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"reason": ""}, {"reason": "x" * 501}, {"reason": 5}, {"reason": ["x"]}, {"reason": {}},
        {"reason": True}, {"reason": "x", f"{CANARY} x": 1}, {f"{CANARY} x": "x"}, [],
        [{"reason": "x"}], "x", 1, None, True,
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_wrong_reason_is_a_422_and_changes_nothing(edge: Edge, action: str, body: Any) -> None:
    line = edge.fresh()
    if action == "resume":
        manage(edge, line, "pause", json={"reason": "first"})
    before = edge.log()
    answer = manage(edge, line, action, content=dumps(body), headers=PLAIN)
    assert_problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text
    assert edge.log() == before


@pytest.mark.parametrize("body", [{}, {"reason": None}], ids=str)
def test_pausing_requires_a_reason(edge: Edge, body: Any) -> None:
    answer = manage(edge, edge.fresh(), "pause", json=body)
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/reason"]


@pytest.mark.parametrize(
    "options",
    [{}, {"json": {}}, {"json": {"reason": None}}, {"content": b"", "headers": PLAIN}],
    ids=str,
)
def test_resuming_requires_no_reason(edge: Edge, options: dict[str, Any]) -> None:
    line = edge.fresh()
    manage(edge, line, "pause", json={"reason": "first"})
    answer = manage(edge, line, "resume", **options)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["holds"] == []


@pytest.mark.parametrize(
    "headers", [{}, PLAIN, {"content-type": "text/plain"}, PLAIN | {"content-length": "0"}], ids=str
)
def test_an_empty_body_names_no_reason_whatever_its_content_type(
    edge: Edge, headers: dict[str, str]
) -> None:
    answer = manage(edge, edge.fresh(), "pause", content=b"", headers=headers)
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/reason"]
    unknown = manage(edge, "LIN-26-999999", "pause", content=b"", headers=headers)
    assert_problem(unknown, 404, "not_found")


BODIES = [pytest.param(body, id=name) for name, body in BROKEN.items() if body]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("action", ["pause", "resume"])
def test_broken_json_is_a_400_and_changes_nothing(edge: Edge, action: str, body: bytes) -> None:
    line = edge.fresh()
    before = edge.log()
    answer = manage(edge, line, action, content=planted(body), headers=PLAIN)
    assert_problem(answer, 400, "invalid_request")
    assert CANARY not in answer.text
    assert edge.log() == before


@pytest.mark.parametrize("value", HAZARDS.values(), ids=HAZARDS)
@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_hazard_is_a_422_and_changes_nothing(edge: Edge, action: str, value: bytes) -> None:
    line = edge.fresh()
    before = edge.log()
    answer = manage(edge, line, action, content=b'{"reason": %s}' % value, headers=PLAIN)
    if len(value) > 64 * 1024:
        assert_problem(answer, 413, "too_large")
    else:
        assert_problem(answer, 422, "invalid_request")
    assert edge.log() == before


def test_another_content_type_is_a_415_and_a_large_body_a_413(edge: Edge) -> None:
    line = edge.fresh()
    before = edge.log()
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/cloudevents+json"},
        {"content-type": "application/json; charset=utf-16"},
        PLAIN | {"content-encoding": "br"},
    ):
        answer = manage(edge, line, "pause", content=b'{"reason": "x"}', headers=headers)
        assert_problem(answer, 415, "unsupported_media_type")
    large = b'{"reason": "x"}' + b" " * 8 * 1024 * 1024
    answer = manage(edge, line, "pause", content=large, headers=PLAIN)
    problem = assert_problem(answer, 413, "too_large")
    assert problem["detail"] == "The body may have at most 64 KiB."
    assert edge.log() == before


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_an_unknown_parameter_is_a_422(edge: Edge, action: str) -> None:
    answer = manage(edge, edge.fresh(), action + "?force=true", json={"reason": "x"})
    assert_problem(answer, 422, "invalid_request")


# State.


def test_a_hold_can_be_put_on_and_lifted_once(edge: Edge) -> None:
    line, reason = edge.fresh(), {"json": {"reason": "x"}}
    assert_problem(manage(edge, line, "resume"), 409, "invalid_state")
    assert manage(edge, line, "pause", **reason).status_code == 200
    assert_problem(manage(edge, line, "pause", **reason), 409, "invalid_state")
    assert manage(edge, line, "resume").status_code == 200
    assert_problem(manage(edge, line, "resume"), 409, "invalid_state")


def test_each_side_lifts_its_own_hold_only(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(fact("service_line.paused", line))
    assert_problem(manage(edge, line, "resume"), 409, "invalid_state")
    assert manage(edge, line, "pause", json={"reason": "x"}).status_code == 200
    assert sorted(held_by(edge, line)) == ["operator", "service_line"]
    edge.accept(fact("service_line.resumed", line))
    assert edge.data(f"/v1/execution/{line}")["state"] == "paused"
    assert_problem(edge.send(fact("service_line.resumed", line)), 409, "invalid_state")
    assert held_by(edge, line) == ["operator"]
    assert manage(edge, line, "resume").json()["data"]["state"] == "running"


def test_a_closed_line_is_neither_paused_nor_resumed(edge: Edge) -> None:
    line = edge.fresh()
    manage(edge, line, "pause", json={"reason": "x"})
    edge.accept(fact("service_line.closed", line))
    for action in ("pause", "resume"):
        answer = manage(edge, line, action, json={"reason": "x"})
        assert_problem(answer, 409, "invalid_state")


def test_checks_come_in_the_order_404_422_409(edge: Edge) -> None:
    line, wrong = edge.fresh(), {"json": {"reason": ""}}
    for action in ("pause", "resume"):
        unknown = manage(edge, "LIN-26-999999", action, **wrong)
        assert_problem(unknown, 404, "not_found")
    manage(edge, line, "pause", json={"reason": "x"})
    assert_problem(manage(edge, line, "pause", **wrong), 422, "invalid_request")
    edge.accept(activation(other := edge.fresh_id()))
    assert_problem(manage(edge, other, "resume", **wrong), 422, "invalid_request")
