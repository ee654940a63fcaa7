"""The OpenAPI document lists what is served; schemathesis checks the service against it."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from projections.directory.search.words import sought
from tests.support.conformance import BASE, InProcess, accepted_but_for_state
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, fact
from tests.support.sealing import seal
from tests.support.soak import repeated
from tests.whole.test_every_route import ROUTES

FOR_ANY_CREDENTIAL = {
    "/v1/log/checkpoint", "/v1/log/key", "/v1/log/proof/consistency", "/v1/credential",
}  # fmt: skip
OF_BATCHES = ("/v1/facts/batch", "/v1/otlp/v1/traces")
OF_ITEMS = {"404", "409"}
"""The refusals that a batch of facts or spans reports only for its items."""
METHODS = {"get", "post", "put", "patch", "delete"}


# The document.


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in item.keys() & METHODS:
            yield path, method, item[method]


def test_every_served_route_is_listed(edge: Edge, document: dict[str, Any]) -> None:
    served = {
        (route.path, method.lower())
        for route in _routes(edge.service.app.routes)
        for method in route.methods - {"HEAD"}
    }
    # Pages are no part of the API: the document itself, its viewer, and all paths below /ui.
    pages = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/", "/ui"}
    listed = {(path, method) for path, method, _ in operations(document)}
    assert {key for key in served if key[0] not in pages and key[0][:4] != "/ui/"} == listed


def _routes(routes: Any) -> Iterator[Any]:
    """The routes, those of included routers too."""
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "routes", None)
        if hasattr(route, "methods"):
            yield route
        elif inner is not None:
            yield from _routes(getattr(inner, "routes", inner))


def test_the_document_uses_no_keyword_that_its_openapi_version_lacks(
    document: dict[str, Any],
) -> None:
    # `itemSchema` belongs to OpenAPI 3.2: validators refuse a document of 3.1 that has it.
    assert document["openapi"].startswith("3.1.")
    for path, _, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for kind in (kind for body in bodies for kind in body.get("content", {}).values()):
            assert kind.keys() <= {"schema", "example", "examples", "encoding"}, path


def test_each_schema_has_a_title_of_its_own(document: dict[str, Any]) -> None:
    # Generators drop a class whose name another class has: clients lacked the feed and the facts.
    schemas = document["components"]["schemas"]
    assert {name: schema["title"] for name, schema in schemas.items()} == {n: n for n in schemas}
    for union in ("Fact", "Event"):
        mapping = schemas[union]["discriminator"]["mapping"]
        assert [part["$ref"] for part in schemas[union]["oneOf"]] == list(mapping.values())
        for type_, reference in mapping.items():
            schema = schemas[reference.removeprefix("#/components/schemas/")]
            assert schema["properties"]["type"]["const"] == type_
            assert not schema.keys() & {"anyOf", "oneOf", "allOf"}


def test_every_operation_with_a_token_documents_its_refusals(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        if not path.startswith("/v1"):
            continue
        assert operation["security"] != []
        statuses = set(operation["responses"])
        expected = {"401", "422", "503"}
        if path not in FOR_ANY_CREDENTIAL:
            expected |= {"403"}
        if "{" in path:
            expected |= {"404"}
        if method == "post" and "requestBody" in operation:
            expected |= {"400", "404", "408", "409", "413", "415"}
        if path in OF_BATCHES:
            expected -= OF_ITEMS
        assert statuses >= expected, (path, expected - statuses)
        for status, response in operation["responses"].items():
            if status >= "400":
                problem = resolved(document, response)
                assert list(problem["content"]) == ["application/problem+json"]


def resolved(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The part itself, or the component to which it refers."""
    reference = part.get("$ref")
    if reference is None:
        return part
    _, _, kind, name = reference.split("/")
    component: dict[str, Any] = document["components"][kind][name]
    return component


def test_the_details_document_304(document: dict[str, Any]) -> None:
    lists = ("/v1/execution/{line_id}/runs", "/v1/runs")
    for path in ("/v1/execution/{line_id}", *lists, "/v1/runs/{run_id}"):
        assert "304" in document["paths"][path]["get"]["responses"]


def test_readyz_documents_200_and_503(document: dict[str, Any]) -> None:
    responses = document["paths"]["/readyz"]["get"]["responses"]
    assert set(responses) == {"200", "400", "503"}
    assert list(responses["503"]["content"]) == ["application/json"]


def test_facts_are_documented_under_one_content_type(document: dict[str, Any]) -> None:
    # Generators fail at a route whose content types have bodies of different shapes.
    content = document["paths"]["/v1/facts"]["post"]["requestBody"]["content"]
    assert list(content) == ["application/json"]


ACCEPTED: list[dict[str, Any]] = [
    {},
    {"time": None, "actortype": None, "actorid": None, "datacontenttype": None},
    {"actorid": None},
    {"actortype": "user", "actorid": "U", "datacontenttype": "Application/JSON; charset=utf-8"},
    {"datacontenttype": "application/vnd.example+json"},
]
REFUSED: list[dict[str, Any]] = [
    {"traceParent": "x"},
    {"data_base64": "e30="},
    {"actortype": "user"},
    {"actortype": "user", "actorid": None},
    {"actorid": "U"},
    {"datacontenttype": "application/xml"},
    {"subject": None},
    {"data": {"x": 1}},
    {"data": 1},
]


@pytest.fixture(scope="module")
def body_of_facts(document: dict[str, Any]) -> Any:
    """A validator of the document's schema for facts."""
    content = document["paths"]["/v1/facts"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    return jsonschema_rs.validator_for({**schema, "components": document["components"]})


@pytest.mark.parametrize("more", ACCEPTED, ids=str)
def test_the_document_allows_the_facts_that_the_service_accepts(
    edge: Edge, body_of_facts: Any, more: dict[str, Any]
) -> None:
    line = edge.fresh()
    run = edge.accept(fact("run.started", None, {"service_line_id": line}))[0]["subject"]
    for event in (
        fact("service_line.paused", line),
        fact("service_line.resumed", line, {"reason": None}),
        fact("run.requested", None, {"service_line_id": line}) | {"subject": None},
        fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"}),
        fact("run.completed", run),
        fact("execution.checked_in", line, {"hours": 1.25}),
    ):
        whole = event | more
        without = {k: v for k, v in whole.items() if k != "data"} | {"id": event["id"] + "-without"}
        empty = without | {"data": None, "id": event["id"] + "-empty"}
        for sent in (whole, without, empty):
            is_fact = edge.send(sent).status_code != 422
            assert is_fact == body_of_facts.is_valid(sent), sent
            assert is_fact or sent is not whole


def test_the_service_accepts_extension_attributes_that_the_document_does_not_name(
    edge: Edge, body_of_facts: Any
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = fact("service_line.paused", edge.fresh()) | {"traceparent": trace, "x1": 5}
    assert edge.send(event).status_code == 201
    assert not body_of_facts.is_valid(event)


@pytest.mark.parametrize("more", REFUSED, ids=str)
def test_the_document_forbids_the_facts_that_the_service_finds_malformed(
    edge: Edge, body_of_facts: Any, more: dict[str, Any]
) -> None:
    event = fact("service_line.paused", edge.fresh()) | more
    assert_problem(edge.send(event), 422, "invalid_request")
    assert not body_of_facts.is_valid(event)


@pytest.mark.parametrize("actor", [{}, {"actortype": "user", "actorid": "U"}], ids=str)
@pytest.mark.parametrize("data", [None, {}, {"external_id": None}, {"external_id": "n"}], ids=str)
def test_the_document_forbids_an_ending_that_names_no_run(
    edge: Edge, body_of_facts: Any, data: dict[str, Any] | None, actor: dict[str, Any]
) -> None:
    event = fact("run.completed", None) | {"data": data} | actor
    is_named = data == {"external_id": "n"}
    assert edge.send(event).status_code == (404 if is_named else 422)
    assert body_of_facts.is_valid(event) == is_named


@pytest.mark.parametrize("tokens", [None, 5], ids=str)
def test_the_document_forbids_a_correction_of_nothing(
    edge: Edge, body_of_facts: Any, tokens: int | None
) -> None:
    started = fact("run.started", None, {"service_line_id": edge.fresh()})
    (run,) = edge.accept(started)
    event = fact("run.usage_corrected", run["subject"], {"reason": "r", "tokens_used": tokens})
    assert (edge.send(event).status_code != 422) == body_of_facts.is_valid(event) == bool(tokens)


WATCH = {
    "name": "n", "condition": {"kind": "in_state", "states": ["idle"]}, "for_seconds": 0,
    "organization_id": ORGANIZATION,
}  # fmt: skip
ENDPOINT = {
    "url": "https://1.1.1.1/", "event_types": ["alert.opened"], "organization_id": ORGANIZATION,
}  # fmt: skip
PAGERDUTY = {"format": "pagerduty", "event_types": ["alert.opened"]}
OWN = {"organization_id": ORGANIZATION}


@pytest.mark.parametrize(
    ("path", "body", "is_accepted"),
    [
        ("/v1/watches", WATCH | {"remind_seconds": 0}, True),
        ("/v1/watches", WATCH | {"remind_seconds": 299}, False),
        ("/v1/watches", WATCH | {"remind_seconds": 300}, True),
        ("/v1/webhooks", ENDPOINT, True),
        ("/v1/webhooks", ENDPOINT | {"routing_key": "k"}, False),
        ("/v1/webhooks", PAGERDUTY | OWN | {"routing_key": "k"}, True),
        ("/v1/webhooks", PAGERDUTY | OWN, False),
    ],
    ids=str,
)
def test_the_document_has_the_rules_between_fields(
    edge: Edge, document: dict[str, Any], path: str, body: dict[str, Any], is_accepted: bool
) -> None:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": document["components"]}
    assert edge.post(path, json=body).status_code == (201 if is_accepted else 422)
    assert jsonschema_rs.is_valid(whole, body) == is_accepted


def test_the_problem_schema_fits_the_problems(edge: Edge, document: dict[str, Any]) -> None:
    properties = set(document["components"]["schemas"]["Problem"]["properties"])
    problem = assert_problem(edge.get("/v1/execution?limit=0"), 422, "invalid_request")
    assert set(problem) <= properties


def test_the_document_has_exactly_the_documented_parameters(document: dict[str, Any]) -> None:
    names = {
        parameter["name"]
        for _, _, operation in operations(document)
        for parameter in operation.get("parameters", [])
    }
    assert names == {
        "workspace_id", "state", "execution_model", "product_line", "project_tag",
        "blocked_cause", "cursor", "limit", "status", "triggered_by", "from", "to", "line_id",
        "run_id", "as_of", "Ledger-Min-Position", "Idempotency-Key", "organization_id",
        "service_line_id", "type", "after", "event_id", "actor_id", "actor_type", "action",
        "outcome", "endpoint_id", "format", "Last-Event-ID", "position", "size", "If-None-Match",
        "external_id", "parent_run_id", "q", "health", "resource_id", "sort", "key_id",
        "assignee", "unassigned", "overdue", "time_zone", "recorded_after", "recorded_until",
        "occurred_from", "occurred_to", "group_by", "then", "now", "statement_id", "has_alerts",
        "watch_id", "alert_id", "session_id", "severity",
    }  # fmt: skip


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    assert [
        (method, path, parameter["name"])
        for path, method, operation in operations(document)
        for parameter in operation.get("parameters", [])
        if not parameter.get("description")
    ] == []


# The service against its document.


@pytest.fixture(scope="module")
def schema(edge: Edge, document: dict[str, Any], tmp_path_factory: Any) -> Any:
    line = edge.fresh()
    edge.accept(fact("run.started", None, {"service_line_id": line}))
    seal(edge.conninfo, tmp_path_factory.mktemp("sealed"))
    # test_access checks permissions. Here each request has a token, whatever is generated.
    open_document = json.loads(json.dumps(document))
    for _, _, operation in operations(open_document):
        operation.pop("security", None)
    return schemathesis.openapi.from_dict(open_document)


@pytest.fixture(scope="module")
def session(edge: Edge) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.mount(BASE, InProcess(edge))
        session.headers["authorization"] = edge.service.http.headers["authorization"]
        yield session


load_all_checks()
EXCLUDED = {
    # Of our own, `accepted_but_for_state` tells what the state decides from what the form decides.
    "positive_data_acceptance",
    # Every request has a token here; test_access sends requests without a token.
    "ignored_auth",
    # The check sends its own requests, without our session; test_every_answer tests 405.
    "unsupported_method",
}
BATCHED = "negative_data_rejection"
"""Excluded for facts: a batch of wrong facts is a 200, with a refusal for each item."""

BEYOND = "not_a_server_error"
"""Excluded for proofs and leaves: those of events that are not sealed yet are a rightful 503."""

STREAM = ("get", "/v1/events/stream")  # an endless answer, which test_stream reads
OPERATIONS = [
    *(("get", path) for path in ("/healthz", "/readyz", "/metrics")),
    *((method.lower(), route.path) for route in ROUTES for method in route.methods),
]
OPERATIONS.remove(STREAM)


def test_every_documented_operation_has_generated_cases(document: dict[str, Any]) -> None:
    listed = {(method, path) for path, method, _ in operations(document)}
    assert listed == {*OPERATIONS, STREAM}


WITHOUT_INVALID_INPUT = {
    ("get", "/v1/event-types"),
    ("get", "/v1/event-types/{type}"),
    ("delete", "/v1/webhooks/{endpoint_id}"),
    ("delete", "/v1/keys/{key_id}"),
    ("delete", "/v1/watches/{watch_id}"),
    ("delete", "/v1/sessions/{session_id}"),
    ("post", "/v1/runs/{run_id}/heartbeat"),
    ("get", "/v1/log/checkpoint"),
    ("get", "/v1/log/key"),
}

CASES = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE
    or (path.startswith("/v1") and (method, path) not in WITHOUT_INVALID_INPUT)
]
ALWAYS = [(*case, 2) for case in CASES[::2]]
"""One of the two modes of an operation, with the number of examples."""


def case_id(value: Any) -> str:
    return value.value if isinstance(value, GenerationMode) else str(value)


def has_empty_words(sent: Any) -> bool:
    """True if a list of words, of a query, has an empty one among others."""
    words = sent.split(",") if isinstance(sent, str) else sent
    return isinstance(words, list) and len(words) > 1 and "" in words


@pytest.mark.parametrize(
    ("method", "path", "mode", "examples"),
    repeated([*ALWAYS, *((*case, 8) for case in CASES)], len(ALWAYS)),
    ids=case_id,
)
def test_the_service_conforms_to_its_document(
    schema: Any,
    session: requests.Session,
    method: str,
    path: str,
    mode: GenerationMode,
    examples: int,
) -> None:
    operation = schema[path][method]
    excluded = EXCLUDED | ({BATCHED} if path.startswith("/v1/facts") else set())
    if path.startswith(("/v1/log/proof", "/v1/log/entries")):
        excluded |= {BEYOND}
    names = [name for name in CHECKS.get_all_names() if name not in excluded]
    checks = [*CHECKS.get_by_names(names), accepted_but_for_state]

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        # An empty word among others finds nothing, and is not refused; alone it is refused.
        assume(not any(has_empty_words(sent) for sent in case.query.values()))
        # A pattern in the document for usable words would forbid words that the service takes.
        is_search = path == "/v1/search" and mode is GenerationMode.POSITIVE
        assume(not is_search or sought(case.query["q"]) is not None)
        # A position that no view will reach costs 2 s and is a rightful 503.
        case.headers.pop("Ledger-Min-Position", None)
        case.call_and_validate(base_url=BASE, session=session, checks=checks)

    holds()
