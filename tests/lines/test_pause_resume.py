"""Pausing and resuming by an operator (contract, State and Reading)."""

from datetime import timedelta
from typing import Any

import pytest

from ledger.engine.values.values import format_instant
from tests.facts.test_bad_bodies import BROKEN, CANARY, HAZARDS, planted
from tests.support.audits import Tenant
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import activation, fact
from tests.support.random_life import history_of


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
    assert_problem(edge.send(fact("service_line.resumed", line)), 409, "invalid_state")
    edge.accept(fact("service_line.paused", line))
    assert_problem(edge.send(fact("service_line.paused", line)), 409, "invalid_state")
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


# The end of a hold, and its change.


def ahead(edge: Edge, **duration: float) -> str:
    return format_instant(edge.clock.now + timedelta(**duration))


def test_a_hold_has_an_end_and_its_past_shows_the_end_that_it_had_then(edge: Edge) -> None:
    line, first, second = edge.fresh(), ahead(edge, hours=1), ahead(edge, days=400)
    paused = manage(edge, line, "pause", json={"reason": "x", "until": first})
    assert [hold["until"] for hold in paused.json()["data"]["holds"]] == [first]
    other = edge.token("service_lines:manage")
    edge.clock.advance(seconds=1)
    change = {"reason": "y", "until": second, "replace": True}
    changed = manage(edge, line, "pause", json=change, token=other).json()["data"]
    (before,), (after,) = (answer["holds"] for answer in (paused.json()["data"], changed))
    assert after == before | {"reason": "y", "until": second, "by": after["by"]}
    assert after["by"]["id"] != before["by"]["id"]
    assert (changed["state"], changed["state_since"]) == ("paused", before["since"])
    *_, then, now = history_of(edge, line)
    assert (then["type"], now["type"]) == ("execution.paused", "execution.hold_changed")
    values = {"hold": "operator", "state_after": "paused"}
    assert then["payload"] == values | {"reason": "x", "until": first, "state_before": "running"}
    assert now["payload"] == values | {"reason": "y", "until": second, "state_before": "paused"}
    past = edge.data(f"/v1/execution/{line}?as_of={then['recorded_at']}")
    assert past["holds"] == [before]
    assert edge.data(f"/v1/execution/{line}")["holds"] == [after]


def test_a_change_without_an_end_takes_the_end_away(edge: Edge) -> None:
    line = edge.fresh()
    manage(edge, line, "pause", json={"reason": "x", "until": ahead(edge, hours=1)})
    changed = manage(edge, line, "pause", json={"reason": "x", "replace": True})
    assert [hold["until"] for hold in changed.json()["data"]["holds"]] == [None]


def test_replace_puts_a_hold_on_where_the_operator_has_none(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(fact("service_line.paused", line))
    answer = manage(edge, line, "pause", json={"reason": "x", "replace": True})
    assert answer.status_code == 200
    assert sorted(held_by(edge, line)) == ["operator", "service_line"]
    edge.accept(fact("service_line.closed", line))
    closed = manage(edge, line, "pause", json={"reason": "x", "replace": True})
    assert_problem(closed, 409, "invalid_state")


def test_a_change_to_what_the_hold_is_records_nothing(edge: Edge) -> None:
    line, body = edge.fresh(), {"reason": "x", "until": ahead(edge, hours=1), "replace": True}
    first = manage(edge, line, "pause", json=body).json()
    before = edge.log()
    again = manage(edge, line, "pause", json=body)
    assert (again.status_code, again.json()) == (200, first)
    assert edge.log() == before
    assert_problem(
        manage(edge, line, "pause", json=body | {"replace": False}), 409, "invalid_state"
    )


@pytest.mark.parametrize(
    "until",
    [
        {"days": 400, "microseconds": 100_000}, {"seconds": 0}, {"seconds": -1},
        "2026-12-01", "tomorrow", "2026-12-01T09:00:00", 1, True, [], {},
    ],
    ids=str,
)  # fmt: skip
def test_an_until_that_is_no_instant_of_the_next_400_days_is_a_422(edge: Edge, until: Any) -> None:
    line = edge.fresh()
    before = edge.log()
    if isinstance(until, dict) and until:
        until = ahead(edge, **until)
    answer = manage(edge, line, "pause", json={"reason": "x", "until": until})
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/until"]
    assert edge.log() == before


@pytest.mark.parametrize("more", [{"until": "2099-01-01T00:00:00Z"}, {"replace": True}], ids=str)
def test_a_resume_accepts_neither_until_nor_replace(edge: Edge, more: dict[str, Any]) -> None:
    answer = manage(edge, edge.fresh(), "resume", json=more)
    assert_problem(answer, 422, "invalid_request")


def test_a_pause_that_is_sent_again_after_its_end_has_its_first_answer(edge: Edge) -> None:
    line, key = edge.fresh(), {"idempotency-key": "until-1"}
    body = {"reason": "x", "until": ahead(edge, minutes=1)}
    first = manage(edge, line, "pause", json=body, headers=key)
    edge.clock.advance(minutes=2)
    again = manage(edge, line, "pause", json=body, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    late = manage(edge, line, "pause", json=body, headers={"idempotency-key": "until-2"})
    assert_problem(late, 422, "invalid_request")


def test_a_changed_hold_and_its_lifting_are_in_the_audit_log(edge: Edge) -> None:
    tenant = Tenant(edge)
    line = tenant.line()
    for reason in "xy":
        body = {"reason": reason, "until": ahead(edge, minutes=1), "replace": True}
        assert tenant.pause(line, json=body).status_code == 200
    edge.clock.advance(minutes=1)
    edge.run(edge.service.sweep())
    entries = [(entry["action"], entry["reason"], entry["actor"]["type"]) for entry in tenant.log()]
    assert entries[2:] == [
        ("execution.pause", "x", "api_key"),
        ("execution.pause", "y", "api_key"),
        ("execution.resume", "until", "system"),
    ]
