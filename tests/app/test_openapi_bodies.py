"""The OpenAPI document's bodies: the media types of real answers, and the schemas of inputs.

Generated clients rely on both. A client parses a text as JSON if it is documented as JSON too. Its
TypeScript types require each field that has a default, `default: null` included.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, activation, encode, fact
from tests.support.sealing import seal
from tests.support.service import BATCH, STRUCTURED
from tests.support.streaming import STREAM, Listener, listening
from tests.support.visitor import Visitor
from tests.support.watches import RUNNING

METHODS = {"get", "post", "put", "patch", "delete"}
SUCCESSFUL = ("200", "201", "202")

Sent = dict[tuple[str, str, str], set[str]]
"""(method, path, status) → media types."""


class Requests:
    """Requests by the document's paths, and the media types of their answers."""

    def __init__(self, edge: Edge, **ids: Any) -> None:
        self._edge, self.ids = edge, ids
        self._admin = edge.token("admin", organization_id=None)
        self.sent: Sent = defaultdict(set)

    def ask(self, method: str, path: str, query: str = "", **options: Any) -> httpx.Response:
        """Send a request, which must succeed."""
        address = path.format(**self.ids) + (f"?{query}" if query else "")
        answer = self._edge.request(method.upper(), address, self._admin, **options)
        assert answer.status_code < 300, (address, answer.text)
        self.note(method, path, answer.status_code, answer.headers.get("content-type", ""))
        return answer

    def note(self, method: str, path: str, status: int, media: str) -> None:
        self.sent[method, path, str(status)].add(media.partition(";")[0])


@pytest.fixture(scope="module")
def sent(edge: Edge, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """The media types that every documented operation sends when it succeeds."""
    line = edge.fresh()
    (started,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    edge.accept(fact("run.completed", started["subject"]))
    folder = tmp_path_factory.mktemp("sealed")
    seal(edge.conninfo, folder)
    tenant = f"organization_id={ORGANIZATION}"
    requests = Requests(
        edge,
        line_id=line,
        run_id=started["subject"],
        event_id=started["event_ids"][0],
        type="run.started",
        position=started["position"],
    )
    reads = [
        "/v1/execution", "/v1/execution/summary", "/v1/execution/{line_id}",
        "/v1/execution/{line_id}/runs", "/v1/runs", "/v1/runs/{run_id}",
        "/v1/execution/{line_id}/history",
        "/v1/execution/{line_id}/timeline", "/v1/execution/{line_id}/usage", "/v1/events",
        "/v1/events/{event_id}", "/v1/event-types", "/v1/event-types/{type}", "/v1/log/checkpoint",
        "/v1/log/key", "/v1/log/entries/{position}", "/healthz", "/readyz", "/metrics",
    ]  # fmt: skip
    for path in reads:
        requests.ask("get", path)
    for path in ("/v1/log/proof", "/v1/log/proof/inclusion"):
        requests.ask("get", path, f"position={started['position']}")
    requests.ask("get", "/v1/log/proof/consistency", "from=1&to=2")
    requests.ask("get", "/v1/directory", "type=workspace")
    requests.ask("get", "/v1/organizations")
    requests.ask("get", "/v1/search", "q=payments")
    requests.ask("get", "/v1/audit-logs", tenant)
    requests.ask("get", "/v1/usage", f"{tenant}&group_by=service_line,day")
    requests.ask("get", "/v1/compare", f"{tenant}&then=2026-04-01")
    for format in ("jsonl", "csv"):
        requests.ask("get", "/v1/audit-logs/export", f"{tenant}&format={format}")
        requests.ask("get", "/v1/events/export", f"format={format}")
        requests.ask("get", "/v1/runs/export", f"format={format}")
        requests.ask("get", "/v1/execution/export", f"format={format}")
        requests.ask("get", "/v1/usage/export", f"{tenant}&format={format}")
        requests.ask("get", "/v1/compare/export", f"{tenant}&then=2026-04-01&format={format}")
    for command in ("pause", "resume"):
        requests.ask("post", f"/v1/execution/{{line_id}}/{command}", json={"reason": "r"})
        some = {"filter": {"service_line_id": [line]}, "organization_id": ORGANIZATION}
        requests.ask("post", f"/v1/execution/{command}", json=some | {"reason": "r"})
    requests.ask("post", "/v1/runs/{run_id}/erase", json={"reason": "r"})
    send_facts(edge, requests)
    manage_webhooks(requests)
    manage_keys(requests)
    end_sessions(edge, requests)
    issue_statements(requests)
    manage_watches(edge, requests)
    seal(edge.conninfo, folder)
    requests.ask("get", "/v1/statements/{statement_id}/bundle")
    with listening(edge) as address, Listener(address, edge.token("read")) as listener:
        media = listener.answer.headers["content-type"]
        requests.note("get", STREAM, listener.answer.status, media)
    return requests.sent


def send_facts(edge: Edge, requests: Requests) -> None:
    event = encode(activation(edge.fresh_id()))
    for _ in range(2):
        requests.ask("post", "/v1/facts", content=event, headers=STRUCTURED)
    requests.ask("post", "/v1/facts", content=b"[]", headers=BATCH)
    requests.ask("post", "/v1/facts/batch", content=b"[]", headers=BATCH)
    requests.ask("post", "/v1/otlp/v1/traces", json={"resourceSpans": []})
    requests.ask("get", "/v1/credential")
    requests.ask("get", "/v1/credential", params={"service_line_id": requests.ids["line_id"]})


def manage_webhooks(requests: Requests) -> None:
    new = {"url": "https://1.1.1.1/", "event_types": ["*"], "organization_id": ORGANIZATION}
    endpoint = requests.ask("post", "/v1/webhooks", json=new).json()["data"]
    requests.ids["endpoint_id"] = endpoint["id"]
    path = "/v1/webhooks/{endpoint_id}"
    requests.ask("get", "/v1/webhooks")
    requests.ask("get", path)
    requests.ask("patch", path, json={"description": "d"})
    for command in ("rotate-secret", "test"):
        requests.ask("post", f"{path}/{command}")
    requests.ask("post", f"{path}/recover", json={"since": "2026-04-01"})
    (test,) = requests.ask("get", f"{path}/deliveries").json()["data"]
    requests.ids["event_id"] = test["event_id"]
    requests.ask("post", f"{path}/deliveries/{{event_id}}/resend")
    requests.ask("delete", path)


def manage_keys(requests: Requests) -> None:
    new = {"permissions": ["read"], "organization_id": ORGANIZATION}
    requests.ids["key_id"] = requests.ask("post", "/v1/keys", json=new).json()["data"]["id"]
    path = "/v1/keys/{key_id}"
    requests.ask("get", "/v1/keys")
    requests.ask("get", path)
    requests.ask("patch", path, json={"name": "n"})
    requests.ask("post", f"{path}/rotate")
    requests.ask("delete", path)


def end_sessions(edge: Edge, requests: Requests) -> None:
    Visitor(edge, edge.token("read"))
    found = requests.ask("get", "/v1/sessions").json()["data"]
    requests.ids["session_id"] = found[0]["id"]
    requests.ask("delete", "/v1/sessions/{session_id}")


def issue_statements(requests: Requests) -> None:
    new = {"from": "2026-03-01", "to": "2026-04-01", "organization_id": ORGANIZATION}
    issued = requests.ask("post", "/v1/statements", json=new).json()["data"]
    requests.ids["statement_id"] = issued["id"]
    path = "/v1/statements/{statement_id}"
    requests.ask("get", "/v1/statements")
    for suffix in ("", "/export", "/changes"):
        requests.ask("get", f"{path}{suffix}")
    requests.ask("post", f"{path}/withdraw", json={"reason": "r"})


def manage_watches(edge: Edge, requests: Requests) -> None:
    some = {"condition": RUNNING, "for_seconds": 0, "organization_id": ORGANIZATION}
    edge.fresh()
    made = requests.ask("post", "/v1/watches", json=some | {"name": "n"}).json()["data"]
    requests.ids["watch_id"] = made["id"]
    path = "/v1/watches/{watch_id}"
    requests.ask("get", "/v1/watches")
    requests.ask("get", path)
    requests.ask("patch", path, json={"name": "m"})
    requests.ask("post", "/v1/watches/preview", json=some)
    edge.clock.advance(seconds=1)
    edge.run_watches()
    alert = requests.ask("get", "/v1/alerts").json()["data"][0]["id"]
    requests.ids["alert_id"] = alert
    requests.ask("get", "/v1/alerts/{alert_id}")
    requests.ask("post", "/v1/alerts/{alert_id}/acknowledge")
    requests.ask("post", "/v1/alerts/acknowledge", json={"ids": [alert]})
    for format in ("jsonl", "csv"):
        requests.ask("get", "/v1/alerts/export", f"format={format}")
    requests.ask("get", "/v1/sources")
    requests.ask("delete", path)


def test_every_answer_has_the_media_types_that_the_document_says(
    document: dict[str, Any], sent: Sent
) -> None:
    documented = {
        (method, path, status): set(answer.get("content", {}))
        for path, item in document["paths"].items()
        for method in item.keys() & METHODS
        for status, answer in item[method]["responses"].items()
        if status in SUCCESSFUL
    }
    live = {key: media for key, media in sent.items() if key[2] in SUCCESSFUL}
    assert live == documented


def test_text_answers_are_documented_as_strings(document: dict[str, Any]) -> None:
    for path in ("/v1/log/checkpoint", "/v1/log/key", "/v1/log/entries/{position}", "/metrics"):
        (kind,) = document["paths"][path]["get"]["responses"]["200"]["content"].values()
        assert kind["schema"]["type"] == "string", path


# Inputs.


def schemas(
    document: dict[str, Any], part: Any, location: str, visited: set[str]
) -> Iterator[tuple[str, Any]]:
    """Every schema below a part of the document, through references, each with its place."""
    if isinstance(part, dict):
        yield location, part
        reference = part.get("$ref")
        if isinstance(reference, str) and reference not in visited:
            visited.add(reference)
            target: Any = document
            for name in reference.removeprefix("#/").split("/"):
                target = target[name]
            yield from schemas(document, target, reference, visited)
    for name, value in part.items() if isinstance(part, dict) else enumerate(part):
        if isinstance(value, dict | list):
            yield from schemas(document, value, f"{location}/{name}", visited)


def inputs(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas of bodies and parameters."""
    visited: set[str] = set()
    for path, item in document["paths"].items():
        for method in item.keys() & METHODS:
            for part in ("requestBody", "parameters"):
                location = f"{method} {path} {part}"
                yield from schemas(document, item[method].get(part, {}), location, visited)


def test_no_field_of_a_body_has_a_default(document: dict[str, Any]) -> None:
    found = dict(inputs(document))
    assert "#/components/schemas/Reasoned" in found, "the walk goes through references"
    with_default = [location for location, schema in found.items() if "default" in schema]
    assert [location for location in with_default if "parameters" not in location] == []
    assert with_default != [], "parameters keep their defaults"


def test_fields_without_a_default_stay_optional_and_nullable(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    for name, field in (
        ("Reasoned", "reason"),
        ("RunStarted", "triggered_by"),
        ("CheckedIn", "hours"),
    ):
        assert field not in components[name].get("required", [])
        assert {"type": "null"} in components[name]["properties"][field]["anyOf"]
    assert "default" not in components["ResourceData"]["properties"]["status"]
