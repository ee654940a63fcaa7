"""Documentation is part of the product: what exists is described, or a test fails."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from fastapi.routing import APIRoute

from ledger.app.features import FEATURES, projections, routers
from ledger.app.http import operations
from ledger.app.settings import Settings
from ledger.engine.http.problems import STATUS
from ledger.engine.values.values import (
    ActorType,
    Cause,
    ExecutionModel,
    HoldName,
    ProductLine,
    RunStatus,
    State,
    TriggerType,
)
from ledger.features.facts.fact_types import ALIASES, FACT_TYPES
from ledger.features.feed.published import TYPES
from ledger.features.keys.model import Permission
from ledger.features.lines.model.health import SignalName, SignalStatus
from ledger.records import EVENTS
from tests.conftest import LONGEST
from tests.support.documents import CONTRACT, ROOT

PREFIXES = {
    "line_id": "LIN",
    "run_id": "RUN",
    "event_id": "EVT",
    "endpoint_id": "WHK",
    "key_id": "KEY",
    "statement_id": "STM",
    "watch_id": "WCH",
    "alert_id": "ALR",
    "session_id": "SES",
}
ROUTES = [
    r for each in (*routers(), operations.router) for r in each.routes if isinstance(r, APIRoute)
]
WORDS = {
    "facts": (ProductLine, ExecutionModel, Cause, SignalName, SignalStatus, ActorType, TriggerType),
    "state": (State, HoldName),
    "reading": (RunStatus,),
    "access": (Permission,),
}
"""The page of the contract that lists the values of each of these types."""


def contract(page: str) -> str:
    return (CONTRACT / f"{page}.md").read_text()


def rows(page: str) -> dict[str, list[str]]:
    """The rows of a page's tables by the names in their first cells; each row as its cells."""
    found = {}
    for line in contract(page).splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" |")]
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells)
    return found


def test_each_setting_has_a_row_with_its_default() -> None:
    settings = rows("command-line")
    assert len(Settings.model_fields) >= 11
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default in (None, "") else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        assert settings[f"LEDGER_{name.upper()}"][1].strip("`") == default, name


def test_each_fact_type_has_a_row_with_its_fields() -> None:
    facts = rows("facts")
    for name, kind in FACT_TYPES.items():
        fields = set(re.findall(r"\w+", facts[name][1]))
        missing = set(kind.data.model_fields) - fields
        assert missing == set(), name
    for alias in ALIASES:
        assert f"`{alias}`" in contract("facts")


def test_each_published_type_has_a_row_with_its_fields() -> None:
    _, _, table = contract("feeds").partition("| type | occurs when | payload |\n")
    cells = {row.split("`")[1]: row for row in table.partition("\n\n")[0].splitlines()[1:]}
    for name, payload in TYPES.items():
        fields = {field.encode_name for field in msgspec.structs.fields(payload)}
        missing = fields - {"state_before", "state_after"} - set(re.findall(r"\w+", cells[name]))
        assert missing == set(), name


def test_each_refusal_has_a_row() -> None:
    assert [code for code in STATUS if f"| `{code}` |" not in contract("access")] == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.methods} {route.path}")
def test_each_route_is_in_a_table_of_the_contract_and_has_a_description(route: APIRoute) -> None:
    path = route.path
    for parameter, prefix in PREFIXES.items():
        path = path.replace(f"{{{parameter}}}", f"{{{prefix}}}")
    documented = set().union(*(rows(page.stem) for page in CONTRACT.glob("*.md")))
    for method in route.methods:
        assert f"{method} {path}" in documented
    assert route.endpoint.__doc__


@pytest.mark.parametrize(
    ("page", "values"),
    [(page, values) for page, kinds in WORDS.items() for values in kinds],
    ids=lambda one: one if isinstance(one, str) else str(get_args(one)[0]),
)
def test_each_value_of_an_enumeration_is_named_on_its_page(page: str, values: Any) -> None:
    words = get_args(values)
    assert len(words) >= 2
    assert [word for word in words if f"`{word}`" not in contract(page)] == []


def test_every_event_says_in_a_sentence_what_happened() -> None:
    for event in EVENTS:
        assert event.__doc__, event
        assert event.__doc__.strip().endswith("."), event


def first_paragraph(module: Path) -> str:
    """The first paragraph of a module's docstring, as a page says it."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return " ".join(text.split("\n\n")[0].splitlines()).replace("``", "`")


def test_the_map_of_packages_says_what_their_docstrings_say() -> None:
    source, text = ROOT / "src/ledger", (ROOT / "docs/architecture.md").read_text()
    packages = [*source.glob("engine/*/__init__.py"), *source.glob("features/*/__init__.py")]
    packages += [source / "app/__init__.py", ROOT / "projections/__init__.py"]
    folders = {package.parent: package for package in packages}
    folders |= {each: each for each in (source / "records.py", source / "app/features.py")}
    rows = [
        f"| `{folder.relative_to(ROOT)}` | {first_paragraph(module)} |"
        for folder, module in folders.items()
    ]
    assert len(rows) > 20
    assert [row for row in rows if row not in text] == [], "docs/architecture.md lacks these rows"


def test_the_drawing_has_every_feature_and_every_part_of_the_engine() -> None:
    drawing = (ROOT / "docs/architecture.md").read_text().split("```")[1]
    parts = {folder.parent.name for folder in ROOT.glob("src/ledger/engine/*/__init__.py")}
    names = parts | {feature.name for feature in FEATURES}
    assert len(names) > 20
    assert names - set(re.findall(r"\w+", drawing)) == set()


def test_contracts_of_imports_name_every_view_and_every_feature() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    assert "projections.*" in [one["modules"][0] for one in contracts if "modules" in one]
    (tiers,) = (one["layers"] for one in contracts if "record" in one["name"])
    tiers = {name for tier in tiers for name in tier.split(" : ")}
    for folder in ("src/ledger/features", "projections"):
        parts = (path.parent for path in ROOT.glob(f"{folder}/*/__init__.py"))
        names = {".".join(path.relative_to(ROOT).parts).removeprefix("src.") for path in parts}
        assert names - tiers == set(), "name it in the contract of the features' order"
    modules = {type(view).__module__ for view in projections()}
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in ROOT.glob("projections/**/view.py")
    }
    assert found - modules == set(), "no row in app/features.py names it"
    assert modules - found == set(), "a view is a folder"


def test_each_file_of_tests_that_begins_first_exists() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).exists()] == []


def test_each_test_that_the_page_on_security_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 15
    for file, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.M), test
