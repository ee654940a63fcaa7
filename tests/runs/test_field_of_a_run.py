"""A field of a run stands in its state, its row and all that shows it (docs/extending.md)."""

import csv
import io
import re

import pytest
from msgspec.structs import fields

from ledger.engine.values.event_table import EventRow
from ledger.engine.values.recorded import Identity
from ledger.features.facts.fact_types import FACT_TYPES, NAME_OF_RUN
from ledger.features.feed.published import PUBLISHED
from ledger.features.runs.model.run import RUN_TABLE, Awaited, Run, Trigger
from ledger.features.runs.model.token_usage import TokenUsage
from projections.runs.shown import ShownRun
from projections.runs.view import RunFold, RunRow, fold_of, row_of
from tests.support.documents import ROOT
from tests.support.domain import START, minute
from tests.support.edge import Edge
from tests.support.facts import fact

FIELDS = [field.name for field in fields(ShownRun)]
PAYLOADS = {"input", "output", "error"}
INTERNAL = {
    "version",
    "organization_id",
    "workspace_id",
    "cancelled_by_closing",
    "lease_expired",
    "awaited",
}
NOT_IN_A_ROW = {"version", "cancelled_by_closing", "lease_expired", "awaited"}
"""Fields that no later event of the view depends on, once the run has ended."""

FOLD = RunFold(
    Run(
        "RUN-26-000009",
        version=5,
        organization_id="ORG-26-000001",
        workspace_id="WS-26-000001",
        service_line_id="LIN-26-000001",
        status="failed",
        triggered_by=Trigger("user", "USR-1"),
        requested_at=START,
        started_at=minute(1),
        completed_at=minute(3),
        duration_ms=2500,
        tokens_used=40,
        token_usage=(TokenUsage("m", 20, 20, 5, 5, 1),),
        usage_corrected_at=minute(5),
        cancelled_by_closing=True,
        erased_at=minute(4),
        external_id="build 7",
        parent_run_id="RUN-26-000008",
        lease_seconds=60,
        lease_expired=True,
        attempt=2,
        retry_of="RUN-26-000006",
        awaited=Awaited(Identity.of_run("ORG-26-000001", "/agents", "night")),
    ),
    position=50,
    opened=10,
    requested_by=Trigger("agent", "AGT-1"),
    requested_parent="RUN-26-000007",
    requested_lease=30,
    named=10,
    parent_given=15,
    started=20,
    stopped=30,
    stopped_at=minute(2),
    stopped_ms=1500,
    expired=True,
    ended=40,
    corrected=45,
    erased=50,
)


def test_the_fold_of_these_tests_has_a_value_in_each_field() -> None:
    bare = RunFold(Run(""))
    assert [f.name for f in fields(Run) if getattr(FOLD.run, f.name) == f.default] == []
    assert [f.name for f in fields(RunFold) if getattr(FOLD, f.name) == getattr(bare, f.name)] == []


def test_a_row_keeps_each_field_of_a_run_and_of_its_fold() -> None:
    row = row_of(FOLD)
    assert [name for name, value in row._asdict().items() if value is None] == []
    _, again = fold_of(row)
    for name in {f.name for f in fields(Run)} - NOT_IN_A_ROW:
        assert getattr(again.run, name) == getattr(FOLD.run, name), f"RunRow lacks Run.{name}"
    for name in {f.name for f in fields(RunFold)} - {"run"}:
        assert getattr(again, name) == getattr(FOLD, name), f"RunRow lacks RunFold.{name}"
    assert len(RunRow._fields) >= 34


def test_each_field_of_a_run_is_shown() -> None:
    assert {f.name for f in fields(Run)} ^ set(FIELDS) == INTERNAL | PAYLOADS


@pytest.mark.parametrize("row", RUN_TABLE, ids=lambda row: row.published_as)
def test_each_shown_field_of_an_event_is_published_and_comes_from_its_fact(row: EventRow) -> None:
    brought = {f.name for f in fields(row.event)} & set(FIELDS)
    published = {f.name for f in fields(PUBLISHED[row.event].payload)}
    assert brought - PAYLOADS <= published
    if row.fact in ("run.requested", "run.started"):
        sent = set(FACT_TYPES[row.fact].data.model_fields)
        assert sent - {"service_line_id", "parent_external_id"} == brought - {"retry_of"}


def test_json_and_openapi_and_csv_have_each_shown_field(edge: Edge) -> None:
    line = edge.fresh()
    begun = fact("run.started", None, {"service_line_id": line, "triggered_by": {"type": "api"}})
    run = edge.accept(begun)[0]["subject"]
    assert list(edge.data(f"/v1/runs/{run}")) == FIELDS
    schemas = edge.get("/openapi.json").json()["components"]["schemas"]
    assert list(schemas["ShownRun"]["properties"]) == FIELDS
    table = edge.get(f"/v1/runs/export?format=csv&service_line_id={line}").text
    heading, *_ = csv.reader(io.StringIO(table, newline=""))
    begins = ("triggered_by",)
    columns = {next((b for b in begins if column.startswith(b)), column) for column in heading}
    assert columns == set(FIELDS) - PAYLOADS


def test_the_page_of_a_run_says_each_shown_field() -> None:
    page = (ROOT / "src/ledger/features/runs/page/templates/run.html").read_text()
    # The duration is that of an open run, too.
    named = {name for name in FIELDS if f"run.{name}" in page} | {"duration_ms"}
    assert set(FIELDS) - named == set()
    assert "timed.seconds" in page


def test_few_modules_name_a_field_of_a_run() -> None:
    modules = [
        path for folder in ("src/ledger", "projections") for path in (ROOT / folder).rglob("*.py")
    ]
    named = [path for path in modules if re.search(rf"\b{NAME_OF_RUN}\b", path.read_text())]
    assert 5 <= len(named) <= 17
