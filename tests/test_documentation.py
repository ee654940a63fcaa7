"""Documentation is part of the product: what exists is described, or a test fails."""

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute

from ledger.api.app import ROUTED
from ledger.domain.api_key import Permission
from ledger.domain.events import EVENTS
from ledger.domain.health import SignalName, SignalStatus
from ledger.domain.values import (
    ActorType,
    Cause,
    ExecutionModel,
    HoldName,
    ProductLine,
    RunStatus,
    State,
    TriggerType,
)
from ledger.intake.fact_types import ALIASES, FACT_TYPES
from ledger.settings import Settings
from projections import projections

PREFIXES = {"line_id": "LIN", "run_id": "RUN", "event_id": "EVT", "endpoint_id": "WHK"}
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        assert f"| `LEDGER_{name.upper()}` | " in README, name
        row = README.split(f"| `LEDGER_{name.upper()}` | ")[1].split("\n")[0]
        assert row.startswith((f"{default} |", f"`{default}` |")), name


def test_every_fact_type_and_its_fields_are_in_the_readme() -> None:
    for name, kind in FACT_TYPES.items():
        rows = [line for line in README.splitlines() if line.startswith("| `")]
        row = next((line for line in rows if f"`{name}`" in line.split("|")[1]), None)
        assert row is not None, f"{name} has no row in the README's table of facts"
        for field in kind.data.model_fields:
            assert field in row, f"{name}: {field}"
    for alias in ALIASES:
        assert f"`{alias}`" in README


def test_every_route_is_in_the_readme_and_says_what_it_is_for() -> None:
    routes = [r for module in ROUTED for r in module.router.routes if isinstance(r, APIRoute)]
    assert len(routes) >= 30
    for route in routes:
        path = route.path
        for parameter, prefix in PREFIXES.items():
            path = path.replace(f"{{{parameter}}}", f"{{{prefix}}}")
        method = next(iter(route.methods))
        assert f"`{method} {path}`" in README or f"`{path}`" in README, path
        assert route.endpoint.__doc__, path


def test_every_permission_is_in_the_readme() -> None:
    for permission in Permission.__args__:  # type: ignore[attr-defined]
        assert f"`{permission}`" in README


@pytest.mark.parametrize(
    "words",
    [
        ProductLine,
        ExecutionModel,
        State,
        Cause,
        RunStatus,
        HoldName,
        SignalName,
        SignalStatus,
        ActorType,
        TriggerType,
    ],
)
def test_every_word_that_a_fact_or_an_answer_may_have_is_in_the_readme(words: Any) -> None:
    for word in get_args(words):
        assert f"`{word}`" in README


def test_every_event_says_in_a_sentence_what_happened() -> None:
    for event in EVENTS:
        assert event.__doc__, event
        assert event.__doc__.strip().endswith("."), event


def test_every_view_is_among_those_that_know_nothing_of_each_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (apart,) = (one["modules"] for one in contracts if one["type"] == "independence")
    assert apart == ["projections.*"]
    for view in projections():
        assert type(view).__module__ == f"projections.{view.name}.view", "a view is a folder"
    folders = {path.parent.name for path in ROOT.glob("projections/*/view.py")}
    assert folders - {view.name for view in projections()} == set(), "no line in projections()"
