"""Broken JSON, and JSON that parsers disagree on, leave the log as it was (contract, Facts)."""

import json
from contextlib import suppress
from typing import Any

import pytest

from ledger.engine.values import json_gate
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import encode, fact
from tests.support.growth import assert_linear
from tests.support.service import BATCH, STRUCTURED

CANARY = "canary7f3a"
"""A word in the bodies that are sent; no refusal may repeat it."""

BROKEN = {
    "empty": b"",
    "blank": b" \n ",
    "truncated": b'{"%s": ',
    "NaN": b'{"%s": NaN}',
    "Infinity": b'{"%s": Infinity}',
    "-Infinity": b'{"%s": -Infinity}',
    "a byte order mark": b'\xef\xbb\xbf{"%s": 1}',
    "bad UTF-8": b'{"%s": "\xff"}',
    "an overlong NUL": b'{"%s": "\xc0\x80"}',
    "a raw surrogate": b'{"%s": "\xed\xa0\x80"}',
    "UTF-16": '{"%s": 1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"%s": 1}'.encode("utf-16-le"),
    "UTF-32": '{"%s": 1}'.encode("utf-32-le"),
    "single quotes": b"{'%s': 1}",
    "a trailing comma": b'{"%s": 1,}',
    "a second value": b'{"%s": 1} {}',
    "a raw control character": b'{"%s": "\x01"}',
    "a leading zero": b'{"%s": 01}',
    "a comment": b'{"%s": 1} // no',
    "an unknown escape": rb'{"%s": "\x41"}',
}


def planted(body: bytes) -> bytes:
    return body.replace(b"%s", CANARY.encode())


def nested(levels: int) -> bytes:
    """An array of that many levels. Its place in ``evidence`` is two levels deep already."""
    return b"[" * levels + b"]" * levels


HAZARDS = {
    "a duplicate key": b'{"a": 1, "a": 2}',
    "the same key twice, one escaped": rb'{"a": 1, "\u0061": 2}',
    "NUL in a value": rb'"x\u0000"',
    "NUL in a key": rb'{"x\u0000": 1}',
    "a lone high surrogate": rb'"\ud800"',
    "a lone low surrogate": rb'"\udc00"',
    "lone surrogates in capitals": rb'["\uDBFF", "\uDFFF"]',
    "surrogates the wrong way round": rb'"\udc00\ud800"',
    "a lone low surrogate as a key": rb'{"\udfff": 1}',
    "an integer of 2^53": b"9007199254740992",
    "an integer of -2^53": b"-9007199254740992",
    "an integer of 400 digits": b"9" * 400,
    "an integer of 5,000 digits": b"9" * 5000,
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "33 levels": nested(31),
    "500 levels": nested(500),
    "1,100 levels": nested(1100),
    "100,000 levels": nested(100_000),
}
"""JSON that parsers read differently or do not accept: a fact that contains it is a 422."""

PASSING = {
    "32 levels": nested(30),
    "2^53 - 1": b"9007199254740991",
    "-(2^53 - 1)": b"-9007199254740991",
    "a pair of surrogates": rb'"\ud83d\ude00"',
    "noncharacters": '"\uffff\ufdd0"'.encode(),
    "the largest double": b"1.7976931348623157e308",
    "an escaped backslash before u0000": rb'"\\u0000"',
}


def signal(line: str, evidence: bytes, **attributes: Any) -> bytes:
    """The raw JSON of a health report with this evidence."""
    data = {"signal": "hours_on_target", "status": "green", "evidence": "EVIDENCE"}
    event = fact("health.signal_reported", line, data, **attributes)
    return encode(event).replace(b'"EVIDENCE"', evidence)


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    return edge.fresh()


# The whole body.


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("mode", ["single", "plain", "batch", "item", "binary"])
def test_a_broken_body_is_a_400_and_records_nothing(
    edge: Edge, line: str, body: bytes, mode: str
) -> None:
    before, raw = edge.log(), planted(body)
    headers = {"single": STRUCTURED, "plain": PLAIN, "batch": BATCH, "item": BATCH, "binary": PLAIN}
    sent = dict(headers[mode])
    if mode == "binary":
        if not raw.strip():
            pytest.skip("binary mode: an empty body is an event without data")
        sent |= binary(line)
    if mode == "item":
        good = encode(fact("execution.checked_in", line))
        raw = b"[" + good + b"," + raw + b"," + good + b"]"
    answer = edge.post("/v1/facts", content=raw, headers=sent)
    assert_problem(answer, 400, "invalid_request")
    assert CANARY not in answer.text
    assert edge.log() == before


def binary(line: str, **attributes: str) -> dict[str, str]:
    event = fact("execution.checked_in", line)
    envelope = {name: event[name] for name in ("specversion", "id", "source", "type", "subject")}
    return {f"ce-{name}": value for name, value in (envelope | attributes).items()}


@pytest.mark.parametrize("body", [b'{"hours": 1}, "x": 2', b'1, "id": "other"'])
def test_a_body_in_binary_mode_cannot_add_attributes_to_its_fact(
    edge: Edge, line: str, body: bytes
) -> None:
    before = edge.log()
    answer = edge.post("/v1/facts", content=body, headers=PLAIN | binary(line))
    assert_problem(answer, 400, "invalid_request")
    assert edge.log() == before


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b"," + b"[" * 100_000, id="cut off"),
        pytest.param(b"," + nested(100_000) + b"] and more", id="followed by garbage"),
        pytest.param(b"," + b"[" * 100_000 + b"}" * 100_000 + b"]", id="closed by other brackets"),
    ],
)
def test_a_deep_batch_of_broken_json_records_none_of_its_facts(
    edge: Edge, line: str, tail: bytes
) -> None:
    before = edge.log()
    good = encode(fact("execution.checked_in", line))
    answer = edge.post("/v1/facts", content=b"[" + good + tail, headers=BATCH)
    assert_problem(answer, 400, "invalid_request")
    assert edge.log() == before


@pytest.mark.parametrize("body", [b"{}", b"null", b"5", b'"x"', b' {"a": [1, 2]} '])
def test_a_batch_that_is_no_array_is_a_422(edge: Edge, body: bytes) -> None:
    answer = edge.post("/v1/facts", content=body, headers=BATCH)
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"] == [{"pointer": "", "detail": "must be an array"}]


def split_items(body: bytes, most: int) -> list[bytes]:
    steps = json_gate.split_in_steps(body, most)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def test_splitting_a_batch_with_an_unterminated_string_takes_linear_time(edge: Edge) -> None:
    def endless(size: int) -> bytes:
        return b'["' + rb"\"" * size

    def split(body: bytes) -> None:
        with suppress(json_gate.BrokenJson):
            split_items(body, 1_000)

    answer = edge.post("/v1/facts", content=endless(100_000), headers=BATCH)
    assert_problem(answer, 400, "invalid_request")
    assert_linear(split, endless, 100_000)


def test_splitting_a_batch_stops_after_the_limit_of_items(edge: Edge) -> None:
    body = b"[" + b"0," * 1_000_000 + b"0]"
    assert len(split_items(body, 1_000)) == 1_001
    assert_problem(edge.post("/v1/facts", content=body, headers=BATCH), 413, "too_large")


def test_an_item_of_many_commas_is_one_item() -> None:
    body = b'[ {"a": [' + b"1," * 200_000 + b'1], "b": "],[" } , 2]'
    first, second = split_items(body, 1_000)
    assert (len(json.loads(first)["a"]), second) == (200_001, b"2")


@pytest.mark.parametrize("value", [b"1", rb'"\ud800"', b"[" * 40 + b"]" * 40])
def test_an_item_that_is_too_large_is_refused_alone_unless_it_is_broken_json(
    edge: Edge, line: str, value: bytes
) -> None:
    before, good = edge.log(), encode(fact("execution.checked_in", line))
    large = b'{"a": "' + b"x" * 300_000 + b'", "b": '
    broken = edge.post("/v1/facts", content=b"[" + good + b"," + large + b"NaN}]", headers=BATCH)
    assert_problem(broken, 400, "invalid_request")
    assert_problem(
        edge.post("/v1/facts", content=large + b"NaN}", headers=PLAIN), 400, "invalid_request"
    )
    assert edge.log() == before
    batch = b"[" + good + b"," + large + value + b"}]"
    first, second = edge.post("/v1/facts", content=batch, headers=BATCH).json()["data"]
    assert (first["outcome"], second["error"]["status"]) == ("recorded", 413)
    assert_problem(
        edge.post("/v1/facts", content=large + value + b"}", headers=PLAIN), 413, "too_large"
    )


@pytest.mark.parametrize(
    "value",
    [
        b'"\xff"',
        b'"\xed\xa0\x80"',
        rb'"\ud800", ',
        rb'"\ud800", "\q"',
        rb'"\ud800", "\u12"',
        rb'"\\\ud800\\", \u0020',
        pytest.param(b'"\xff", "c": ' + nested(3000), id="deep"),
    ],
)
@pytest.mark.parametrize("mode", ["single", "item", "binary"])
def test_a_fact_that_is_too_large_and_broken_is_a_400(
    edge: Edge, line: str, value: bytes, mode: str
) -> None:
    before, good = edge.log(), encode(fact("execution.checked_in", line))
    raw, headers = b'{"a": "' + b"x" * 300_000 + b'", "b": ' + value + b"}", STRUCTURED
    if mode == "binary":
        headers = PLAIN | binary(line)
    if mode == "item":
        raw, headers = b"[" + good + b"," + raw + b"]", BATCH
    answer = edge.post("/v1/facts", content=raw, headers=headers)
    assert_problem(answer, 400, "invalid_request")
    assert edge.log() == before


@pytest.mark.parametrize("headers", [STRUCTURED, PLAIN | {"ce-id": "x"}], ids=["single", "binary"])
def test_lone_surrogate_escapes_are_checked_in_linear_time_and_are_no_broken_json(
    edge: Edge, headers: dict[str, str]
) -> None:
    def escaped(size: int) -> bytes:
        return rb'{"a": "\\\u0000", "b": "' + rb"\ud800" * size + b'"}'

    assert_linear(json_gate.check_syntax, escaped, 300_000)
    answer = edge.post("/v1/facts", content=escaped(1_300_000), headers=headers)
    assert_problem(answer, 413, "too_large")


# Hazards in a fact.


@pytest.mark.parametrize("evidence", HAZARDS.values(), ids=HAZARDS)
def test_a_hazard_in_a_single_fact_is_a_422_and_records_nothing(
    edge: Edge, line: str, evidence: bytes
) -> None:
    before = edge.log()
    answer = edge.send(signal(line, evidence, id=CANARY))
    assert_problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text
    assert edge.log() == before


@pytest.mark.parametrize("evidence", HAZARDS.values(), ids=HAZARDS)
def test_a_hazard_in_a_batch_refuses_only_its_item(edge: Edge, line: str, evidence: bytes) -> None:
    good = [fact("execution.checked_in", line) for _ in range(2)]
    answer = edge.send_batch(good[0], signal(line, evidence), good[1])
    assert answer.status_code == 200, answer.text
    items = answer.json()["data"]
    assert [item["outcome"] for item in items] == ["recorded", "refused", "recorded"]
    assert [item["index"] for item in items] == [0, 1, 2]
    error = items[1]["error"]
    assert (error["status"], error["code"]) == (422, "invalid_request")
    assert items[1]["event_ids"] == []
    assert items[1]["position"] is None


@pytest.mark.parametrize("evidence", HAZARDS.values(), ids=HAZARDS)
def test_a_hazard_in_binary_mode_is_a_422_and_records_nothing(
    edge: Edge, line: str, evidence: bytes
) -> None:
    before = edge.log()
    headers = PLAIN | binary(line, type="health.signal_reported")
    body = b'{"signal": "hours_on_target", "status": "green", "evidence": ' + evidence + b"}"
    answer = edge.post("/v1/facts", content=body, headers=headers)
    assert_problem(answer, 422, "invalid_request")
    assert edge.log() == before


@pytest.mark.parametrize("evidence", PASSING.values(), ids=PASSING)
def test_values_at_the_limit_are_recorded_and_shown_as_sent(edge: Edge, evidence: bytes) -> None:
    line = edge.fresh()
    assert edge.send(signal(line, evidence)).status_code == 201
    (reported,) = edge.data(f"/v1/execution/{line}")["health"]["signals"]
    assert dumps(reported["evidence"]) == dumps(json.loads(evidence))


@pytest.mark.parametrize("position", ["id", "source", "subject", "type", "actorid", "reason"])
@pytest.mark.parametrize(
    "escape",
    [r"\ud800", r"\u0000", r"\udc00"],
)
def test_no_attribute_accepts_nul_or_a_lone_surrogate(
    edge: Edge, line: str, position: str, escape: str
) -> None:
    if escape == r"\udc00" and position in ("subject", "type"):
        pytest.skip("refused, but by another rule")
    before = edge.log()
    event = fact("service_line.paused", line, {"reason": "why"}, actortype="user", actorid="u")
    target = event["data"] if position == "reason" else event
    target[position] = CANARY + "ESCAPE"
    answer = edge.send(encode(event).replace(b"ESCAPE", escape.encode()))
    assert_problem(answer, 422, "invalid_request")
    assert CANARY not in answer.text
    assert edge.log() == before


# Content types.


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/xml"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/cloudevents+xml"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json; charset=iso-8859-1"},
        {"content-type": 'application/cloudevents+json; charset="UTF-16"'},
        {"content-type": "application/json", "content-encoding": "deflate"},
        {"content-type": "application/cloudevents-batch+json", "content-encoding": "br"},
        {"content-type": "application/json, text/plain"},
    ],
    ids=str,
)
def test_another_content_type_charset_or_encoding_is_a_415(
    edge: Edge, line: str, headers: dict[str, str]
) -> None:
    before = edge.log()
    body = encode(fact("execution.checked_in", line))
    answer = edge.post("/v1/facts", content=body, headers=headers)
    problem = assert_problem(answer, 415, "unsupported_media_type")
    named = ("Send the header Content-Type: application/json", "charset", "Content-Encoding")
    assert any(word in problem["detail"] for word in named)
    assert edge.log() == before


@pytest.mark.parametrize(
    "media",
    [
        "application/json",
        "application/cloudevents+json",
        "Application/CloudEvents+JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
    ],
)
def test_utf_8_may_be_named_in_any_case(edge: Edge, line: str, media: str) -> None:
    body = encode(fact("execution.checked_in", line))
    answer = edge.post("/v1/facts", content=body, headers={"content-type": media})
    assert answer.status_code == 201, answer.text
