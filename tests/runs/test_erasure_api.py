"""The erasure of a run over HTTP: rights, refusals, answers, feeds, audit log (contract, Proof)."""

import csv
import io
import json
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.support.audits import Tenant
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.receiver import Receiver
from tests.support.views import until
from tests.support.webhook_api import Hooks

REASON = {"json": {"reason": "Asked for by the data subject"}}
ERASED_FIELDS = REASON["json"] | {"external_id": None, "attempt": 1, "retry_of": None}
"""The payload of the event."""
PAYLOADS = ("input", "output", "error")


def run_of(edge: Edge, line: str | None = None, *ending: str, token: str | None = None) -> str:
    """An ended run with an input; if it failed, with an output and an error too."""
    begun = {"service_line_id": line or edge.fresh(token=token), "input": {"said": "input"}}
    (item,) = edge.accept(fact("run.started", None, begun), token=token)
    run = str(item["subject"])
    edge.clock.advance(seconds=1)
    ended = {"output": "output", "error": {"code": "error"}, "tokens_used": 7}
    for kind in ending or ("failed",):
        edge.accept(fact(f"run.{kind}", run, ended if kind == "failed" else {}), token=token)
    return run


def erase(edge: Edge, run: str, token: str | None = None, **options: Any) -> httpx.Response:
    return edge.post(f"/v1/runs/{run}/erase", token, **(options or REASON))


def test_the_answer_of_an_erasure_is_the_run_without_its_payloads(edge: Edge) -> None:
    run = run_of(edge)
    before = edge.data(f"/v1/runs/{run}")
    assert None not in [before[name] for name in PAYLOADS]
    edge.clock.advance(minutes=1)
    answer = erase(edge, run)
    assert answer.status_code == 200, answer.text
    gone = dict.fromkeys(PAYLOADS) | {"erased_at": "2026-04-15T12:01:01Z"}
    assert answer.json() == {"data": before | gone}
    assert list(answer.json()["data"]) == list(before)
    assert answer.content == edge.get(f"/v1/runs/{run}").content
    assert int(answer.headers["ledger-position"]) == edge.log()[0][0]
    assert edge.data(f"/v1/execution/{before['service_line_id']}/runs") == [before | gone]


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_completed_failed_and_cancelled_runs_can_be_erased(edge: Edge, ending: str) -> None:
    assert erase(edge, run_of(edge, None, ending)).json()["data"]["status"] == ending


def test_the_erasure_of_an_open_run_is_a_409(edge: Edge) -> None:
    line = edge.fresh()
    facts = [
        fact(f"run.{kind}", None, {"service_line_id": line}) for kind in ("requested", "started")
    ]
    before = edge.accept(*facts)
    for item in before:
        assert_problem(erase(edge, item["subject"]), 409, "invalid_state")
    assert edge.log()[0][0] == before[-1]["position"]


def test_a_second_erasure_is_a_200_that_records_nothing(edge: Edge) -> None:
    run = run_of(edge)
    first = erase(edge, run)
    edge.clock.advance(minutes=1)
    before = edge.log()
    again = erase(edge, run, json={"reason": "another"})
    assert (again.status_code, again.content) == (200, first.content)
    assert edge.log() == before
    event = edge.data("/v1/events?type=run.erased&limit=100")[-1]
    assert (event["subject"]["id"], event["payload"]) == (run, ERASED_FIELDS)


def test_the_erasure_of_an_unknown_run_is_a_404(edge: Edge) -> None:
    record = edge.data(f"/v1/execution/{edge.fresh()}")["id"]
    for run in ("RUN-26-999999", "nonsense", "LIN-26-000001", record):
        assert_problem(erase(edge, run), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [{}, {"reason": None}, {"reason": ""}, {"reason": "x" * 501}, {"reason": 5}, [], "x",
     {"reason": "x", "more": 1}],
    ids=str,
)  # fmt: skip
def test_a_wrong_reason_is_a_422_and_changes_nothing(edge: Edge, body: Any) -> None:
    run = run_of(edge)
    before = edge.log()
    answer = erase(edge, run, content=dumps(body), headers=PLAIN)
    assert_problem(answer, 422, "invalid_request")
    assert edge.log() == before
    assert edge.data(f"/v1/runs/{run}")["input"] == {"said": "input"}


def test_checks_come_in_the_order_403_404_422_409(edge: Edge) -> None:
    wrong, reader = {"json": {"reason": ""}}, edge.token("read", "write", "service_lines:manage")
    assert_problem(erase(edge, "RUN-26-999999", reader, **wrong), 403, "forbidden")
    assert_problem(erase(edge, "RUN-26-999999", **wrong), 404, "not_found")
    (item,) = edge.accept(fact("run.started", None, {"service_line_id": edge.fresh()}))
    assert_problem(erase(edge, item["subject"], **wrong), 422, "invalid_request")
    assert_problem(erase(edge, item["subject"]), 409, "invalid_state")
    assert erase(edge, run_of(edge), json={"reason": "x" * 500}).status_code == 200


def test_the_permission_to_erase_is_enough_to_erase(edge: Edge) -> None:
    token = edge.token("runs:erase", workspace_id=WORKSPACE)
    assert erase(edge, run_of(edge), token).status_code == 200


def test_an_erasure_under_an_idempotency_key_is_replayed(edge: Edge) -> None:
    """A replay shows neither later facts of the run nor the erased payloads."""
    line = edge.fresh()
    (begun,) = edge.accept(fact("run.started", None, {"service_line_id": line, "input": "input"}))
    run, late = begun["subject"], edge.clock.now.isoformat()
    edge.clock.advance(seconds=1)
    edge.accept(fact("service_line.closed", line))
    keyed = REASON | {"headers": {"idempotency-key": "erase-1"}}
    first = erase(edge, run, **keyed)
    edge.accept(fact("run.failed", run, {"output": "output"}, time=late))
    again = erase(edge, run, **keyed)
    assert (first.json()["data"]["status"], again.status_code) == ("cancelled", 200)
    assert again.content == first.content
    assert again.headers["ledger-position"] == first.headers["ledger-position"]
    assert again.headers["idempotency-replayed"] == "true"
    other = keyed | {"json": {"reason": "another"}}
    assert_problem(erase(edge, run, **other), 422, "idempotency_key_reused")
    # An erasure that found the run erased already is replayed too.
    twice = [erase(edge, run, **REASON, headers={"idempotency-key": "erase-2"}) for _ in "12"]
    assert [a.headers.get("idempotency-replayed") for a in twice] == [None, "true"]
    assert [a.json()["data"]["status"] for a in twice] == ["failed", "failed"]


# The erasure in the feed, in webhooks and in the audit log.


def test_the_feed_the_history_and_the_event_route_show_the_same_erasure(edge: Edge) -> None:
    line = edge.fresh()
    run = run_of(edge, line)
    position = int(erase(edge, run).headers["ledger-position"])
    (event,) = edge.data(f"/v1/events?service_line_id={line}&type=run.erased")
    assert (event["position"], event["subject"]) == (position, {"type": "run", "id": run})
    assert event["payload"] == ERASED_FIELDS
    assert (event["service_line_id"], event["organization_id"]) == (line, ORGANIZATION)
    assert event["actor"]["id"] == event["reported_by"]
    assert edge.data(f"/v1/events/{event['id']}") == event
    item = edge.data(f"/v1/execution/{line}/history")[-1]
    assert item == event | {"state_before": "running", "state_after": "running"}
    schema = edge.get("/v1/event-types/run.erased").json()
    jsonschema_rs.validator_for(schema).validate(event)


def test_a_webhook_gets_the_erasure(hooks: Hooks) -> None:
    edge = hooks.edge
    run = run_of(edge, None, token=(admin := hooks.admin))
    with Receiver() as receiver:
        hooks.create(url=receiver.url, event_types=["run.erased"])
        assert erase(edge, run, admin).status_code == 200

        def has_arrived() -> bool:
            edge.clock.advance(seconds=1)
            return len(receiver.requests) == 1

        until(has_arrived, "the delivery")
        body = json.loads(receiver.requests[0].body)
    assert (body["type"], body["sequence"], body["subject"]["id"]) == ("run.erased", 1, run)
    assert body["payload"] == ERASED_FIELDS


def test_the_audit_log_has_who_erased_the_run_when_and_why(tenant: Tenant) -> None:
    edge, may = tenant.edge, tenant.new_token("runs:erase")
    run = run_of(edge, tenant.line(), token=tenant.token)
    before = tenant.log()
    assert_problem(erase(edge, run, tenant.token), 403, "forbidden")
    assert_problem(erase(edge, run, may, json={}), 422, "invalid_request")
    assert_problem(erase(edge, "RUN-26-999999", may), 404, "not_found")
    edge.clock.advance(minutes=1)
    why = {"reason": "=a formula?"}
    erased_at = erase(edge, run, may, json=why).json()["data"]["erased_at"]
    # The run is erased already: no write, and no entry.
    assert erase(edge, run, may).status_code == 200
    entries = tenant.log()[len(before) :]
    assert [(entry["action"], entry["code"]) for entry in entries] == [
        ("run.erase", "forbidden"),
        ("run.erase", "invalid_request"),
        ("run.erase", "not_found"),
        ("run.erase", None),
    ]
    done = entries[-1]
    assert done["resource"] == {"type": "run", "id": run} | why
    assert (done["occurred_at"], done["outcome"]) == (erased_at, "succeeded")
    assert done["actor"] == {"type": "api_key", "id": done["reported_by"]}
    assert tenant.log(action="run.erase", outcome="succeeded") == [done]
    table = edge.get(
        f"/v1/audit-logs/export?organization_id={tenant.organization}&format=csv", tenant.token
    )
    row = list(csv.DictReader(io.StringIO(table.text)))[-1]
    assert (row["action"], row["reason"]) == ("run.erase", "'=a formula?")
