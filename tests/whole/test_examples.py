"""The examples of the OpenAPI document expire never (contract, Access).

Each is sent to a service whose clock stands in 2026, and to one whose clock stands in 2090.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import jsonschema_rs
import pytest

from ledger.app.settings import Settings
from tests.app.test_document import operations, parts
from tests.conftest import Databases
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import named
from tests.support.edge import Edge, edge_of
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.service import ALL, Clock
from tests.support.watches import watched

BEFORE = datetime(2026, 3, 1, tzinfo=UTC)
"""What the paths name is recorded before the instants of all examples."""

NOW = [datetime(2026, 12, 2, tzinfo=UTC), datetime(2090, 6, 1, tzinfo=UTC)]

IN_WORDS = re.compile(r" For example `(.*)`\.$")
"""The example of an optional parameter stands in its description: alone, or with another one."""

INSTANT = re.compile(r"20\d\d-\d\d-\d\d")


class Case(NamedTuple):
    """A request with an example of the document."""

    method: str
    path: str
    query: dict[str, str]
    body: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.query or self.body}"


class Examples:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._components = document["components"]

    def cases(self) -> Iterator[Case]:
        """A request for each body, each field of it and each parameter that has an example."""
        for path, method, operation in operations(self._document):
            queried = [p for p in operation.get("parameters", []) if p["in"] == "query"]
            needed = {}
            for parameter in queried:
                needed |= self.example_of(parameter) if parameter["required"] else {}
            for parameter in queried:
                if example := self.example_of(parameter):
                    yield Case(method, path, needed | example, None)
            for body in self._bodies(operation):
                yield Case(method, path, {}, body)

    def example_of(self, parameter: dict[str, Any]) -> dict[str, str]:
        """The example of a parameter, and those of others that it goes with."""
        if "example" in parameter:
            return {parameter["name"]: str(parameter["example"])}
        found = IN_WORDS.search(parameter.get("description", ""))
        if found is None:
            return {}
        return dict(parse_qsl(found[1])) or {parameter["name"]: found[1]}

    def _bodies(self, operation: dict[str, Any]) -> Iterator[Any]:
        """The examples of a body, and each with the example of any further field.

        The fields of a period go together.
        """
        for content in operation.get("requestBody", {}).get("content", {}).values():
            wholes = [each["value"] for each in content.get("examples", {}).values()]
            wholes += [content["example"]] if content.get("example") else []
            yield from wholes
            name = content["schema"]["$ref"].rpartition("/")[2]
            fields = self._components["schemas"][name].get("properties", {})
            further = {field: self._first(schema) for field, schema in fields.items()}
            period = {field: further[field] for field in ("from", "to") if further.get(field)}
            for whole in wholes:
                for field, value in further.items():
                    if value is not None and field not in whole:
                        yield whole | (period if field in period else {field: value})

    def _first(self, schema: dict[str, Any]) -> Any:
        """The example of a field, or that of its first alternative that has one."""
        alternatives = [schema, *schema.get("anyOf", ())]
        return next((each["examples"][0] for each in alternatives if "examples" in each), None)

    def faults(self) -> Iterator[str]:
        """The examples of schemas and parameters that do not fit."""
        whole = {"components": self._components}
        for location, schema in parts(self._components["schemas"]):
            for example in schema.get("examples", []):
                if not jsonschema_rs.is_valid(schema | whole, example):
                    yield f"{location}: {example}"
        for path, method, operation in operations(self._document):
            parameters = operation.get("parameters", [])
            schemas = {parameter["name"]: parameter["schema"] for parameter in parameters}
            for parameter in parameters:
                sample = self.example_of(parameter)
                if "example" in parameter:
                    sample = {parameter["name"]: parameter["example"]}
                for name, example in sample.items():
                    if not jsonschema_rs.is_valid(schemas[name] | whole, example):
                        yield f"{method} {path} {name}: {example}"


@pytest.fixture(scope="module")
def old(server: Any, databases: Databases) -> Iterator[Edge]:
    """A service since ``BEFORE``."""
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, watch_seconds=3600)
    with edge_of(settings, named(server.url, databases.take()), Clock(BEFORE)) as edge:
        yield edge


@pytest.fixture(scope="module")
def examples(old: Edge) -> Examples:
    return Examples(old.get("/openapi.json").json())


@pytest.fixture(scope="module")
def token(old: Edge) -> str:
    return old.token(*ALL, "statements:issue")


@pytest.fixture(scope="module")
def names(old: Edge, token: str) -> dict[str, str]:
    """The names in paths; the lines are those of the examples."""
    line = "LIN-26-084729"
    old.accept(activation(line), activation("LIN-26-084730"))
    (run,) = old.accept(fact("run.started", None, {"service_line_id": line}))
    old.accept(fact("run.completed", run["subject"]))
    watch, alert = watched(old, token, line)
    endpoint = {"url": "https://93.184.216.34/", "event_types": ["*"]}
    return {
        "line_id": line,
        "run_id": run["subject"],
        "watch_id": watch,
        "alert_id": alert,
        "endpoint_id": made(old, token, "webhooks", endpoint),
        "key_id": made(old, token, "keys", {"permissions": ["read"]}),
        "statement_id": issued(old, token),
    }


def made(edge: Edge, token: str, what: str, body: dict[str, Any]) -> str:
    """The id of what a request has created."""
    answer = edge.post(f"/v1/{what}", token, json=body)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["data"]["id"]
    return found


def issued(edge: Edge, token: str) -> str:
    return made(edge, token, "statements", {"from": "2026-02-01", "to": "2026-03-01"})


def test_each_example_fits_its_schema(examples: Examples) -> None:
    assert list(examples.faults()) == []


@pytest.mark.parametrize("now", NOW, ids=lambda now: str(now.year))
def test_each_example_is_accepted_at_any_time(
    old: Edge, token: str, names: dict[str, str], examples: Examples, now: datetime
) -> None:
    old.clock.now = now
    to_withdraw = {"statement_id": issued(old, token)}
    sent, refused = set(), []
    for case in examples.cases():
        if case.body is None and not INSTANT.search(str(case.query)):
            continue  # such as an id, which has to exist
        path = case.path.format(**names | (to_withdraw if case.method == "post" else {}))
        query = case.query | ({"organization_id": ORGANIZATION} if "audit" in path else {})
        more = {} if case.body is None else {"json": case.body}
        answer = old.request(case.method.upper(), path, token, params=query, **more)
        sent.add(case.path)
        if answer.status_code >= 300:
            refused.append(f"{case}: {answer.text}")
    assert refused == []
    assert len(sent) > 40
