"""The published event types: an event fits the JSON Schema of its type alone (contract, Feeds)."""

import copy
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import jsonschema_rs
import pytest

from ledger.features.feed.published import PUBLISHED, TYPES
from ledger.features.feed.routes.event_types import component_of
from tests.support.edge import Edge, assert_problem
from tests.support.fact_samples import FULL, ON_OPEN_LINES
from tests.support.facts import fact
from tests.support.random_life import Life
from tests.support.statements import tenant_of

Event = dict[str, Any]
Path = tuple[str | int, ...]

ANYTHING = {("payload", "value"), ("payload", "evidence")}
"""Places where the reporter of a health signal may send any JSON."""

MISFIT: Event = {"?": 1}
"""A value that fits no field of an event."""


@pytest.fixture(scope="module")
def events(edge: Edge) -> list[Event]:
    """All events of a feed that has every type of lines and runs, except ``run.erased``."""
    lives = [Life(edge, seed) for seed in (2, 3)]
    for life in lives:
        life.live(60)
        life.close()
    line = edge.fresh(
        resources=[{"id": "r", "type": "person", "allocated_hours_per_week": 12.5}],
        project_tags=["a", "ü"],
    )
    signal = {"signal": "sla_compliance", "value": 0.7, "evidence": {"deep": [None, {"x": []}]}}
    edge.accept(
        fact("health.signal_reported", line, signal | {"status": "amber"}),
        fact("run.requested", None, {"service_line_id": line,
             "triggered_by": {"type": "user", "actor_id": "USR-1"}}),
        *(fact(type, line, data) for type, data in ON_OPEN_LINES.items()),
        fact("directory.named", "WS-26-000001", {"name": "Core"}),
    )  # fmt: skip
    until = (edge.clock.now + timedelta(days=1)).isoformat()
    for body in ({"reason": "r"}, {"reason": "r", "until": until, "replace": True}):
        assert edge.post(f"/v1/execution/{line}/pause", json=body).status_code == 200
    found: list[Event] = []
    params: dict[str, Any] = {"limit": 100}
    while True:
        page = edge.get("/v1/events", params=params).json()
        found += page["data"]
        if not page["meta"]["has_more"]:
            return found
        params["cursor"] = page["meta"]["cursor"]


@pytest.fixture(scope="module")
def validators(edge: Edge) -> dict[str, Any]:
    return {type_: validator(edge, type_) for type_ in TYPES}


def schema_of(edge: Edge, type_: str) -> dict[str, Any]:
    answer = edge.get(f"/v1/event-types/{type_}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/schema+json"
    schema: dict[str, Any] = answer.json()
    jsonschema_rs.meta.validate(schema)
    return schema


def closed(schema: Any) -> Any:
    """A copy of a schema that accepts only the fields that it names."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(part) for name, part in schema.items()}
    return inner | {"additionalProperties": False} if "properties" in schema else inner


def validator(edge: Edge, type_: str) -> Any:
    """A validator that accepts exactly the fields of today."""
    return jsonschema_rs.validator_for(closed(schema_of(edge, type_)), validate_formats=True)


def examples(events: list[Event]) -> dict[str, Event]:
    """For each type, the event with the longest payload."""
    longest: dict[str, Event] = {}
    for event in events:
        longest_one = longest.setdefault(event["type"], event)
        if len(json.dumps(event["payload"])) > len(json.dumps(longest_one["payload"])):
            longest[event["type"]] = event
    return longest


def test_every_event_fits_the_schema_of_its_type_and_no_other_schema(
    events: list[Event], validators: dict[str, Any]
) -> None:
    others = {
        "webhook.delivery_failed", "run.erased", "statement.issued", "statement.withdrawn",
        "alert.opened", "alert.reminded", "alert.acknowledged", "alert.resolved",
    }  # fmt: skip
    others |= {published.name for kind, published in PUBLISHED.items() if kind not in FULL}
    assert TYPES.keys() ^ {event["type"] for event in events} == others, (
        "`events` reports each fact about a line by the sample of its event. Report others there."
    )
    for event in events:
        validators[event["type"]].validate(event)
    for type_, event in examples(events).items():
        fitting = {name for name, check in validators.items() if check.is_valid(event)}
        assert fitting == {type_}


def value_paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every place in a value that a schema constrains."""
    if path in ANYTHING:
        return
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from value_paths(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from value_paths(inner, (*path, index))


def at(event: Event, path: Path) -> Any:
    inner: Any = event
    for part in path:
        inner = inner[part]
    return inner


def test_an_event_with_a_changed_missing_or_additional_field_does_not_fit(
    events: list[Event], validators: dict[str, Any]
) -> None:
    tried = 0
    for type_, event in examples(events).items():
        for path in value_paths(event):
            changed = copy.deepcopy(event)
            at(changed, path[:-1])[path[-1]] = MISFIT
            assert not validators[type_].is_valid(changed), (type_, path)
            missing = copy.deepcopy(event)
            if isinstance(path[-1], str):
                del at(missing, path[:-1])[path[-1]]
                assert not validators[type_].is_valid(missing), (type_, path)
            tried += 1
        for path in ((), *value_paths(event)):
            if isinstance(at(event, path), dict):
                more = copy.deepcopy(event)
                at(more, path)["additional"] = None
                assert not validators[type_].is_valid(more), (type_, path)
    assert tried > 300


def test_schemas_accept_fields_that_webhooks_and_later_versions_add(
    edge: Edge, events: list[Event]
) -> None:
    for type_, event in examples(events).items():
        check = jsonschema_rs.validator_for(schema_of(edge, type_))
        check.validate(event | {"sequence": 1})
        for path in ((), *value_paths(event)):
            if isinstance(at(event, path), dict):
                more = copy.deepcopy(event)
                at(more, path)["additional"] = None
                check.validate(more)


WRONG: list[tuple[Path, Any]] = [
    (("id",), "EVT-26-1"), (("id",), "AUD-26-000001"), (("type",), "run.praised"),
    (("occurred_at",), "yesterday"), (("recorded_at",), "2026-04-15"), (("position",), "5"),
    (("position",), 1.5), (("actor", "type"), "nobody"), (("actor",), None),
    (("reported_by",), None), (("subject",), None), (("organization_id",), None),
    (("payload",), None), (("payload", "state_after"), "asleep"),
    (("payload", "state_after"), None),
    (("payload", "cause"), "weather"), (("payload", "reason"), 5),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_an_event_with_a_wrong_value_does_not_fit(
    events: list[Event], validators: dict[str, Any], path: Path, value: Any
) -> None:
    event = copy.deepcopy(examples(events)["execution.blocked"])
    at(event, path[:-1])[path[-1]] = value
    assert not validators["execution.blocked"].is_valid(event)


def test_a_failed_delivery_fits_its_schema(validators: dict[str, Any], events: list[Event]) -> None:
    payload = {
        "event_id": "EVT-26-000001", "sequence": 7, "attempts": 5, "response_status": None,
        "error": "timed out",
    }  # fmt: skip
    subject = {"type": "webhook", "id": "WHK-26-000001"}
    failed = events[0] | {"type": "webhook.delivery_failed", "payload": payload, "subject": subject}
    check = validators["webhook.delivery_failed"]
    check.validate(failed | {"service_line_id": None, "workspace_id": None})
    assert not check.is_valid(failed | {"payload": payload | {"sequence": None}})


def test_the_events_of_statements_fit_their_schemas(edge: Edge, validators: dict[str, Any]) -> None:
    tenant = tenant_of(edge)
    tenant.withdraw(tenant.issued(note="As agreed")["id"])
    issued, withdrawn = edge.data("/v1/events", tenant.token)[-2:]
    for event, other in ((issued, withdrawn), (withdrawn, issued)):
        validators[event["type"]].validate(event)
        assert not validators[other["type"]].is_valid(event)
    assert not validators["statement.issued"].is_valid(
        issued | {"payload": issued["payload"] | {"as_of": "yesterday"}}
    )


def test_the_list_has_every_type_with_the_path_of_its_schema(edge: Edge) -> None:
    listed = edge.data("/v1/event-types")
    assert [item["type"] for item in listed] == list(TYPES)
    for item in listed:
        assert set(item) == {"type", "version", "description", "schema"}
        assert item["description"].endswith(".")
        assert edge.get(item["schema"]).json()["$id"] == item["schema"]


CONTRACT = {
    "execution.started", "execution.paused", "execution.resumed", "execution.blocked",
    "execution.unblocked", "execution.idle", "execution.active", "execution.closed",
    "execution.updated", "execution.checked_in", "execution.check_in_voided",
    "resource.allocated", "resource.released", "health.changed", "run.requested", "run.started",
    "run.completed", "run.failed", "run.cancelled", "webhook.delivery_failed",
}  # fmt: skip


def test_all_event_types_of_the_contract_are_published(edge: Edge) -> None:
    assert {item["type"] for item in edge.data("/v1/event-types")} >= CONTRACT


@pytest.mark.parametrize("type_", ["run.praised", "health.signal_reported", "RUN.started", "%00"])
def test_an_unknown_type_is_a_404(edge: Edge, type_: str) -> None:
    assert_problem(edge.get(f"/v1/event-types/{type_}"), 404, "not_found")


def test_the_openapi_document_holds_the_same_schemas(edge: Edge, events: list[Event]) -> None:
    document = edge.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    items = schemas["EventPage"]["properties"]["data"]["items"]
    event_schema = schemas["Event"] if items == {"$ref": "#/components/schemas/Event"} else items
    named = {component_of(type_): type_ for type_ in TYPES}
    assert {ref["$ref"].rsplit("/", 1)[-1] for ref in event_schema["oneOf"]} == named.keys()
    assert schemas["EventAnswer"]["properties"]["data"] == items
    for type_, event in examples(events).items():
        schema = {"$ref": f"#/components/schemas/{component_of(type_)}"}
        check = jsonschema_rs.validator_for({**schema, "components": {"schemas": schemas}})
        check.validate(event)
        assert not check.is_valid(event | {"position": "first"})
    page = {"$ref": "#/components/schemas/EventPage", "components": {"schemas": schemas}}
    answer = edge.get("/v1/events?limit=100").json()
    jsonschema_rs.validator_for(page).validate(answer)
