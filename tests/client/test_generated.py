"""The generated modules are those that the generators give of the service's own document."""

import inspect
import re
from typing import Any

import pytest
from execution_ledger import AsyncLedger, Ledger, _operations
from execution_ledger._operation import Operation

from scripts.python_client.__main__ import document
from scripts.python_client.groups import GROUPS
from scripts.python_client.modules import PACKAGE, made
from tests.client.support import Service


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The OpenAPI document, made without a service."""
    return document()


def test_the_generated_modules_are_those_of_the_document(described: dict[str, Any]) -> None:
    modules = made(described)
    assert len(modules) > 8
    stale = [path.name for path, text in modules.items() if path.read_text() != text]
    assert stale == [], "run: make generate"


def test_the_document_without_a_service_is_the_one_that_a_service_answers(
    described: dict[str, Any], service: Service
) -> None:
    answered = service.edge.get("/openapi.json").json()
    assert answered == described


def test_every_route_of_the_document_has_a_method(described: dict[str, Any]) -> None:
    documented = {
        operation["operationId"].upper()
        for methods in described["paths"].values()
        for operation in methods.values()
    }
    operations = {name for name, value in vars(_operations).items() if isinstance(value, Operation)}
    sources = "".join(path.read_text() for path in (PACKAGE / "_async").glob("*.py"))
    called = set(re.findall(r"\b(?:routes|asked)\.([A-Z_]+)\b", sources))
    assert documented == operations
    # Facts are sent by verbs, by `send` and by the reporter.
    assert operations - called == {"REPORT_FACTS", "REPORT_FACT_BATCH"}


def test_every_group_belongs_to_the_client() -> None:
    sources = "".join(
        (PACKAGE / "_async" / name).read_text() for name in ("client.py", "groups.py")
    )
    assert [group.name for group in GROUPS if f"Async{group.name}" not in sources] == []


def test_every_type_of_fact_has_a_verb(described: dict[str, Any]) -> None:
    mapping = described["components"]["schemas"]["Fact"]["discriminator"]["mapping"]
    sources = "".join(path.read_text() for path in (PACKAGE / "_async").glob("*.py"))
    reported = set(re.findall(r'self\._report\(\s*"([a-z_.]+)"', sources))
    assert {each for each in mapping if not each.startswith("agent.")} == reported


def methods_of(client: type) -> dict[str, set[str]]:
    """The public methods of a client and of its groups."""
    made = client("http://ledger.test", "elk_test")
    groups = {name: group for name, group in vars(made).items() if not name.startswith("_")}
    return {
        name: {each for each, _ in inspect.getmembers(group) if not each.startswith("_")}
        for name, group in {"": made, **groups}.items()
    }


def test_both_clients_have_the_same_methods() -> None:
    ours, theirs = methods_of(Ledger), methods_of(AsyncLedger)
    theirs[""] = {name.replace("aclose", "close") for name in theirs[""]}
    assert ours == theirs
    assert sum(map(len, ours.values())) > 100
