"""Facts that one typed pass decodes, and the checks that name faults: both ways come to the same.

Any text that the typed pass does not take goes the slower way (``json_gate.parse_typed``). And a
fact comes to another process as it was.
"""

import json
import pickle
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.engine.values import json_gate
from ledger.engine.values.errors import LedgerError
from ledger.features.facts.envelope import Fact, Rejected, from_structured
from ledger.features.facts.fact_types import ALIASES, FACT_TYPES

LINE, RUN = "LIN-26-084729", "RUN-26-000419"
NOTE = 'Größe \u2028 "8"\n\\ \U0001f600'
BEGUN = {
    "service_line_id": LINE,
    "external_id": "job/1",
    "attempt": 2,
    "triggered_by": {"type": "user", "actor_id": "u"},
    "input": {"a": [1.0, {"b": None}], "c": 2.5},
    "lease_seconds": 60,
}
USED = {
    "tokens_used": 12,
    "token_usage": [{"model": "m", "input": 10.0, "output": 2, "cache_read": 1}],
}
ENDED = USED | {"external_id": "job/1", "output": {"text": NOTE}, "duration_ms": 10}
RESOURCE = {"id": "r", "type": "pod", "allocated_hours_per_week": 8.0, "status": "active"}
DATA: dict[str, dict[str, Any]] = {
    "service_line.activated": {
        "organization_id": "ORG-26-000001",
        "workspace_id": "WS-26-000001",
        "product_line": "talent",
        "execution_model": "capacity",
        "project_tags": ["PROJ-26-000001"],
        "resources": [RESOURCE],
        "started_at": "2026-04-01T09:00:00+02:00",
        "execution_id": RUN,
    },
    "service_line.updated": {"project_tags": [], "name": None},
    "service_line.paused": {"reason": NOTE},
    "service_line.resumed": {},
    "service_line.closed": {"reason": None},
    "execution.checked_in": {"hours": 8.0, "note": NOTE, "resource_id": "r"},
    "execution.check_in_voided": {"fact_id": "f", "reason": "twice"},
    "execution.blocked": {
        "blocker_id": "b",
        "cause": "approval_gap",
        "due_at": "2026-05-01T00:00Z",
    },
    "execution.unblocked": {"blocker_id": "b"},
    "resource.allocated": RESOURCE,
    "resource.released": {"id": "r"},
    "health.signal_reported": {
        "signal": "sla_compliance",
        "status": "green",
        "value": 1e2,
        "evidence": [None],
    },
    "directory.named": {"name": None},
    "run.requested": BEGUN | {"parent_external_id": "job/0"},
    "run.started": BEGUN | {"parent_run_id": RUN},
    "run.completed": ENDED,
    "run.failed": ENDED | {"error": {"code": "e", "message": NOTE}},
    "run.cancelled": USED | {"reason": "late"},
    "run.usage_corrected": USED,
}
SUBJECTS = {"line": LINE, "run": RUN, "directory": "WS-26-000001"}
TYPES = {**FACT_TYPES, **{alias: FACT_TYPES[name] for alias, name in ALIASES.items()}}


def event_of(name: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "f-1",
        "source": "/source",
        "type": name,
        "subject": SUBJECTS[TYPES[name].subject],
        "time": "2026-04-15T09:12:45.123456789+02:00",
        "actortype": "agent",
        "actorid": "a-1",
        "datacontenttype": "application/json",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "data": DATA[ALIASES.get(name, name)],
    }


def error_of(error: LedgerError | None) -> Any:
    return error and (type(error), error.detail, getattr(error, "errors", ()))


def content_of(found: Fact | Rejected) -> Any:
    """Everything in it. Types too: 8 and 8.0 are equal, but not stored alike."""
    error = found.fault if isinstance(found, Fact) else found.error
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    followed = (found.kind, found.data) if isinstance(found, Fact) else ()
    return type(found), error_of(error), repr((fields | {"fault": None, "error": None}, followed))


def parsed(raw: bytes) -> Any:
    """Everything that follows from a text, which another process gets too."""
    try:
        found = from_structured(raw)
    except json_gate.BrokenJson as broken:
        return "broken", str(broken)
    here, there = content_of(found), content_of(pickle.loads(pickle.dumps(found)))
    assert there == here
    return here


def in_two_ways(raw: bytes) -> tuple[Any, Any]:
    one_pass = parsed(raw)
    with patch.object(json_gate, "parse_typed", lambda raw, decode: None):
        return one_pass, parsed(raw)


@pytest.mark.parametrize("name", TYPES)
def test_a_usual_fact_of_each_type_needs_one_pass(name: str) -> None:
    event = event_of(name)
    for data in (event["data"], None):
        raw = json.dumps(event | {"data": data}).encode()
        with patch.object(json_gate, "parse", side_effect=AssertionError):
            assert isinstance(from_structured(raw), Fact | Rejected)
        one_pass, by_checks = in_two_ways(raw)
        assert one_pass == by_checks
        assert one_pass[0] is Fact


# Texts that parsers disagree on, or that only one of the two ways might refuse.
ODD = [
    *["null", "true", "0", "-0", "-0.0", "8.0", "8e0", "2.675", "1e400", "1e-400", "1e22", "01"],
    *["9007199254740991", "9007199254740992", "9007199254740993.0", "1" * 40, "1" * 5000],
    *["NaN", "-Infinity", '""', '" "', '"\\u0000"', '"\\u0022"', '"\\u0022\\u0022":1', '"\\""'],
    *['"\\ud800"', '"\\ud83d\\ude00"', '"\\u00e9"', '"é"', '"\\n"', '"\n"', '"\x7f"', '"\u202e"'],
    *["[]", "{}", "[" * 33 + "]" * 33, "[" * 2000 + "]" * 2000, '{"a":1,"a":1}', '{"a":null}'],
    *['"2026-04-15T09:12:45Z"', '"2026-04-15 09:12:45Z"', '"2026-04-15T24:00:00Z"', '"x"', "[1.0]"],
    *['"1899-12-31T23:59:59Z"', '"0001-01-01T00:00:00+23:59"', '"LIN-26-084729\\n"', '"system"'],
    *['"text/plain"', '"application/x+JSON; a=b"', '"' + "x" * 201 + '"', '"' + "é" * 256 + '"'],
    *['"run.started"', '"agent.run.started"', '"odd"', '"RUN-26-000419"', '"LIN-26-084729"'],
]
MORE = ['"id":"f-2"', '"ext":1', '"Ext":1', '"data_base64":"e30="', '"data":{}', '"":0']
TOKENS = [*ODD, *MORE, ",", ":", '"', "\\", "{", "}", " ", "\t\r\n", "\0", "\ufeff", "\f", "\u00a0"]


MASKED = ['"a","note":"\\u0022\\u0022\\u0022\\u0022"', '"a","id":"\\u0022\\u0022\\u0022\\u0022"']
"""Two equal keys, whose missing quotation marks an escape makes up for."""


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))


def with_text(value: Any, path: tuple[Any, ...], text: str) -> str:
    """The JSON text of a value, with this text at a path."""
    if not path:
        return text
    if isinstance(value, list):
        parts = [
            with_text(v, path[1:], text) if i == path[0] else json.dumps(v)
            for i, v in enumerate(value)
        ]
        return f"[{','.join(parts)}]"
    pairs = [
        (k, with_text(v, path[1:], text) if k == path[0] else json.dumps(v))
        for k, v in value.items()
    ]
    return "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in pairs) + "}"


@pytest.mark.parametrize("name", TYPES)
def test_both_ways_come_to_the_same_with_an_odd_value_anywhere(name: str) -> None:
    event = event_of(name)
    for path in paths(event):
        for odd in ODD + MASKED:
            one_pass, by_checks = in_two_ways(with_text(event, path, odd).encode())
            assert one_pass == by_checks, (path, odd)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """The text of a fact of any type, with odd values, fields taken away, and bytes changed."""
    event = event_of(draw(st.sampled_from([*TYPES])))
    marks: dict[str, str] = {}

    def changed(value: Any) -> Any:
        if not draw(st.integers(0, 9)):
            mark = f"<{len(marks)}>"
            marks[json.dumps(mark)] = draw(st.sampled_from(ODD))
            return mark
        if isinstance(value, dict):
            some = {key: changed(item) for key, item in value.items() if draw(st.integers(0, 19))}
            more: list[dict[str, Any]] = [{}, {}, {}, {"unknown": 1}, {"external_id": "x"}]
            return some | draw(st.sampled_from(more))
        return [changed(item) for item in value] if isinstance(value, list) else value

    indent, is_ascii = draw(st.sampled_from([None, None, 1])), draw(st.booleans())
    text = json.dumps(changed(event), indent=indent, ensure_ascii=is_ascii)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(TOKENS)) + text[at + draw(st.integers(0, 2)) :]
    if not draw(st.integers(0, 3)):
        text = text.replace("{", "{" + draw(st.sampled_from(MORE)) + ",", 1)
    raw = text.encode()
    if not draw(st.integers(0, 19)):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc3"])) + raw[at:]
    return raw


@settings(max_examples=500, deadline=None)
@given(texts())
def test_both_ways_come_to_the_same(raw: bytes) -> None:
    one_pass, by_checks = in_two_ways(raw)
    assert one_pass == by_checks
