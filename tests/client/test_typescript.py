"""The TypeScript client without Node: its generated modules, its package, its words.

Node's own tests of it are in ``src/ledger_client_ts/tests``; ``make clients-short`` runs them.
"""

import json
import re
from typing import Any

import pytest

from scripts.python_client.__main__ import document
from scripts.typescript_client.modules import FOLDER, ROUTES, TYPES, is_of, schemas
from scripts.typescript_client.routes import routes
from tests.support.documents import ROOT
from tests.whole.test_words import RELATIVE, is_long, sentences

SOURCES = sorted((FOLDER / "src").glob("*.ts"))
HAND_WRITTEN = [path for path in SOURCES if path not in (ROUTES, TYPES)]
PACKAGE = json.loads((FOLDER / "package.json").read_text())


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The OpenAPI document, made without a service."""
    return document()


def test_the_generated_modules_are_those_of_the_document(described: dict[str, Any]) -> None:
    assert ROUTES.read_text() == routes(described), "run: make generate"
    assert is_of(TYPES.read_text(), schemas(described)), "run: make generate"


def test_every_route_of_the_document_has_a_method(described: dict[str, Any]) -> None:
    documented = {
        f"{method.upper()} {re.sub(r'{.*?}', '{}', path)}"
        for path, methods in described["paths"].items()
        for method in methods
    }
    text = "".join(path.read_text() for path in SOURCES)
    calls = re.findall(r'\w+\(\s*(?:"([A-Z]+)",\s*)?path`([^`]+)`', text)
    called = {f"{verb or 'GET'} {re.sub(r'[$]{.*?}', '{}', path)}" for verb, path in calls}
    # Facts are sent by verbs, by `send` and by the reporter; the stream is followed.
    others = {"POST /v1/facts", "POST /v1/facts/batch", "GET /v1/events/stream"}
    assert documented - called == others
    assert called <= documented
    assert all(f'"{each.split()[1]}"' in text for each in others)


def test_every_group_belongs_to_the_client() -> None:
    sources = "".join((FOLDER / "src" / name).read_text() for name in ("ledger.ts", "groups.ts"))
    groups = re.findall(r"export class (\w+) extends Routes", ROUTES.read_text())
    assert len(groups) > 12
    assert [name for name in groups if not re.search(rf"\b{name}\b", sources)] == []


def test_every_type_of_fact_has_a_verb(described: dict[str, Any]) -> None:
    mapping = described["components"]["schemas"]["Fact"]["discriminator"]["mapping"]
    reported = set(re.findall(r'transport\.fact\("([a-z_.]+)"', ROUTES.read_text()))
    assert {each for each in mapping if not each.startswith("agent.")} == reported


def test_the_package_has_no_dependencies_and_pins_its_tools() -> None:
    assert "dependencies" not in PACKAGE
    pins = PACKAGE["devDependencies"].values()
    assert [each for each in pins if not re.fullmatch(r"\d+\.\d+\.\d+", each)] == []
    imported = {
        path.name: set(re.findall(r'(?:from|import\() ?"([^"\n]+)"', path.read_text()))
        for path in SOURCES
    }
    others = {
        name: {each for each in modules if not each.startswith("./")}
        for name, modules in imported.items()
    }
    assert len(others) > 12
    assert {name: each for name, each in others.items() if each} == {"node.ts": {"node:fs"}}


def test_the_version_is_one_everywhere() -> None:
    version = PACKAGE["version"]
    assert f"execution-ledger-client-ts/{version}" in (FOLDER / "src/host.ts").read_text()
    for page in (FOLDER / "README.md", ROOT / "docs/integrating.md"):
        assert f"./execution-ledger-client-{version}.tgz" in page.read_text()


def test_the_readme_names_the_groups_of_the_client() -> None:
    ledger = (FOLDER / "src/ledger.ts").read_text()
    groups = re.findall(r"^  readonly (\w+): \w+;", ledger, re.M)
    assert len(groups) == 16
    _, _, listed = (FOLDER / "README.md").read_text().partition("The groups are")
    assert re.findall(r"`(\w+)`", listed.partition(".")[0]) == groups


def test_modules_and_their_sentences_are_short() -> None:
    assert len(HAND_WRITTEN) > 10
    for path in HAND_WRITTEN:
        text = path.read_text()
        assert text.count("\n") <= 500, path.name
        assert [line for line in text.splitlines() if len(line) > 100] == [], path.name
        comments = [*re.findall(r"/\*\*(.*?)\*/", text, re.S), *re.findall(r"// (.*)", text)]
        described = [
            sentence
            for comment in comments
            for sentence in sentences(re.sub(r"\n\s*\*", "\n", comment))
        ]
        assert len([each for each in described if is_long(each) or RELATIVE.search(each)]) <= 3, (
            path.name
        )
