"""The runs of all lines: list, filters, order, past, tenants and export (contract, Reading)."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ledger.engine.http import exports
from ledger.engine.values.values import RUN_STATUSES, sort_key
from tests.support.edge import Edge, assert_problem
from tests.support.facts import WORKSPACE, fact
from tests.support.service import BATCH
from tests.support.webhook_api import OTHER_WORKSPACE

Run = dict[str, Any]
LIST, EXPORT = "/v1/runs", "/v1/runs/export"
PAYLOADS = ("input", "output", "error")


@pytest.fixture(scope="module")
def lines(edge: Edge) -> list[str]:
    """Three lines. The last one is in another workspace."""
    return [edge.fresh(), edge.fresh("timeboxed_outcome"), edge.fresh(workspace_id=OTHER_WORKSPACE)]


@pytest.fixture(scope="module")
def story(edge: Edge, lines: list[str]) -> list[Run]:
    """60 runs of the three lines, some named and some with a parent, as they are listed."""
    parent: str | None = None
    for number in range(60):
        at = f"2026-04-{number // 4 + 1:02d}T10:00:00Z"
        data = {"service_line_id": lines[number % 3], "input": {"n": number}, "lease_seconds": 60}
        data["triggered_by"] = {"type": "user", "actor_id": f"USR-26-{number % 4}"}
        if number % 2:
            data |= {"external_id": f"=build {number % 20}", "parent_run_id": parent}
        source = f"/builds/{number // 20}"
        (begun,) = edge.accept(fact("run.requested", None, data, time=at, source=source))
        parent, then = begun["subject"], {"time": at.replace("10:00:00", "10:00:02.5")}
        if number % 5:
            edge.accept(fact("run.started", parent, **then))
        ending = [None, None, "run.completed", "run.failed", "run.cancelled"][number % 5]
        if ending is not None:
            edge.accept(fact(ending, parent, time=at.replace("10:00:00", "10:00:05")))
    edge.clock.advance(seconds=1)
    return listed(edge)


def listed(edge: Edge, query: str = "", token: str | None = None) -> list[Run]:
    """The runs of all pages."""
    rows, cursor = [], ""
    while True:
        page = edge.get(f"{LIST}?limit=25&{query}{cursor}", token).json()
        rows += page["data"]
        if not page["meta"]["has_more"]:
            return rows
        cursor = f"&cursor={page['meta']['cursor']}"


def exported(edge: Edge, query: str = "", token: str | None = None) -> list[Run]:
    answer = edge.get(f"{EXPORT}?{query}", token)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(text) for text in answer.text.splitlines()]


def bare(runs: list[Run]) -> list[Run]:
    return [{key: run[key] for key in run if key not in PAYLOADS} for run in runs]


def test_the_list_has_the_runs_of_every_line_each_as_it_is_shown_alone(
    edge: Edge, lines: list[str], story: list[Run]
) -> None:
    assert {run["service_line_id"] for run in story} == set(lines)
    assert {run["status"] for run in story} == set(RUN_STATUSES)
    for run in story[:20]:
        assert edge.data(f"/v1/runs/{run['id']}") == run
    by_line = [edge.data(f"/v1/execution/{line}/runs?limit=100") for line in lines]
    assert sorted(story, key=in_order, reverse=True) == story
    assert sorted(itertools.chain(*by_line), key=in_order, reverse=True) == story


def in_order(run: Run) -> tuple[str, int]:
    return run["requested_at"], sort_key(run["id"])


def filters(lines: list[str], story: list[Run]) -> Iterator[tuple[str, Callable[[Run], bool]]]:
    parents = {run["parent_run_id"] for run in story} - {None}
    one, two = sorted(parents)[:2]
    yield "status=pending", lambda run: run["status"] == "pending"
    yield "status=completed,failed", lambda run: run["status"] in ("completed", "failed")
    yield "triggered_by=USR-26-1", lambda run: run["triggered_by"]["actor_id"] == "USR-26-1"
    yield f"service_line_id={lines[1]}", lambda run: run["service_line_id"] == lines[1]
    yield (
        f"service_line_id={lines[1]},{lines[2]},LIN-26-999999,x",
        lambda run: run["service_line_id"] in lines[1:],
    )
    yield f"workspace_id={OTHER_WORKSPACE}", lambda run: run["service_line_id"] == lines[2]
    yield f"workspace_id={WORKSPACE}", lambda run: run["service_line_id"] in lines[:2]
    yield "external_id=%3Dbuild 3", lambda run: run["external_id"] == "=build 3"
    yield (
        "external_id=%3Dbuild 3,%3Dbuild 5",
        lambda run: run["external_id"] in ("=build 3", "=build 5"),
    )
    yield f"parent_run_id={one}", lambda run: run["parent_run_id"] == one
    yield f"parent_run_id={one},{two}", lambda run: run["parent_run_id"] in (one, two)
    yield "from=2026-04-05", lambda run: run["requested_at"] >= "2026-04-05"
    yield "to=2026-04-05T10:00:00Z", lambda run: run["requested_at"] < "2026-04-05T10:00:00Z"
    yield (
        f"from=2026-04-05&status=failed,cancelled&service_line_id={lines[0]}",
        lambda run: (
            run["requested_at"] >= "2026-04-05"
            and run["status"] in ("failed", "cancelled")
            and run["service_line_id"] == lines[0]
        ),
    )
    for nothing in ("external_id=nothing", "parent_run_id=x", "service_line_id=LIN-26-999999"):
        yield nothing, lambda run: False
    yield "workspace_id=WS-26-999999", lambda run: False


@pytest.mark.parametrize("past", [False, True], ids=["present", "past"])
def test_filters_find_exactly_the_matching_runs_in_list_and_export(
    edge: Edge, lines: list[str], story: list[Run], past: bool
) -> None:
    as_of = f"&as_of={edge.clock().isoformat().replace('+00:00', 'Z')}" if past else ""
    for query, keep in filters(lines, story):
        expected = [run for run in story if keep(run)]
        assert listed(edge, query + as_of) == expected, query
        assert exported(edge, query + as_of) == bare(expected), query


@pytest.mark.parametrize(
    "query",
    [
        "status=unknown", "status=", "triggered_by=", "service_line_id=", "workspace_id=",
        "external_id=", "parent_run_id=", "from=yesterday", "from=2026-04-05&to=2026-04-04",
        "as_of=2099-01-01", "organization_id=ORG-26-000001",
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_a_422(edge: Edge, query: str) -> None:
    for path in (LIST, EXPORT):
        assert_problem(edge.get(f"{path}?{query}"), 422, "invalid_request")
    assert_problem(edge.get(f"{LIST}?limit=101"), 422, "invalid_request")


def test_an_export_resumes_after_no_run_that_the_credential_does_not_see(
    edge: Edge, lines: list[str], story: list[Run]
) -> None:
    narrow = edge.token("read", workspace_id=OTHER_WORKSPACE)
    elsewhere = next(run for run in story if run["service_line_id"] == lines[0])
    answer = edge.get(f"{EXPORT}?after={elsewhere['id']}", narrow)
    assert_problem(answer, 422, "invalid_request")


def test_the_past_shows_runs_and_finds_them_by_what_was_known_then(edge: Edge) -> None:
    line, (first, second) = edge.fresh(), (f"RUN-26-8{n:05d}" for n in (1, 2))
    edge.accept(*(fact("run.started", run, {"service_line_id": line}) for run in (first, second)))
    (child,) = edge.accept(
        fact("run.requested", None, {"service_line_id": line, "parent_run_id": first})
    )
    edge.clock.advance(seconds=1)
    then = edge.clock().isoformat().replace("+00:00", "Z")
    edge.clock.advance(seconds=1)
    data = {"parent_run_id": second, "external_id": "then", "lease_seconds": 9}
    edge.accept(fact("run.started", child["subject"], data))
    (now,) = listed(edge, f"parent_run_id={second}")
    assert (now["external_id"], now["lease_seconds"], now["status"]) == ("then", 9, "running")
    assert listed(edge, "external_id=then") == [now]
    assert listed(edge, f"parent_run_id={first}") == []
    (before,) = listed(edge, f"parent_run_id={first}&as_of={then}")
    assert before["id"] == now["id"]
    assert (before["external_id"], before["lease_seconds"]) == (None, None)
    assert listed(edge, f"external_id=then&as_of={then}") == []
    assert listed(edge, f"parent_run_id={second}&as_of={then}") == []


# The export.


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 7 runs, rendered 3 at once."""
    monkeypatch.setattr(exports, "PAGE", 7)
    monkeypatch.setattr(exports, "PORTION", 3)


@pytest.mark.usefixtures("short_pages")
def test_an_export_has_the_rows_of_the_list_without_payloads_and_resumes_after_a_run(
    edge: Edge, story: list[Run]
) -> None:
    runs = exported(edge, f"service_line_id={','.join(ids(story, 'service_line_id'))}")
    assert runs == bare(story)
    for index in (0, 6, 30, len(story) - 1):
        query = f"to=2026-04-15T11:00:00Z&after={story[index]['id']}"
        assert exported(edge, query) == bare(story[index + 1 :])
        # The answer for the single run is kept by now, without its rows.
        edge.data(f"/v1/runs/{story[index]['id']}")
        assert exported(edge, query) == bare(story[index + 1 :])


def ids(runs: list[Run], key: str) -> list[str]:
    return sorted({run[key] for run in runs})


def test_a_csv_export_has_a_column_for_each_key_and_no_formulas(
    edge: Edge, story: list[Run]
) -> None:
    answer = edge.get(f"{EXPORT}?format=csv&to=2026-04-15T11:00:00Z")
    assert answer.headers["content-disposition"] == 'attachment; filename="runs.csv"'
    heading, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert heading == [
        column
        for key, value in bare(story)[0].items()
        for column in ([f"{key}_{part}" for part in value] if isinstance(value, dict) else [key])
        if key != "token_usage"
    ] + ["token_usage"]
    found = [dict(zip(heading, row, strict=True)) for row in rows]
    assert [row["id"] for row in found] == [run["id"] for run in story]
    for row, run in zip(found, story, strict=True):
        text = run["external_id"]
        assert row["external_id"] == ("'" + text if text else "")
        assert row["triggered_by_actor_id"] == run["triggered_by"]["actor_id"]
        assert row["lease_seconds"] == "60"
        assert row["duration_ms"] == ("" if run["duration_ms"] is None else "2500")
    resumed = edge.get(f"{EXPORT}?format=csv&to=2026-04-15T11:00:00Z&after={story[-2]['id']}").text
    assert resumed.startswith(story[-1]["id"])
    assert len(resumed.splitlines()) == 1


@pytest.mark.usefixtures("short_pages")
def test_an_export_shows_the_runs_as_they_were_at_its_position(
    edge: Edge, story: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that changes while the export goes on, and a run that begins meanwhile."""
    authenticator, changed = edge.service.app.state.services.authenticator, list[str]()
    lapsed = authenticator.lapsed
    pending = next(run["id"] for run in reversed(story) if run["status"] == "pending")
    late = fact("run.requested", None, {"service_line_id": story[0]["service_line_id"]})
    batch = [fact("run.cancelled", pending), late | {"time": "2026-04-01T00:00:00Z"}]

    async def change_first(*arguments: Any) -> Any:
        if not changed:
            answer = await edge.service.http.post(
                "/v1/facts", content=json.dumps(batch).encode(), headers=BATCH
            )
            changed.extend(item["outcome"] for item in answer.json()["data"])
        return await lapsed(*arguments)

    monkeypatch.setattr(authenticator, "lapsed", change_first)
    assert exported(edge, "to=2026-04-15T11:00:00Z") == bare(story)
    assert changed == ["recorded", "recorded"]
    assert edge.data(f"/v1/runs/{pending}")["status"] == "cancelled"
    assert len(exported(edge, "to=2026-04-15T11:00:00Z")) == len(story) + 1
