"""The forms in which facts come, and the names in refusals of them (contract, Facts and Access)."""

import base64
import csv
import gzip
import io
import json
from typing import Any

import pytest

from tests.support.edge import PLAIN, Edge, assert_problem
from tests.support.facts import ORGANIZATION, encode, fact
from tests.support.service import BATCH, STRUCTURED


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    return edge.fresh()


def array(*events: dict[str, Any]) -> bytes:
    return b"[" + b",".join(map(encode, events)) + b"]"


# Arrays as application/json.


@pytest.mark.parametrize("space", [b"", b" \r\n\t"], ids=["bare", "after white space"])
def test_an_array_as_plain_json_is_answered_as_a_batch(edge: Edge, line: str, space: bytes) -> None:
    good, bad = fact("execution.checked_in", line), fact("run.completed", "RUN-26-999999")
    body = space + array(good, bad, good)
    answer = edge.post("/v1/facts", content=body, headers=PLAIN)
    assert answer.status_code == 200, answer.text
    items = answer.json()["data"]
    assert [item["outcome"] for item in items] == ["recorded", "refused", "duplicate"]
    again = edge.post("/v1/facts", content=body, headers=BATCH).json()["data"]
    assert [item["event_ids"] for item in again] == [item["event_ids"] for item in items]


def test_an_empty_array_as_plain_json_is_an_empty_batch(edge: Edge) -> None:
    answer = edge.post("/v1/facts", content=b"[]", headers=PLAIN)
    assert (answer.status_code, answer.json()) == (200, {"data": []})


def test_an_array_as_plain_json_may_be_packed(edge: Edge, line: str) -> None:
    body = gzip.compress(array(fact("execution.checked_in", line)))
    answer = edge.post("/v1/facts", content=body, headers=PLAIN | {"content-encoding": "gzip"})
    assert [item["outcome"] for item in answer.json()["data"]] == ["recorded"]


def test_an_array_as_plain_json_has_the_limits_of_a_batch(edge: Edge, line: str) -> None:
    before = edge.log()
    many = b"[" + b",".join([encode(fact("execution.checked_in", line))] * 1001) + b"]"
    assert_problem(edge.post("/v1/facts", content=many, headers=PLAIN), 413, "too_large")
    broken = b"[" + encode(fact("execution.checked_in", line)) + b",]"
    assert_problem(edge.post("/v1/facts", content=broken, headers=PLAIN), 400, "invalid_request")
    assert edge.log() == before


BATCHES = "/v1/facts/batch"


@pytest.mark.parametrize("headers", [PLAIN, BATCH], ids=["json", "cloudevents"])
def test_a_batch_has_a_route_of_its_own_with_the_same_outcomes(
    edge: Edge, line: str, headers: dict[str, str]
) -> None:
    good, bad = fact("execution.checked_in", line), fact("run.completed", "RUN-26-999999")
    body = array(good, bad, good)
    answer = edge.post(BATCHES, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    items = answer.json()["data"]
    assert [item["outcome"] for item in items] == ["recorded", "refused", "duplicate"]
    again = edge.post("/v1/facts", content=body, headers=headers).json()["data"]
    assert [item["event_ids"] for item in again] == [item["event_ids"] for item in items]
    assert answer.headers["ledger-position"] == str(items[0]["position"])


def test_the_route_of_batches_accepts_arrays_alone_within_limits(edge: Edge, line: str) -> None:
    before, one = edge.log(), encode(fact("execution.checked_in", line))
    assert edge.post(BATCHES, content=b"[]", headers=PLAIN).json() == {"data": []}
    for body, status, code in (
        (one, 422, "invalid_request"),
        (b"[" + one, 400, "invalid_request"),
        (b"[" + b",".join([one] * 1001) + b"]", 413, "too_large"),
    ):
        assert_problem(edge.post(BATCHES, content=body, headers=PLAIN), status, code)
    for headers in (STRUCTURED, {"content-type": "text/plain"}):
        answer = edge.post(BATCHES, content=b"[" + one + b"]", headers=headers)
        assert_problem(answer, 415, "unsupported_media_type")
    reader = edge.token("read", organization_id=ORGANIZATION)
    refused = edge.post(BATCHES, reader, content=b"[" + one + b"]", headers=PLAIN)
    assert_problem(refused, 403, "forbidden")
    assert edge.select(
        "SELECT count(*) FROM ledger.ledger_events WHERE topic = 'write.refused/1'"
        f" AND convert_from(state, 'UTF8')::json -> 12 ->> 'fact_id' = '{json.loads(one)['id']}'"
    ) == [(1,)], "each fact of a refused batch is audited"
    assert edge.log() == before


def test_a_write_tells_the_position_of_the_last_event_that_it_caused(edge: Edge, line: str) -> None:
    child = {"service_line_id": line, "external_id": "child", "parent_external_id": "parent"}
    (begun,) = edge.accept(fact("run.started", None, child, source="/tree"))
    parent = {"service_line_id": line, "external_id": "parent"}
    answer = edge.send(fact("run.started", None, parent, source="/tree"))
    own = answer.json()["data"]["position"]
    assert int(answer.headers["ledger-position"]) == own + 1, "the child's parent stands behind"
    headers = {"ledger-min-position": answer.headers["ledger-position"]}
    view = edge.data(f"/v1/runs/{begun['subject']}", headers=headers)
    assert view["parent_run_id"] == answer.json()["data"]["subject"]


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-00", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", None),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (TRACE, None),
        (7, None),
        (None, None),
    ],
)
def test_an_event_shows_the_trace_of_its_fact_and_ignores_a_malformed_one(
    edge: Edge, line: str, traceparent: Any, trace_id: str | None
) -> None:
    event = fact("execution.checked_in", line, traceparent=traceparent)
    (item,) = edge.accept(event)
    (event_id,) = item["event_ids"]
    assert edge.data(f"/v1/events/{event_id}")["trace_id"] == trace_id
    history = edge.data(f"/v1/execution/{line}/history?limit=100")
    assert [e["trace_id"] for e in history if e["id"] == event_id] == [trace_id]
    exported = edge.get(f"/v1/events/export?format=csv&service_line_id={line}").text
    *_, last = csv.DictReader(io.StringIO(exported, newline=""))
    assert (last["id"], last["trace_id"]) == (event_id, trace_id or "")


def test_a_trace_comes_in_a_header_too(edge: Edge, line: str) -> None:
    headers = PLAIN | {
        "ce-specversion": "1.0",
        "ce-id": "traced",
        "ce-source": "/traces",
        "ce-type": "execution.checked_in",
        "ce-subject": line,
        "ce-traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    (event_id,) = edge.post("/v1/facts", content=b"{}", headers=headers).json()["data"]["event_ids"]
    assert edge.data(f"/v1/events/{event_id}")["trace_id"] == TRACE


def test_an_array_as_one_cloudevent_is_refused(edge: Edge, line: str) -> None:
    body = array(fact("execution.checked_in", line))
    answer = edge.post("/v1/facts", content=body, headers=STRUCTURED)
    assert_problem(answer, 422, "invalid_request")


def test_an_array_in_binary_mode_is_the_facts_data(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line)
    headers = PLAIN | {f"ce-{name}": value for name, value in event.items() if name != "data"}
    problem = assert_problem(
        edge.post("/v1/facts", content=b"[]", headers=headers), 422, "invalid_request"
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/data"]


def test_each_fact_of_a_refused_array_is_audited(edge: Edge, line: str) -> None:
    events = [fact("execution.checked_in", line), fact("service_line.paused", line)]
    sent = edge.post("/v1/facts", edge.token("read"), content=array(*events), headers=PLAIN)
    assert_problem(sent, 403, "forbidden")
    audit = "/v1/audit-logs?organization_id=ORG-26-000001&outcome=refused"
    entries = edge.data(audit, edge.token("audit:read"))
    actions = [e["action"] for e in entries if e["request_id"] == sent.headers["x-request-id"]]
    assert actions == ["execution.checked_in", "service_line.paused"]


# Data in base64.


def packed(event: dict[str, Any], raw: bytes | None = None) -> dict[str, Any]:
    """The fact with its data in ``data_base64``, as SDKs send data that is given as bytes."""
    raw = json.dumps(event["data"]).encode() if raw is None else raw
    rest = {name: value for name, value in event.items() if name != "data"}
    return rest | {"data_base64": base64.b64encode(raw).decode()}


def test_data_in_base64_is_the_same_fact(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line, {"hours": 8.0, "note": "Prüfung"})
    sent = packed(event, '{"note": "Prüfung", "hours": 8}'.encode())
    assert edge.send(sent).status_code == 201
    again = edge.send(event)
    assert (again.status_code, again.json()["data"]["outcome"]) == (200, "duplicate")
    assert_problem(edge.send(event | {"data": {"hours": 7}}), 409, "fact_conflict")


def test_data_in_base64_is_accepted_in_a_batch_and_with_null(edge: Edge, line: str) -> None:
    events = [packed(fact("execution.checked_in", line, {"hours": 1})) for _ in range(2)]
    edge.accept(events[0], events[1] | {"data": None})
    without = fact("execution.checked_in", line, {"hours": 1}) | {"data_base64": None}
    edge.accept(without)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "e30",
        "e30=\n",
        "e3-_",
        "é30=",
        {"hours": 1},
        base64.b64encode(b"{").decode(),
        base64.b64encode(b"\xff").decode(),
        base64.b64encode(b"\xef\xbb\xbf{}").decode(),
        base64.b64encode(b'{"note": NaN}').decode(),
        base64.b64encode(b'{"note": "a", "note": "b"}').decode(),
        base64.b64encode(rb'{"note": "\u0000"}').decode(),
        base64.b64encode(b"[" * 32 + b"]" * 32).decode(),
    ],
    ids=str,
)
def test_base64_that_holds_no_acceptable_json_is_refused(edge: Edge, line: str, value: Any) -> None:
    before = edge.log()
    event = packed(fact("execution.checked_in", line)) | {"data_base64": value}
    problem = assert_problem(edge.send(event), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/data_base64"]
    assert edge.log() == before


def test_data_is_given_once(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line, {})
    both = packed(event) | {"data": {}}
    problem = assert_problem(edge.send(both), 422, "invalid_request")
    assert problem["errors"] == [
        {"pointer": "/data_base64", "detail": "must not stand beside data"}
    ]


def test_wrong_data_in_base64_is_named_as_data(edge: Edge, line: str) -> None:
    event = packed(fact("execution.checked_in", line, {"hours": -1}))
    problem = assert_problem(edge.send(event), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/data/hours"]


def test_binary_mode_has_no_data_in_base64(edge: Edge, line: str) -> None:
    event = packed(fact("execution.checked_in", line))
    headers = PLAIN | {f"ce-{name}": value for name, value in event.items()}
    problem = assert_problem(
        edge.post("/v1/facts", content=b"{}", headers=headers), 422, "invalid_request"
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/data_base64"]


# Names of unknown fields.

VALID = ["State", "x-y.z_1", "0", "a" * 64]
HIDDEN = ["a" * 65, "a b", "a/b", "a~b", "é", "", '"', "a\n"]


@pytest.mark.parametrize("name", VALID + HIDDEN)
def test_an_unknown_field_is_named_if_its_name_is_short_and_plain(
    edge: Edge, line: str, name: str
) -> None:
    error = {"pointer": f"/data/{name}", "detail": "is not known"}
    expected = error if name in VALID else {"pointer": "/data", "detail": "has an unknown field"}
    event = fact("execution.checked_in", line, {name: 1})
    assert assert_problem(edge.send(event), 422, "invalid_request")["errors"] == [expected]
    (item,) = edge.send_batch(event).json()["data"]
    assert item["error"] == {
        "status": 422,
        "code": "invalid_request",
        "detail": "The fact's data is not valid.",
        "errors": [expected],
    }
    hold = edge.post(f"/v1/execution/{line}/pause", json={"reason": "r", name: 1})
    errors = assert_problem(hold, 422, "invalid_request")["errors"]
    assert errors == [expected | {"pointer": expected["pointer"].removeprefix("/data")}]


@pytest.mark.parametrize("name", VALID + HIDDEN)
def test_an_unknown_parameter_is_named_if_its_name_is_short_and_plain(
    edge: Edge, name: str
) -> None:
    error = {"pointer": f"/{name}", "detail": "is not known"}
    expected = error if name in VALID else {"pointer": "", "detail": "has an unknown parameter"}
    answer = edge.get("/v1/execution", params={name: "x"})
    assert assert_problem(answer, 422, "invalid_request")["errors"] == [expected]


def test_the_item_of_a_fact_refused_by_state_has_no_wrong_fields(edge: Edge, line: str) -> None:
    (item,) = edge.send_batch(fact("service_line.resumed", line)).json()["data"]
    assert item["error"] == {
        "status": 409,
        "code": "invalid_state",
        "detail": item["error"]["detail"],
        "errors": [],
    }
    assert item["error"]["detail"]
