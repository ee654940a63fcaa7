"""The form of the OpenAPI document, on which generators of clients rely (contract, Access).

The rules hold for every route. A new route that breaks one is named here, or the document is not
made at all and the error says what to do (``ledger/engine/http/document``).
"""

import builtins
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from ledger.engine.http.document.schemas import _NAMED
from ledger.engine.http.lean import Router
from projections.lines.shown import LineDetail, ShownLine
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact

VERBS = {
    "acknowledge", "check", "create", "delete", "end", "erase", "export", "issue", "list", "pause",
    "preview", "prove", "recover",
    "report", "resume", "revoke", "rotate", "search", "send", "show", "stream", "summarize",
    "update", "withdraw",
}  # fmt: skip
WITHOUT_TOKEN = {"/healthz", "/readyz", "/metrics"}
SCHEMAS = "#/components/schemas/"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def parameters(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, method, operation in operations(document):
        for parameter in operation.get("parameters", []):
            yield f"{method} {path} {parameter['name']}", parameter


def parts(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object within a part of the document, with its place."""
    if isinstance(part, dict):
        yield path, part
    entries = part.items() if isinstance(part, dict) else enumerate(part)
    for name, value in entries:
        if isinstance(value, dict | list) and name not in ("example", "examples", "value"):
            yield from parts(value, f"{path}/{name}")


def reached(document: dict[str, Any], *roots: Any) -> set[str]:
    """The schemas to which parts of the document lead, by name."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        for _, part in parts(waiting.pop()):
            reference = part.get("$ref", "")
            name = reference.rpartition("/")[2]
            if isinstance(reference, str) and reference.startswith("#/") and name not in found:
                kind = reference.split("/")[2]
                waiting.append(document["components"][kind][name])
                if kind == "schemas":
                    found.add(name)
    return found


@pytest.fixture(scope="module")
def sent(document: dict[str, Any]) -> set[str]:
    """The schemas of requests."""
    return reached(
        document,
        *(operation.get("requestBody", {}) for _, _, operation in operations(document)),
        *(parameter for _, parameter in parameters(document)),
    )


@pytest.fixture(scope="module")
def answered(document: dict[str, Any]) -> set[str]:
    return reached(document, *(o["responses"] for _, _, o in operations(document)))


# Names.


def test_operations_are_named_by_a_verb_and_a_noun_each_once(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []
    assert {name for name in names if name.partition("_")[0] not in VERBS} == set()
    assert [name for name, times in Counter(names).items() if times > 1] == []


def test_each_body_is_a_component_with_an_example(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for media, body in operation.get("requestBody", {}).get("content", {}).items():
            assert media == "application/json"
            whole = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
            is_needed = "required" in whole or whole.get("minProperties", 0) > 0
            assert operation["requestBody"]["required"] or not is_needed, (method, path)
            assert list(body["schema"]) == ["$ref"], (method, path)
            schema = {**body["schema"], "components": document["components"]}
            examples = [each["value"] for each in body.get("examples", {}).values()]
            examples += [body["example"]] if "example" in body else []
            assert examples != [], (method, path)
            for example in examples:
                jsonschema_rs.validator_for(schema).validate(example)


def test_each_enumeration_is_one_component(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    inline = {
        path
        for kind in ("paths", "components")
        for path, part in parts(document[kind], kind)
        if isinstance(part.get("enum"), list)
        and not re.fullmatch("components/schemas/[^/]+", path)
        and len(part["enum"]) > 1
    }
    assert inline == set()
    words = [frozenset(schema["enum"]) for schema in schemas.values() if "enum" in schema]
    assert len(set(words)) == len(words) > 10


def test_the_names_that_are_given_to_schemas_are_those_of_schemas(
    edge: Edge, document: dict[str, Any]
) -> None:
    routers: list[Router] = edge.service.app.routers
    named = {name for router in routers for name in (*router.words, *router.unions.values())}
    assert len(named) > 10
    assert {*_NAMED, *named} - document["components"]["schemas"].keys() == set()


def test_no_schema_is_called_as_a_built_in_word_of_python(document: dict[str, Any]) -> None:
    names = {name.lower() for name in document["components"]["schemas"]}
    assert names & {word.lower() for word in dir(builtins)} == set()


def test_no_two_schemas_mean_the_same(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    meanings = Counter(str(sorted({**schema, "title": ""}.items())) for schema in schemas.values())
    assert [meaning for meaning, times in meanings.items() if times > 1] == []


def test_alternatives_that_a_field_tells_apart_are_components(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    found = {
        path.removeprefix("/components/schemas/")
        for path, part in parts(document)
        if "discriminator" in part and "propertyName" in part["discriminator"]
    }
    assert found == {"Condition", "ConditionToWatch", "Event", "Fact"}
    for name in found:
        field = schemas[name]["discriminator"]["propertyName"]
        for word, path in schemas[name]["discriminator"]["mapping"].items():
            mapped = schemas[path.removeprefix(SCHEMAS)]["properties"][field]
            assert mapped == {"type": "string", "const": word, "enum": [word]}, path


def test_generators_find_neither_negations_nor_words_without_a_type(
    document: dict[str, Any],
) -> None:
    everything = dict(parts(document))
    assert [path for path, part in everything.items() if "not" in part] == []
    words = {path: part for path, part in everything.items() if "const" in part}
    assert len(words) > 100
    assert [path for path, part in words.items() if part.get("type") != "string"] == []


def test_each_problem_and_header_is_one_component(document: dict[str, Any]) -> None:
    kinds = {}
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            if status >= "400" and path not in WITHOUT_TOKEN:
                kinds[status] = response["$ref"]
                assert list(response) == ["$ref"], (method, path, status)
            for header in response.get("headers", {}).values():
                assert list(header) == ["$ref"]
    assert len(kinds) == len(set(kinds.values())) == 11


def test_every_component_is_used(document: dict[str, Any]) -> None:
    used = reached(document, document["paths"], document["webhooks"])
    assert document["components"]["schemas"].keys() == used


# About the service.


def delivered(document: dict[str, Any]) -> dict[str, Any]:
    """The request that endpoints of webhooks receive."""
    assert document["webhooks"] == {"event": {"$ref": "#/components/pathItems/Delivery"}}
    (item,) = document["components"]["pathItems"].values()
    found: dict[str, Any] = item
    return found


def test_the_document_tells_where_and_by_whom_the_service_is(document: dict[str, Any]) -> None:
    assert [server["url"] for server in document["servers"]] == ["/"]
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert document["info"]["contact"]["name"]
    descriptions = {tag["name"]: tag["description"] for tag in document["tags"]}
    used = {tag for _, _, operation in operations(document) for tag in operation["tags"]}
    delivery = delivered(document)
    # Generators write a file for each tag: that of a webhook would replace the routes' own.
    assert used & {*delivery["post"]["tags"]} == set()
    assert descriptions.keys() == used | {*delivery["post"]["tags"]}
    assert all(descriptions.values())


def test_only_operations_without_a_token_have_no_security(document: dict[str, Any]) -> None:
    open_paths = {path for path, _, o in operations(document) if o["security"] == []}
    assert open_paths == WITHOUT_TOKEN


def test_deliveries_are_described_as_a_webhook(document: dict[str, Any]) -> None:
    delivery = delivered(document)
    names = [parameter["name"] for parameter in delivery["post"]["parameters"]]
    assert names == ["webhook-id", "webhook-timestamp", "webhook-signature"]
    reference = delivery["post"]["requestBody"]["$ref"].rpartition("/")[2]
    body = document["components"]["requestBodies"][reference]["content"]["application/json"]
    event, number = body["schema"]["allOf"]
    assert event == {"$ref": SCHEMAS + "Event"}
    assert number["required"] == ["sequence"]


# Headers.


def headers(document: dict[str, Any], response: dict[str, Any]) -> set[str]:
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return set(response["headers"])


def test_answers_declare_their_headers(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        responses = {s: headers(document, r) for s, r in operation["responses"].items()}
        assert all({"Ledger-Position", "X-Request-Id"} <= found for found in responses.values())
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        assert ("304" in responses) == ("If-None-Match" in names)
        for status, found in responses.items():
            assert ("ETag" in found) == ("304" in responses and status in ("200", "304"))
            assert ("Retry-After" in found) == (status in ("429", "503") and "401" in responses)
            assert ("WWW-Authenticate" in found) == (status == "401")
            if status < "300":
                assert ("Idempotency-Replayed" in found) == ("Idempotency-Key" in names)


def test_answers_have_the_headers_that_the_document_declares(
    edge: Edge, document: dict[str, Any]
) -> None:
    line = edge.fresh()
    hold = f"/v1/execution/{line}/pause"
    key = {"idempotency-key": f"pause-{line}"}
    edge.post(hold, json={"reason": "r"}, headers=key)
    declared = document["paths"]
    for answer, path in (
        (edge.get(f"/v1/execution/{line}"), "/v1/execution/{line_id}"),
        (edge.post(hold, json={"reason": "r"}, headers=key), "/v1/execution/{line_id}/pause"),
        (edge.get("/v1/execution", "wrong"), "/v1/execution"),
        (
            edge.get("/v1/execution", headers={"ledger-min-position": str(2**62)}),
            "/v1/execution",
        ),
        (edge.get("/metrics"), "/metrics"),
    ):
        responses = declared[path][answer.request.method.lower()]["responses"]
        expected = headers(document, responses[str(answer.status_code)])
        assert {name for name in expected if name not in answer.headers} == set()


# Objects.


def test_bodies_accept_no_other_fields_and_answers_may_have_more(
    document: dict[str, Any], sent: set[str], answered: set[str]
) -> None:
    schemas = document["components"]["schemas"]
    objects = {name for name, schema in schemas.items() if "properties" in schema}
    assert (objects & sent) & (objects & answered) == set()
    # Of OTLP, what a receiver does not know is ignored.
    assert {n for n in objects & sent if schemas[n].get("additionalProperties") is not False} == {
        "ExportedTraces"
    }
    closed = {
        path
        for name in schemas.keys() - sent
        for path, part in parts(schemas[name], name)
        if part.get("additionalProperties") is False
    }
    assert closed == set()
    assert len(objects & sent) > 30
    assert len(objects & answered) > 50


# Parameters.


def test_no_parameter_is_null(document: dict[str, Any]) -> None:
    schemas = {path: parameter["schema"] for path, parameter in parameters(document)}
    assert {path for path, schema in schemas.items() if "null" in str(schema)} == set()
    assert {path for path, schema in schemas.items() if "anyOf" in schema} == set()


def test_a_parameter_of_several_words_is_an_array(document: dict[str, Any]) -> None:
    arrays = {}
    for path, parameter in parameters(document):
        is_array = parameter["schema"].get("type") == "array"
        assert is_array == ("A comma means or." in parameter["description"]), path
        if is_array:
            assert (parameter["style"], parameter["explode"]) == ("form", False)
            arrays[path] = parameter["schema"]["items"].get("$ref", "").removeprefix(SCHEMAS)
    assert arrays["get /v1/execution state"] == "State"
    assert arrays["get /v1/events type"] == "EventType"
    assert arrays["get /v1/execution/{line_id}/runs status"] == "RunStatus"
    assert arrays["get /v1/execution project_tag"] == ""


@pytest.mark.parametrize("sent", ["state=paused,running", "state=paused&state=running"])
def test_several_words_come_with_commas_or_repeated(edge: Edge, sent: str) -> None:
    line, other = edge.fresh(), edge.fresh()
    edge.accept(fact("service_line.paused", line), fact("service_line.closed", other))
    found = edge.data(f"/v1/execution?{sent}&limit=100")
    states = {row["service_line_id"]: row["state"] for row in found}
    assert states[line] == "paused"
    assert other not in states


@pytest.mark.parametrize("sent", ["limit=1&limit=2", "as_of=2026-04-01&as_of=2026-04-01"])
def test_a_parameter_of_one_value_is_given_once(edge: Edge, sent: str) -> None:
    assert_problem(edge.get(f"/v1/execution?{sent}"), 422, "invalid_request")


def test_a_cursor_of_the_service_has_the_documented_form(
    edge: Edge, document: dict[str, Any]
) -> None:
    edge.fresh()
    cursor = edge.get("/v1/execution?limit=1").json()["meta"]["cursor"]
    listed = document["paths"]["/v1/execution"]["get"]["parameters"]
    (schema,) = (p["schema"] for p in listed if p["name"] == "cursor")
    assert jsonschema_rs.is_valid(schema, cursor)
    assert not jsonschema_rs.is_valid(schema, "")


@pytest.mark.parametrize("words", ["a" * 2000, ",".join("a" * 1000)])
def test_a_filter_accepts_long_words_and_many(edge: Edge, words: str) -> None:
    assert edge.data("/v1/execution", params={"project_tag": words}) == []


@pytest.mark.parametrize("words", ["", "a" * 2001, ",".join("a" * 1001)])
def test_a_filter_is_not_empty_and_accepts_no_longer_or_more_words(edge: Edge, words: str) -> None:
    answer = edge.get("/v1/execution", params={"project_tag": words})
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/project_tag"]


def test_a_line_that_is_put_together_of_parts_has_the_fields_of_its_struct(edge: Edge) -> None:
    line = edge.fresh()
    assert edge.data(f"/v1/execution/{line}").keys() == set(LineDetail.__struct_fields__)
    assert edge.data("/v1/execution?limit=1")[0].keys() == set(ShownLine.__struct_fields__)
