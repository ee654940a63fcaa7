"""Wrong facts in valid JSON: 422, nothing repeated, nothing recorded (contract, Facts)."""

from datetime import timedelta
from typing import Any

import pytest

from ledger.engine.values.values import format_instant
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import RUN, activation, encode, fact

CANARY = "canary7f3a"
UNSHOWN = f"{CANARY} x"  # because of its space, no refusal may repeat this name


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    return edge.fresh()


def assert_refused(edge: Edge, event: Any, pointer: str | None = None) -> None:
    """Assert that the fact is a 422, alone and in a batch, repeats nothing and records nothing."""
    before = edge.log()
    answer = edge.send(event)
    problem = assert_problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text
    assert "timedelta" not in answer.text
    if pointer is not None:
        assert pointer in [error["pointer"] for error in problem["errors"]]
    (item,) = edge.send_batch(event).json()["data"]
    assert (item["outcome"], item["error"]["status"]) == ("refused", 422)
    assert item["error"]["errors"] == problem["errors"]
    assert item["error"]["detail"] == problem["detail"]
    assert edge.log() == before


# Attributes.


@pytest.mark.parametrize(
    ("pointer", "change"),
    [
        ("/specversion", {"specversion": "0.3"}),
        ("/specversion", {"specversion": "1.1"}),
        ("/specversion", {"specversion": 1.0}),
        ("/specversion", {"specversion": None}),
        ("/id", {"id": ""}),
        ("/id", {"id": "x" * 256}),
        ("/id", {"id": 7}),
        ("/id", {"id": [CANARY]}),
        ("/source", {"source": ""}),
        ("/source", {"source": None}),
        ("/source", {"source": CANARY * 26}),
        ("/source", {"source": {CANARY: CANARY}}),
        ("/type", {"type": CANARY}),
        ("/type", {"type": "run.erased"}),
        ("/type", {"type": "execution.idle"}),
        ("/type", {"type": ["execution.checked_in"]}),
        ("/type", {"type": "Execution.checked_in"}),
        ("/subject", {"subject": CANARY}),
        ("/subject", {"subject": RUN}),
        ("/subject", {"subject": None}),
        ("/subject", {"subject": "LIN-26-0000001"}),
        ("/subject", {"subject": "LIN-26-00001"}),
        ("/subject", {"subject": "lin-26-000001"}),
        ("/subject", {"subject": "LIN-26-000001\n"}),
        ("/subject", {"subject": " LIN-26-000001"}),
        ("/subject", {"subject": "LIN-26-" + "9" * 5000}),
        ("/actortype", {"actortype": CANARY, "actorid": "x"}),
        ("/actortype", {"actortype": "user"}),
        ("/actortype", {"actorid": CANARY}),
        ("/actortype", {"actortype": {}, "actorid": "x"}),
        ("/actorid", {"actortype": "user", "actorid": ""}),
        ("/actorid", {"actortype": "user", "actorid": "x" * 201}),
        ("/actorid", {"actortype": "user", "actorid": 5}),
        ("/datacontenttype", {"datacontenttype": "text/" + CANARY}),
        ("", {UNSHOWN: 1}),
        ("/reportedBy", {"reportedBy": CANARY}),
        ("/data_base64", {"data_base64": "e30="}),
    ],
    ids=str,
)
def test_a_wrong_attribute_is_named_and_not_repeated(
    edge: Edge, line: str, pointer: str, change: dict[str, Any]
) -> None:
    assert_refused(edge, fact("execution.checked_in", line, {}) | change, pointer)


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "subject"])
def test_a_fact_without_a_required_attribute_is_refused(edge: Edge, line: str, name: str) -> None:
    event = fact("execution.checked_in", line)
    del event[name]
    assert_refused(edge, event, f"/{name}")


@pytest.mark.parametrize("event", [[], "text", 1, None, True, [[]]], ids=str)
def test_a_fact_that_is_no_object_is_refused(edge: Edge, event: Any) -> None:
    assert_refused(edge, dumps(event), "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("subject", "LIN-26-٠٠٠٠٠١", id="Arabic digits"),
        pytest.param("subject", "LIN-２６-000001", id="full-width digits"),
        pytest.param("organization_id", "ORG-26-٠٠٠٠٠١", id="an organization"),
        pytest.param("workspace_id", "WS-26-٠٠٠٠٠١", id="a workspace"),
        pytest.param("execution_id", "RUN-26-٠٠٠٠٠١", id="a record"),
    ],
)
def test_ids_with_other_digits_than_ascii_are_refused(edge: Edge, field: str, value: str) -> None:
    admin = edge.token("admin", organization_id=None)
    event = activation(edge.fresh_id())
    (event if field == "subject" else event["data"])[field] = value
    assert_problem(edge.send(event, admin), 422, "invalid_request")


def test_a_sender_cannot_set_reported_by(edge: Edge, line: str) -> None:
    assert_refused(edge, fact("execution.checked_in", line, {"reported_by": CANARY}))


# Time.


def ahead(edge: Edge, **by: float) -> str:
    return format_instant(edge.clock() + timedelta(**by))


BAD_TIMES = {
    "naive": "2026-04-15T10:00:00",
    "a date": "2026-04-15",
    "a leap second": "2016-12-31T23:59:60Z",
    "an epoch number": 1776247964,
    "an epoch as text": "1776247964",
    "the year 1899": "1899-12-31T23:59:59Z",
    "the year 2100": "2100-01-01T00:00:00Z",
    "hour 24": "2026-04-15T24:00:00Z",
    "no such day": "2026-02-30T00:00:00Z",
    "no seconds": "2026-04-15T10:00Z",
    "a space": "2026-04-15 10:00:00Z",
    "a comma": "2026-04-15T10:00:00,5Z",
    "an offset of 25 hours": "2026-04-15T10:00:00+25:00",
    "an offset of 24 hours": "2026-04-15T10:00:00+24:00",
    "an offset of 60 minutes": "2026-04-15T10:00:00+00:60",
    "an offset without colon": "2026-04-15T10:00:00+0100",
    "full-width digits": "２026-04-15T10:00:00Z",
    "a trailing newline": "2026-04-15T10:00:00Z\n",
    "true": True,
    "an object": {"now": CANARY},
    "words": CANARY,
    "year 0": "0000-01-01T00:00:00Z",
    "before year 1 in UTC": "0001-01-01T00:00:00+01:00",
    "after year 9999 in UTC": "9999-12-31T23:59:59-01:00",
}
TIMES = [pytest.param(value, id=name) for name, value in BAD_TIMES.items()]


@pytest.mark.parametrize("time", TIMES)
def test_a_time_that_is_no_instant_is_refused(edge: Edge, line: str, time: Any) -> None:
    assert_refused(edge, fact("execution.checked_in", line, time=time), "/time")


@pytest.mark.parametrize("time", TIMES)
def test_a_started_at_that_is_no_instant_is_refused(edge: Edge, time: Any) -> None:
    assert_refused(edge, activation(edge.fresh_id(), started_at=time), "/data/started_at")


def test_an_impossible_time_refuses_only_its_own_fact_of_a_batch(edge: Edge, line: str) -> None:
    good, bad = (fact("execution.checked_in", line) for _ in range(2))
    answer = edge.send_batch(good, bad | {"time": "0001-01-01T00:00:00+01:00"})
    assert answer.status_code == 200
    assert [item["outcome"] for item in answer.json()["data"]] == ["recorded", "refused"]


def test_a_time_may_lie_five_minutes_ahead_and_no_more(edge: Edge, line: str) -> None:
    edge.clock.advance(
        seconds=1
    )  # beyond the log's last event: the next is decided at this instant
    in_time = fact("execution.checked_in", line, time=ahead(edge, minutes=5))
    assert edge.send(in_time).status_code == 201
    too_late = fact("execution.checked_in", line, time=ahead(edge, minutes=5, milliseconds=1))
    assert_refused(edge, too_late, "/time")


@pytest.mark.parametrize(
    "time",
    [
        "2000-01-01T00:00:00Z",
        "2026-04-15T10:00:00+14:00",
        "2026-04-15t10:00:00z",
        "2026-04-15T10:00:00.123456789Z",
        "2024-02-29T00:00:00-00:00",
    ],
)
def test_times_in_the_past_are_accepted_with_any_offset(edge: Edge, line: str, time: str) -> None:
    assert edge.send(fact("execution.checked_in", line, time=time)).status_code == 201


# Data.

RESOURCE = {"id": "r", "type": "t"}


@pytest.mark.parametrize(
    ("kind", "data", "pointer"),
    [
        ("execution.checked_in", {UNSHOWN: 1}, "/data"),
        ("execution.checked_in", {"Hours": CANARY}, "/data/Hours"),
        ("execution.checked_in", [CANARY], "/data"),
        ("execution.checked_in", CANARY, "/data"),
        ("execution.checked_in", {"hours": -0.01}, "/data/hours"),
        ("execution.checked_in", {"hours": 0.001}, "/data/hours"),
        ("execution.checked_in", {"hours": 1e300}, "/data/hours"),
        ("execution.checked_in", {"hours": "8"}, "/data/hours"),
        ("execution.checked_in", {"hours": True}, "/data/hours"),
        ("execution.checked_in", {"note": 5}, "/data/note"),
        ("execution.blocked", {"cause": "approval_gap"}, "/data/blocker_id"),
        ("execution.blocked", {"blocker_id": "b", "cause": CANARY}, "/data/cause"),
        ("execution.blocked", {"blocker_id": "", "cause": "approval_gap"}, "/data/blocker_id"),
        ("execution.check_in_voided", {}, "/data/fact_id"),
        ("service_line.updated", {}, "/data"),
        ("service_line.updated", {"project_tags": None}, "/data/project_tags"),
        ("service_line.updated", {"project_tags": CANARY}, "/data/project_tags"),
        ("service_line.updated", {"project_tags": ["a", 5]}, "/data/project_tags/1"),
        ("service_line.updated", {"project_tags": ["a"] * 101}, "/data/project_tags"),
        ("service_line.closed", {"reason": [CANARY]}, "/data/reason"),
        ("resource.allocated", {"id": "r"}, "/data/type"),
        ("resource.allocated", RESOURCE | {"name": "x" * 201}, "/data/name"),
        ("resource.allocated", RESOURCE | {"role": "x" * 201}, "/data/role"),
        ("resource.allocated", RESOURCE | {"allocated_hours_per_week": "40"}, None),
        ("resource.released", {}, "/data/id"),
        ("health.signal_reported", {"signal": CANARY, "status": "green"}, "/data/signal"),
        ("health.signal_reported", {"signal": "sla_compliance", "status": 1}, "/data/status"),
    ],
    ids=str,
)
def test_wrong_data_is_named_and_not_repeated(
    edge: Edge, line: str, kind: str, data: Any, pointer: str | None
) -> None:
    event = fact(kind, line, {"reason": "x"})
    event["data"] = data
    before = edge.log()
    problem = assert_problem(answer := edge.send(event), 422, "invalid_request")
    assert CANARY not in answer.text
    pointers = [error["pointer"] for error in problem["errors"]]
    assert pointer in pointers if pointer is not None else pointers != []
    assert edge.log() == before


@pytest.mark.parametrize(
    "data",
    [
        {"service_line_id": CANARY},
        {},
        {"triggered_by": {"type": CANARY}},
        {"triggered_by": {"type": "user", UNSHOWN: 1}},
        {"triggered_by": {}},
        {UNSHOWN: CANARY},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["run.requested", "run.started", "agent.run.started"])
def test_a_run_with_wrong_or_missing_data_does_not_begin(
    edge: Edge, line: str, kind: str, data: dict[str, Any]
) -> None:
    named = {} if data == {} or "service_line_id" in data else {"service_line_id": line}
    assert_refused(edge, fact(kind, None, named | data))


@pytest.mark.parametrize("field", ["tokens_used", "duration_ms"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", True])
def test_counts_of_a_run_must_be_whole_and_not_negative(
    edge: Edge, line: str, field: str, value: Any
) -> None:
    (begun,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    assert_refused(edge, fact("run.completed", begun["subject"], {field: value}), f"/data/{field}")


# Headers of binary mode.


def binary(line: str, *more: tuple[str, str], **change: str | None) -> list[tuple[str, str]]:
    event = {k: v for k, v in fact("execution.checked_in", line).items() if k != "data"} | change
    named = [(f"ce-{name}", value) for name, value in event.items() if value is not None]
    return [*PLAIN.items(), *named, *more]


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"specversion": "2.0"}, []),
        ({"subject": CANARY}, []),
        ({"subject": "LIN-26-000001%0A"}, []),
        ({"id": "%00" + CANARY}, []),
        ({"id": None}, []),
        ({"source": None}, []),
        ({"time": "yesterday"}, []),
        ({"type": CANARY}, []),
        ({}, [("ce-" + "x" * 60 + CANARY, "%FF")]),
        ({}, [("ce-", "1")]),
        ({}, [("ce-reported-by", CANARY)]),
        ({}, [("ce-datacontenttype", "text/plain")]),
    ],
    ids=str,
)
def test_a_wrong_header_is_a_422_and_not_repeated(
    edge: Edge, line: str, change: dict[str, str | None], more: list[tuple[str, str]]
) -> None:
    before = edge.log()
    answer = edge.post("/v1/facts", content=b"{}", headers=binary(line, *more, **change))
    assert_problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text
    assert edge.log() == before


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("caf%C3%A9%20%25", "café %"),
        ('"in%20quotes"', "in quotes"),
        (r'"a \"word\" and \\ more"', r'a "word" and \ more'),
        ('"', '"'),
        ('a "word', 'a "word'),
    ],
)
def test_headers_are_unquoted_and_percent_decoded(
    edge: Edge, line: str, sent: str, meant: str
) -> None:
    answer = edge.post("/v1/facts", content=b"{}", headers=binary(line, id=sent))
    assert answer.status_code == 201, answer.text
    assert answer.json()["data"]["id"] == meant


@pytest.mark.parametrize(("encoding", "status"), [("utf-8", 201), ("latin-1", 422)])
def test_header_letters_without_percent_encoding_are_read_as_utf_8(
    edge: Edge, line: str, encoding: str, status: int
) -> None:
    """If they were read as Latin-1, two ids could become equal, and the second fact a duplicate."""
    headers = [(k.encode(), v.encode(encoding)) for k, v in binary(line, id="naïve %C3%A9")]
    answer = edge.post("/v1/facts", content=b"{}", headers=headers)
    assert answer.status_code == status, answer.text
    if status == 201:
        assert answer.json()["data"]["id"] == "naïve é"


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("id", "/id"),
        ("source", "/source"),
        ("actorid", "/actorid"),
        ("x1", "/x1"),
        (CANARY * 7, ""),
    ],
)
@pytest.mark.parametrize("sent", ["a%FF", "a%FE", "%C3", '"%ED%A0%80"', "%C0%80"])
def test_a_header_that_is_not_utf_8_is_refused_and_audited(
    edge: Edge, line: str, name: str, pointer: str, sent: str
) -> None:
    """If wrong bytes were replaced, two ids could become equal, and the second fact a duplicate."""
    before, audit = edge.log(), "/v1/audit-logs?organization_id=ORG-26-000001&outcome=refused"
    sending = binary(line, (f"ce-{name}", sent), **{name: None})
    answer = edge.post("/v1/facts", content=b"{}", headers=sending)
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"] == [
        {"pointer": pointer, "detail": "must be UTF-8 in percent encoding"}
    ]
    assert CANARY not in answer.text
    assert edge.log() == before
    last = edge.data(audit, edge.token("audit:read"))[0]
    assert (last["action"], last["resource"]["id"]) == ("execution.checked_in", line)


def test_an_extension_may_have_a_long_name(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line) | {"a" * 40: "x"}
    assert edge.send(event).status_code == 201


def test_an_attribute_sent_twice_is_refused_like_a_duplicate_key(edge: Edge, line: str) -> None:
    answer = edge.post("/v1/facts", content=b"{}", headers=binary(line, ("ce-id", "second")))
    assert_problem(answer, 422, "invalid_request")


def test_a_header_ce_data_sends_no_data(edge: Edge) -> None:
    line = edge.fresh("capacity")
    edge.post("/v1/facts", content=b"{}", headers=binary(line, ("ce-data", '{"hours": 9}')))
    assert edge.data(f"/v1/execution/{line}")["metrics"]["hours_total"] == 0


# The answer to a fact that is recorded.


def test_a_single_fact_is_answered_with_one_item(edge: Edge, line: str) -> None:
    event = fact("execution.checked_in", line)
    first, again = edge.send(event), edge.send(encode(event))
    assert (first.status_code, again.status_code) == (201, 200)
    item = first.json()["data"]
    expected = {"index", "id", "source", "outcome", "subject", "event_ids", "position", "error"}
    assert set(item) == expected
    assert (item["index"], item["outcome"], item["error"]) == (0, "recorded", None)
    assert again.json()["data"] == item | {"outcome": "duplicate"}
    assert first.headers["ledger-position"] == str(item["position"])
