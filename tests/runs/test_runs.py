"""Runs over HTTP: which lines have them, keys, filters, order (contract, Reading)."""

from typing import Any

import pytest

from ledger.engine.values.values import EXECUTION_MODELS, MODELS_WITH_RUNS, RUN_STATUSES
from tests.support.edge import Edge, assert_problem
from tests.support.facts import activation, fact

CONTINUOUS = sorted(set(EXECUTION_MODELS) - MODELS_WITH_RUNS)


@pytest.fixture(scope="module")
def story(edge: Edge) -> tuple[str, list[dict[str, Any]]]:
    """A line with 20 runs, in every status and by three actors, and its runs as they are listed."""
    line = edge.fresh()
    for number in range(20):
        at = f"2026-04-{number // 2 + 1:02d}T10:00:00{'+02:00' if number % 2 else 'Z'}"
        by = {"type": "user", "actor_id": f"USR-26-{number % 3}"} if number % 4 else None
        data = {"service_line_id": line, "triggered_by": by, "input": {"n": number}}
        (begun,) = edge.accept(fact("run.requested", None, data, time=at))
        run, then = begun["subject"], {"time": at.replace("10:00:00", "10:00:02.5")}
        if number % 5:
            edge.accept(fact("run.started", run, **then))
        ending = [None, None, "run.completed", "run.failed", "run.cancelled"][number % 5]
        if ending is not None:
            edge.accept(fact(ending, run, time=at.replace("10:00:00", "10:00:05")))
    return line, edge.data(f"/v1/execution/{line}/runs?limit=100")


def test_runs_in_a_list_equal_the_single_run(
    edge: Edge, story: tuple[str, list[dict[str, Any]]]
) -> None:
    assert {run["status"] for run in story[1]} == set(RUN_STATUSES)
    for run in story[1]:
        assert edge.data(f"/v1/runs/{run['id']}") == run
        assert run["erased_at"] is None
        assert run["error"] is None


def test_the_latest_request_comes_first(edge: Edge, story: tuple[str, list[Any]]) -> None:
    keys = [(run["requested_at"], run["id"]) for run in story[1]]
    assert keys == sorted(keys, reverse=True)
    line = edge.fresh()
    for run in ("RUN-26-1000000", "RUN-26-999998", "RUN-25-999999"):
        edge.accept(
            fact("run.started", run, {"service_line_id": line}, time="2026-01-01T00:00:00Z")
        )
    listed = [run["id"] for run in edge.data(f"/v1/execution/{line}/runs")]
    assert listed == ["RUN-26-1000000", "RUN-26-999998", "RUN-25-999999"]


@pytest.mark.parametrize(
    ("query", "keep"),
    [
        ("status=pending", lambda run: run["status"] == "pending"),
        ("status=completed,failed", lambda run: run["status"] in ("completed", "failed")),
        ("triggered_by=USR-26-1", lambda run: by(run) == "USR-26-1"),
        ("triggered_by=USR-26-1,USR-26-2", lambda run: by(run) in ("USR-26-1", "USR-26-2")),
        ("triggered_by=USR-26-9", lambda run: False),
        ("from=2026-04-05", lambda run: run["requested_at"] >= "2026-04-05T00:00:00Z"),
        ("from=2026-04-05T10:00:00Z", lambda run: run["requested_at"] >= "2026-04-05T10:00:00Z"),
        ("to=2026-04-05T10:00:00Z", lambda run: run["requested_at"] < "2026-04-05T10:00:00Z"),
        ("from=2026-04-05T12:00:00%2B02:00", lambda run: run["requested_at"] >= "2026-04-05T10"),
        (
            "from=2026-04-03&to=2026-04-08&status=running&triggered_by=USR-26-0,USR-26-2",
            lambda run: (
                "2026-04-03" <= run["requested_at"] < "2026-04-08"
                and run["status"] == "running"
                and by(run) in ("USR-26-0", "USR-26-2")
            ),
        ),
    ],
)
def test_filters_find_exactly_the_matching_runs(
    edge: Edge, story: tuple[str, list[dict[str, Any]]], query: str, keep: Any
) -> None:
    line, runs = story
    found = edge.data(f"/v1/execution/{line}/runs?limit=100&{query}")
    assert found == [run for run in runs if keep(run)]


def by(run: dict[str, Any]) -> str | None:
    return run["triggered_by"] and run["triggered_by"]["actor_id"]


@pytest.mark.parametrize(
    "query",
    [
        "nothing=1", "status=unknown", "status=", "status=running,", "triggered_by=", "from=",
        "from=yesterday", "from=2026-04-05T10:00:00", "from=2026-02-30", "from=1899-12-31",
        "to=1776247964", "from=2026-04-05T10:00:00+02:00", "from=2016-12-31T23:59:60Z", "limit=0",
        "limit=101", "limit=abc", "from_=2026-04-05", "state=running", "to=2026-04-05%0A",
        "from=%EF%BC%92026-04-05", "from=2026-04-05&to=2026-04-04",
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_a_422(
    edge: Edge, story: tuple[str, list[dict[str, Any]]], query: str
) -> None:
    answer = edge.get(f"/v1/execution/{story[0]}/runs?{query}")
    assert assert_problem(answer, 422, "invalid_request")["errors"] != []


@pytest.mark.parametrize("model", CONTINUOUS)
def test_the_continuous_models_have_no_runs(edge: Edge, model: str) -> None:
    line = edge.fresh(model)
    before = edge.log()
    assert_problem(edge.get(f"/v1/execution/{line}/runs"), 422, "runs_not_supported")
    for kind in ("run.requested", "run.started", "agent.run.started"):
        for subject in (None, "RUN-26-777777"):
            answer = edge.send(fact(kind, subject, {"service_line_id": line}))
            assert_problem(answer, 422, "runs_not_supported")
    assert edge.log() == before


@pytest.mark.parametrize("model", sorted(MODELS_WITH_RUNS))
def test_the_two_other_models_have_runs(edge: Edge, model: str) -> None:
    line = edge.fresh(model)
    answer = edge.get(f"/v1/execution/{line}/runs")
    assert answer.json() == {"data": [], "meta": {"cursor": None, "has_more": False}}


def test_the_id_of_an_execution_record_names_no_run(edge: Edge) -> None:
    supplied, issued = "RUN-26-654321", edge.fresh()
    edge.accept(activation(edge.fresh_id(), execution_id=supplied))
    for record in (supplied, edge.data(f"/v1/execution/{issued}")["id"]):
        assert_problem(edge.get(f"/v1/runs/{record}"), 404, "not_found")
        assert_problem(edge.send(fact("run.completed", record)), 404, "not_found")
        begin = fact("run.started", record, {"service_line_id": issued})
        assert_problem(edge.send(begin), 409, "invalid_state")


def test_payloads_come_back_as_they_were_sent(edge: Edge) -> None:
    payload = {"text": 'Zürich 💩 " \\ \n', "deep": [[{"a": [None, True, 1.5, -0.25]}]], "": 1}
    data = {"service_line_id": edge.fresh(), "input": payload}
    (begun,) = edge.accept(fact("run.started", None, data))
    error = {"code": "E1", "message": 'it "broke"</script>'}
    ended = {"output": [payload], "error": error, "tokens_used": 2**53 - 1, "duration_ms": 0}
    edge.accept(fact("run.failed", begun["subject"], ended))
    run = edge.data(f"/v1/runs/{begun['subject']}")
    assert (run["input"], run["output"], run["error"]) == (payload, [payload], error)
    assert (run["tokens_used"], run["duration_ms"]) == (2**53 - 1, 0)
