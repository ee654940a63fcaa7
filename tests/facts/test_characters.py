"""Control characters and bidirectional controls in what is sent (contract, Facts, "Characters").

In a terminal or a table they hide, reorder or forge what an operator reads.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.features.facts.fact_types import FACT_TYPES
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, fact
from tests.support.soak import repeated
from tests.support.watches import RUNNING, create_watch, watched

CONTROLS = [chr(point) for point in (*range(1, 0x20), *range(0x7F, 0xA0))]
BIDIRECTIONAL = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
CHARACTERS = CONTROLS + BIDIRECTIONAL
LINE_ENDS = ["\t", "\n", "\r"]
HARMLESS = "Grüße, 東京 ‐ 😀 e\u0301 \u00a0\u200d\u2028"

RESOURCE = {"id": "r", "type": "t", "name": "n", "role": "o", "status": "s"}
ACTIVATED = {"project_tags": ["tag"], "name": "n", "resources": [RESOURCE]}
BLOCKED = {"blocker_id": "b", "cause": "approval_gap", "reason": "r", "assignee": "a"}
BEGUN = {"triggered_by": {"type": "user", "actor_id": "a"}, "external_id": "x"}
BEGUN |= {"parent_external_id": "y"}
USED = {"external_id": "x", "token_usage": [{"model": "m"}]}

TEXTS: dict[str, dict[str, Any]] = {
    "service_line.activated": ACTIVATED,
    "service_line.updated": {"project_tags": ["tag"], "name": "n"},
    "service_line.paused": {"reason": "r"},
    "service_line.resumed": {"reason": "r"},
    "service_line.closed": {"reason": "r"},
    "execution.checked_in": {"note": "n", "resource_id": "r"},
    "execution.check_in_voided": {"fact_id": "f", "reason": "r"},
    "execution.blocked": BLOCKED,
    "execution.unblocked": {"blocker_id": "b", "reason": "r"},
    "resource.allocated": RESOURCE,
    "resource.released": {"id": "r"},
    "health.signal_reported": {},
    "directory.named": {"name": "n"},
    "run.requested": BEGUN,
    "run.started": BEGUN,
    "run.completed": USED,
    "run.failed": USED | {"error": {"code": "c"}},
    "run.cancelled": USED | {"reason": "r"},
    "run.usage_corrected": USED | {"reason": "r"},
}
"""Each type's fields that hold free text."""

OF_LINES = {"reason", "note"}
"""The fields that may have tabs and line ends."""


def text_pointers(data: Any, pointer: str = "/data") -> Iterator[str]:
    members = enumerate(data) if isinstance(data, list) else data.items()
    for name, value in members:
        if isinstance(value, dict | list):
            yield from text_pointers(value, f"{pointer}/{name}")
        elif value != "approval_gap" and (name, value) != ("type", "user"):
            yield f"{pointer}/{name}"


def with_text(data: Any, pointer: str, text: str) -> Any:
    """The data, with the text behind the value at the pointer."""
    _, first, *rest = pointer.split("/")
    key: Any = int(first) if isinstance(data, list) else first
    copy = data.copy()
    copy[key] = with_text(copy[key], "/" + "/".join(rest), text) if rest else copy[key] + text
    return copy


MONTH = {"from": "2026-03-01", "to": "2026-04-01"}
WATCH = {"condition": RUNNING, "for_seconds": 0, "organization_id": ORGANIZATION}

COMMANDS: list[tuple[str, str, dict[str, Any], str]] = [
    ("post", "/v1/execution/{line_id}/pause", {}, "reason"),
    ("post", "/v1/execution/{line_id}/resume", {}, "reason"),
    ("post", "/v1/runs/{run_id}/erase", {}, "reason"),
    ("post", "/v1/keys", {"permissions": ["read"]}, "name"),
    ("patch", "/v1/keys/{key_id}", {}, "name"),
    (
        "post",
        "/v1/webhooks",
        {"url": "https://93.184.215.14/", "event_types": ["*"]},
        "description",
    ),
    ("patch", "/v1/webhooks/{endpoint_id}", {}, "description"),
    ("post", "/v1/execution/pause", {"filter": {"service_line_id": ["LIN-26-1"]}}, "reason"),
    ("post", "/v1/execution/resume", {"filter": {"service_line_id": ["LIN-26-1"]}}, "reason"),
    ("post", "/v1/statements", {**MONTH, "organization_id": ORGANIZATION}, "note"),
    ("post", "/v1/statements", {**MONTH, "organization_id": ORGANIZATION}, "reference"),
    ("post", "/v1/statements/{statement_id}/withdraw", {}, "reason"),
    ("post", "/v1/watches", {**WATCH, "name": "n"}, "name"),
    ("post", "/v1/watches", {**WATCH, "name": "n"}, "lines/project_tag/0"),
    ("post", "/v1/watches", {**WATCH, "name": "n"}, "lines/service_line_id/0"),
    ("patch", "/v1/watches/{watch_id}", {}, "name"),
    ("patch", "/v1/watches/{watch_id}", {}, "lines/project_tag/0"),
    ("patch", "/v1/watches/{watch_id}", {}, "lines/service_line_id/0"),
    ("post", "/v1/watches/preview", WATCH, "lines/project_tag/0"),
    ("post", "/v1/watches/preview", WATCH, "lines/service_line_id/0"),
    ("post", "/v1/alerts/{alert_id}/acknowledge", {}, "note"),
    ("post", "/v1/alerts/{alert_id}/acknowledge", {}, "assignee"),
    ("post", "/v1/alerts/acknowledge", {"ids": ["ALR-26-000001"]}, "note"),
    ("post", "/v1/alerts/acknowledge", {"ids": ["ALR-26-000001"]}, "assignee"),
]
"""The commands with a text: the other fields of the body, and the text's field."""

CASES = [(type_, pointer) for type_, data in TEXTS.items() for pointer in text_pointers(data)]


@pytest.fixture(scope="module")
def line(edge: Edge) -> str:
    return edge.fresh()


def sent(line: str, type_: str, data: dict[str, Any], edge: Edge) -> dict[str, Any]:
    """A fact of this type that the ledger would take, but for its texts."""
    if type_ == "service_line.activated":
        return activation(edge.fresh_id(), **data)
    kind = FACT_TYPES[type_]
    if kind.subject == "directory":
        return fact(type_, WORKSPACE, data)
    if kind.subject == "run":
        begins = {"service_line_id": line} if kind.subject_optional else {}
        return fact(type_, None, data | begins)
    return fact(type_, line, data)


@pytest.mark.parametrize(("type_", "pointer"), CASES)
def test_a_fact_with_a_control_character_in_any_of_its_texts_is_refused(
    edge: Edge, line: str, type_: str, pointer: str
) -> None:
    may_have_lines = pointer.rpartition("/")[2] in OF_LINES
    bad = CHARACTERS
    refused = [c for c in bad if not (may_have_lines and c in LINE_ENDS)]
    relative = pointer.removeprefix("/data")
    if FACT_TYPES[type_].subject == "run" and type_ not in ("run.requested", "run.started"):
        run = f"job of {type_}{pointer}"
        begun = {"service_line_id": line, "external_id": run}
        edge.accept(fact("run.started", None, begun))
        data = TEXTS[type_] | {"external_id": run}
    else:
        data = TEXTS[type_]
    events = [sent(line, type_, with_text(data, relative, f"a{c}b"), edge) for c in refused]
    items = edge.send_batch(*events).json()["data"]
    pointers = [
        [error["pointer"] for error in (item["error"] or {}).get("errors", [])] for item in items
    ]
    if pointer.endswith("/external_id") and type_ not in ("run.requested", "run.started"):
        # No run has this name.
        assert {item["error"]["status"] for item in items} == {404}
        return
    assert [
        (c, found) for c, found in zip(refused, pointers, strict=True) if found != [pointer]
    ] == []


def test_each_field_of_a_fact_that_holds_text_is_listed_here(edge: Edge) -> None:
    schemas = edge.get("/openapi.json").json()["components"]["schemas"]
    assert TEXTS.keys() == FACT_TYPES.keys()
    described = {
        (type_, pointer)
        for type_, kind in FACT_TYPES.items()
        for pointer in free_texts(schemas, schemas[kind.data.__name__], "/data")
    }
    assert described == set(CASES)


def test_each_text_of_a_command_has_the_pattern_of_its_characters(edge: Edge) -> None:
    document = edge.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    found = {
        (method, path, pointer)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if path != "/v1/facts"
        for body in operation.get("requestBody", {}).get("content", {}).values()
        for pointer in free_texts(schemas, body["schema"], "")
    }
    assert found == {(method, path, f"/{field}") for method, path, _, field in COMMANDS}


def free_texts(schemas: Any, schema: Any, pointer: str) -> Iterator[str]:
    """The pointers to all texts of a schema; fails for a text without any rule.

    An error's message is a part of the run's payload, as its output, and may be any text. The words
    of a filter are compared alone, as those of a query.
    """
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for part in schema.get("anyOf", ()):
        yield from free_texts(schemas, part, pointer)
    if "items" in schema:
        yield from free_texts(schemas, schema["items"], f"{pointer}/0")
    for name, field in schema.get("properties", {}).items():
        yield from free_texts(schemas, field, f"{pointer}/{name}")
    is_free = pointer == "/data/error/message" or pointer.startswith("/filter/")
    is_text = schema.get("type") == "string" and not schema.keys() & {"enum", "const", "format"}
    if is_text and not is_free:
        assert "pattern" in schema, pointer
        if schema["pattern"].startswith("^[^"):
            yield pointer


def audited(edge: Edge, token: str) -> list[dict[str, Any]]:
    """The entries of all refusals of the organization."""
    parameters = {"organization_id": ORGANIZATION, "outcome": "refused"}
    answer = edge.get("/v1/audit-logs/export", token, params=parameters)
    return [json.loads(entry) for entry in answer.text.splitlines()]


@pytest.mark.parametrize("name", ["id", "source", "actorid"])
def test_a_fact_with_a_control_character_in_an_attribute_is_refused_and_not_stored(
    edge: Edge, line: str, name: str
) -> None:
    token = edge.token("write", "audit:read")
    events = [
        fact("execution.checked_in", line, {}, actortype="user", actorid="USR-1")
        | {name: f"a{character}b"}
        for character in CHARACTERS
    ]
    before = edge.log()
    items = edge.send_batch(*events, token=token).json()["data"]
    assert {item["error"]["status"] for item in items} == {422}
    assert {error["pointer"] for item in items for error in item["error"]["errors"]} == {f"/{name}"}
    assert edge.log() == before
    entries = audited(edge, token)
    assert len(entries) >= len(events)
    assert all(entry["actor"]["id"].isprintable() for entry in entries)
    facts = [entry["fact"] for entry in entries if entry["fact"] is not None]
    assert all(one["id"].isprintable() and one["source"].isprintable() for one in facts)


def test_the_unknown_type_of_a_refused_fact_is_not_stored_with_its_control_characters(
    edge: Edge,
) -> None:
    token = edge.token("write", "audit:read")
    answer = edge.send(fact("\x1b[2J", None), token)
    assert_problem(answer, 422, "invalid_request")
    entry = audited(edge, token)[-1]
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert entry["action"].isprintable()


def test_texts_of_all_scripts_are_accepted_and_tabs_and_line_ends_in_reasons_and_notes(
    edge: Edge, line: str
) -> None:
    lines = "first\tline\r\nsecond\n"
    data = {"blocker_id": HARMLESS, "cause": "approval_gap", "reason": lines}
    free = {"\x1b": ["\u202e\x01", lines]}
    coloured = "\x1b[31mnot found\x1b[0m\n"
    begins = {"service_line_id": line, "input": free, "external_id": HARMLESS}
    signal = {"signal": "sla_compliance", "status": "red", "value": free, "evidence": free}
    failure = {"external_id": HARMLESS, "error": {"message": coloured}, "output": free}
    (begun, *_) = edge.accept(
        fact("run.started", None, begins),
        fact("execution.blocked", line, data, id=HARMLESS, source=HARMLESS),
        fact("execution.checked_in", line, {"note": lines}),
        fact("health.signal_reported", line, signal),
        fact("run.failed", None, failure),
    )
    run = edge.data(f"/v1/runs/{begun['subject']}")
    assert (run["input"], run["output"], run["error"]["message"]) == (free, free, coloured)


@pytest.fixture(scope="module")
def ids(edge: Edge) -> dict[str, str]:
    """The ids of a line, a run, a key and an endpoint of one organization."""
    line = edge.fresh()
    token = edge.token("admin", organization_id=None)
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    made = [
        edge.post(
            path, token, headers=PLAIN, content=dumps(body | {"organization_id": ORGANIZATION})
        )
        for path, body in (COMMANDS[3][1:3], COMMANDS[5][1:3], COMMANDS[9][1:3])
    ]
    key, endpoint, statement = (answer.json()["data"]["id"] for answer in made)
    return {
        "line_id": line,
        "run_id": run["subject"],
        "key_id": key,
        "endpoint_id": endpoint,
        "statement_id": statement,
        "watch_id": create_watch(edge, token, organization_id=ORGANIZATION)["id"],
        "alert_id": watched(edge, token, line, organization_id=ORGANIZATION)[1],
    }


def _at(field: str, text: str) -> dict[str, Any]:
    """A body with a text at this place."""
    name, *within = field.split("/")
    return {name: {within[0]: [text]} if within else text}


OF_COMMANDS = [(*command, CHARACTERS[number % 8 :: 8]) for number, command in enumerate(COMMANDS)]
OF_COMMANDS = repeated([*OF_COMMANDS, *((*each, CHARACTERS) for each in COMMANDS)], len(COMMANDS))
"""Each command with an eighth of the characters; all of them under ``make soak``."""


@pytest.mark.parametrize(("method", "path", "body", "field", "characters"), OF_COMMANDS)
def test_a_command_with_a_control_character_in_its_text_is_refused(
    edge: Edge,
    ids: dict[str, str],
    method: str,
    path: str,
    body: dict[str, Any],
    field: str,
    characters: list[str],
) -> None:
    token = edge.token("admin", organization_id=None)
    for character in characters:
        if field in OF_LINES and character in LINE_ENDS:
            continue
        content = dumps(body | _at(field, f"a{character}b"))
        answer = edge.request(
            method.upper(), path.format(**ids), token, headers=PLAIN, content=content
        )
        problem = assert_problem(answer, 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [f"/{field}"], ascii(character)
