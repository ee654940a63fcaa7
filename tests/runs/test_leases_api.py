"""Leases over HTTP: heartbeats, and what shows a run that its lease failed (contract, State)."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from ledger.engine.log.event_log import Log
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, fact
from tests.support.leases import listen
from tests.support.views import until
from tests.support.webhook_api import OTHER_ORGANIZATION

ERROR = {
    "code": "lease_expired",
    "message": "Nothing arrived from the run for as long as its lease.",
}
BUSY = {"input": {"said": "in"}, "lease_seconds": 30}


@pytest.fixture
def log(edge: Edge) -> Iterator[Log]:
    with closing(Log(edge.conninfo)) as log:
        listen(log, edge.clock)
        yield log


def leased(edge: Edge, line: str | None = None, **data: Any) -> str:
    """A running run with a lease of 30 s."""
    begun = {"service_line_id": line or edge.fresh(), **BUSY, **data}
    return str(edge.accept(fact("run.started", None, begun))[0]["subject"])


def beat(edge: Edge, run: str, token: str | None = None, **options: Any) -> Any:
    return edge.post(f"/v1/runs/{run}/heartbeat", token, **options)


def expired(edge: Edge, log: Log, run: str) -> dict[str, Any]:
    """The run, after its lease has ended and the service's own watch has failed the run."""
    listen(log, edge.clock, 31)
    until(lambda: edge.data(f"/v1/runs/{run}")["status"] == "failed", "the expiry")
    view: dict[str, Any] = edge.data(f"/v1/runs/{run}")
    return view


def audited(edge: Edge) -> list[tuple[Any, ...]]:
    return edge.select("SELECT originator_id FROM ledger.ledger_events")


def test_a_heartbeat_is_answered_204_and_leaves_no_event(edge: Edge, log: Log) -> None:
    run = leased(edge)
    before = audited(edge)
    for _ in range(3):
        listen(log, edge.clock, 20)
        answer = beat(edge, run, headers={"idempotency-key": "ignored"})
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["ledger-position"].isdigit()
        assert "idempotency-replayed" not in answer.headers
    assert edge.data(f"/v1/runs/{run}")["status"] == "running"
    assert audited(edge) == before


def test_a_refused_heartbeat_leaves_no_audit_entry(edge: Edge, log: Log) -> None:
    run = leased(edge)
    (bare,) = edge.accept(fact("run.started", None, {"service_line_id": edge.fresh()}))
    ended = leased(edge)
    edge.accept(fact("run.completed", ended))
    writer, reader = edge.token("write"), edge.token("read")
    other = edge.token("write", organization_id=OTHER_ORGANIZATION)
    narrow = edge.token("write", workspace_id="WS-26-000009")
    before = audited(edge)
    for name in ("RUN-26-999999", "RUN-x", "LIN-26-000001"):
        assert_problem(beat(edge, name, writer), 404, "not_found")
    for stranger in (other, narrow):
        assert_problem(beat(edge, run, stranger), 404, "not_found")
    assert_problem(beat(edge, run, reader), 403, "forbidden")
    assert_problem(beat(edge, run, "elk_nonsense"), 401, "unauthorized")
    assert_problem(beat(edge, run, writer, params={"a": "b"}), 422, "invalid_request")
    for refused in (bare["subject"], ended):
        assert_problem(beat(edge, refused, writer), 409, "invalid_state")
    assert edge.get(f"/v1/runs/{run}/heartbeat").status_code == 405
    assert beat(edge, run, edge.token("admin", organization_id=None)).status_code == 204
    keys = [(name,) for (name,) in audited(edge) if not name.startswith("KEY")]
    assert keys == [(name,) for (name,) in before if not name.startswith("KEY")]


@pytest.mark.parametrize("seconds", [4, 604_801, 5.5, "60", True])
def test_a_lease_lasts_5_seconds_to_a_week(edge: Edge, seconds: object) -> None:
    data = {"service_line_id": edge.fresh(), "lease_seconds": seconds}
    problem = assert_problem(edge.send(fact("run.started", None, data)), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/data/lease_seconds"]


def test_an_expired_run_shows_its_error_and_the_feed_tells_why(edge: Edge, log: Log) -> None:
    line = edge.fresh()
    run = leased(edge, line)
    view = expired(edge, log, run)
    assert view["error"] == ERROR
    assert (view["input"], view["output"]) == (BUSY["input"], None)
    (event,) = edge.data("/v1/events", params={"service_line_id": line, "type": "run.failed"})
    assert event["occurred_at"] == view["completed_at"]
    assert event["actor"] == {"type": "system", "id": "lease-watch"}
    assert event["reported_by"] == "lease-watch"
    payload = event["payload"]
    assert payload["lease_expired"] is True
    assert payload["last_heard_at"] == view["started_at"]
    assert (payload["late"], payload["duration_ms"]) == (False, 30_000)
    assert event["subject"] == {"type": "run", "id": run}
    own = {"organization_id": ORGANIZATION, "action": "run.failed"}
    entries = edge.data("/v1/audit-logs", params=own)
    assert run not in [entry["resource"]["id"] for entry in entries]
    history = edge.data(f"/v1/execution/{line}/history")
    assert history[-1]["payload"] == payload


def test_another_failure_says_that_no_lease_expired(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(fact("run.failed", leased(edge, line), {"error": {"code": "x"}}))
    (event,) = edge.data("/v1/events", params={"service_line_id": line, "type": "run.failed"})
    assert event["payload"]["lease_expired"] is False
    assert event["payload"]["last_heard_at"] is None


@pytest.mark.parametrize("ending", ["completed", "failed"])
def test_after_a_late_ending_a_run_shows_that_ending_alone_and_its_past_the_expiry(
    edge: Edge, log: Log, ending: str
) -> None:
    line = edge.fresh()
    run = leased(edge, line)
    before = expired(edge, log, run)
    (latest,) = edge.select("SELECT max(recorded_at)::text FROM ledger.ledger_events")
    listen(log, edge.clock, 5)
    (late,) = edge.accept(fact(f"run.{ending}", run, {"tokens_used": 3}))

    now = edge.data(f"/v1/runs/{run}")
    assert (now["status"], now["error"], now["output"]) == (ending, None, None)
    assert (now["input"], now["tokens_used"]) == (BUSY["input"], 3)
    assert now["duration_ms"] > before["duration_ms"]
    parameters = {"as_of": latest[0].replace(" ", "T") + ":00"}
    assert edge.data(f"/v1/runs/{run}", params=parameters) == before
    assert edge.data(f"/v1/execution/{line}/runs", params=parameters) == [before]
    assert edge.data(f"/v1/execution/{line}/runs") == [now]
    event = edge.data(f"/v1/events/{late['event_ids'][0]}")
    assert (event["payload"]["late"], event["type"]) == (True, f"run.{ending}")
    usage = edge.data(f"/v1/execution/{line}/usage", params={"from": "2026-04-15"})
    assert usage["total"]["runs"][ending] == 1
    assert sum(usage["total"]["runs"].values()) == 1


def test_the_error_of_an_expired_run_is_erased_with_its_input_and_a_late_ending_is_accepted(
    edge: Edge, log: Log
) -> None:
    run = leased(edge)
    expired(edge, log, run)
    reason = {"json": {"reason": "asked for"}}
    erased = edge.post(f"/v1/runs/{run}/erase", **reason).json()["data"]
    assert [erased[name] for name in ("input", "output", "error")] == [None] * 3
    late = fact("run.completed", run, {"output": "secret"})
    edge.accept(late)
    assert edge.send(late).json()["data"]["outcome"] == "duplicate"
    view = edge.data(f"/v1/runs/{run}")
    assert (view["status"], view["output"]) == ("completed", None)


def test_the_number_of_leases_and_of_expiries_is_a_metric(edge: Edge, log: Log) -> None:
    def metric(name: str) -> float:
        lines = edge.get("/metrics").text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    leases, expiries = metric("ledger_leases"), metric("ledger_lease_expiries_total")
    run = leased(edge)
    assert metric("ledger_leases") == leases + 1
    expired(edge, log, run)
    assert metric("ledger_leases") == leases
    assert metric("ledger_lease_expiries_total") == expiries + 1
